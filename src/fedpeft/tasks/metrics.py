"""Scores of a classification."""

from collections.abc import Sequence

from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef


def classification_scores(predictions: Sequence[int], labels: Sequence[int], num_labels: int) -> dict[str, float]:
    """Accuracy and macro F1 in 0..1 and Matthews' coefficient in -1..1.

    Macro F1 is over the classes that occur among labels or predictions: a client may not hold all `num_labels`.
    Matthews' coefficient is 0 where it is not defined (one class only).
    """
    present = [c for c in range(num_labels) if c in set(labels) | set(predictions)]
    return {
        "accuracy": float(accuracy_score(labels, predictions)),
        "macro_f1": float(f1_score(labels, predictions, labels=present, average="macro", zero_division=0)),
        "matthews": float(matthews_corrcoef(labels, predictions)) if len(present) > 1 else 0.0,
    }

"""Scores of predicted labels and of predicted numbers.

scikit-learn and SciPy's statistics are imported where they are first needed: they would delay the first training step.
"""

from collections.abc import Sequence


def score_labels(predictions: Sequence[int], labels: Sequence[int], num_labels: int) -> dict[str, float]:
    """Accuracy, F1 and macro F1 in 0..1 and Matthews' coefficient in -1..1.

    F1 is that of the label of index 1, as GLUE has it for pairs; 0 where it occurs in neither predictions nor labels.
    Macro F1 is over the classes that occur among labels or predictions: a client may not have all `num_labels`.
    Matthews' coefficient is 0 where it is not defined (one class only).
    """
    from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

    present = [c for c in range(num_labels) if c in set(labels) | set(predictions)]
    return {
        "accuracy": float(accuracy_score(labels, predictions)),
        "f1": float(f1_score([label == 1 for label in labels], [p == 1 for p in predictions], zero_division=0)),
        "macro_f1": float(f1_score(labels, predictions, labels=present, average="macro", zero_division=0)),
        "matthews": float(matthews_corrcoef(labels, predictions)) if len(present) > 1 else 0.0,
    }


def score_numbers(predictions: Sequence[float], values: Sequence[float]) -> dict[str, float]:
    """Pearson's and Spearman's correlation and their mean, in -1..1: GLUE's scores of STS-B.

    All are 0 where correlation is not defined: one example, or one value throughout.
    """
    from scipy.stats import pearsonr, spearmanr

    is_constant = len(set(predictions)) < 2 or len(set(values)) < 2
    pearson = 0.0 if is_constant else float(pearsonr(predictions, values).statistic)
    spearman = 0.0 if is_constant else float(spearmanr(predictions, values).statistic)
    return {"correlation": (pearson + spearman) / 2, "pearson": pearson, "spearman": spearman}

"""What is odd about the labels of a data set, told to its user: nothing here is refused."""

import re
from collections.abc import Iterable, Mapping

LONG = 40  # characters, on average, from which labels read like texts
MISSING = frozenset({"none", "null", "n/a", "na", "unknown", "undefined", "missing", "?", "-"})  # in lower case
SHOWN = 5  # labels that one line names


def find_label_problems(counts: Mapping[str, int]) -> list[str]:
    """Lines on labels that may be one, that may be gaps, that have next to no rows, and that look like no labels.

    `counts` are rows by label; a label that the task names and no row has counts 0.
    """
    checks = {
        "labels that may be one and the same: {}; if so write them alike": _find_alike(counts),
        "labels that may stand for a missing value: {}; if so fill the rows or remove them": [
            [name for name in counts if name.lower() in MISSING]
        ],
        "labels with too few rows for training, validation and test: {}; add rows or leave them out": [
            [name for name, count in counts.items() if count < 3]
        ],
        "labels that are numbers with decimals: {}; `kind: regression` predicts numbers": [
            [name for name in counts if _is_decimal(name)]
        ],
        "labels as long as texts: {}; is it another column?": [
            list(counts) if sum(map(len, counts)) > LONG * len(counts) else []
        ],
    }
    return [line.format(_show(names, counts)) for line, groups in checks.items() for names in groups if names]


def _find_alike(names: Iterable[str]) -> list[list[str]]:
    """Groups of names that differ by case, space and punctuation, by how a number is written, or as a word and its
    abbreviation do ("pos", "Positive")."""
    groups: list[tuple[str, list[str]]] = []  # what the first of the names begins with, and the names
    for key, name in sorted((_normalise(name), name) for name in names):
        start, group = groups[-1] if groups else ("", [])
        is_word = len(start) >= 3 and name.isalpha() and group[0].isalpha()
        if group and (key == start or (is_word and key.startswith(start))):
            group.append(name)
        else:
            groups.append((key, [name]))
    return [group for _, group in groups if len(group) > 1]


def _normalise(name: str) -> str:
    try:
        return repr(float(name))  # 1, 1.0, +1
    except ValueError:
        letters = re.sub(r"[\W_]+", "", name.casefold())
        return letters or name


def _is_decimal(name: str) -> bool:
    return re.fullmatch(r"[+-]?\d*\.\d*[1-9]\d*(e[+-]?\d+)?", name, re.IGNORECASE) is not None


def _show(names: list[str], counts: Mapping[str, int]) -> str:
    """The first of the names with their rows."""
    shown = ", ".join(f"{name!r} ({counts[name]} rows)" for name in names[:SHOWN])
    return shown + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")

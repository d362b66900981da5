"""A failed validation as one line: the place, the reason, the value and the near name."""

from typing import Any, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fedpeft.config.validation import first_error


class Inner(BaseModel):
    model_config = ConfigDict(extra="forbid")
    layers: Literal["all"] | list[int] = "all"
    rank: int = Field(1, le=8)


class Outer(BaseModel):
    model_config = ConfigDict(extra="forbid")
    inner: Inner = Field(default_factory=Inner)
    several: list[Inner] = Field(default_factory=list)
    name: str


def describe(raw: Any, *prefix: str) -> str:
    with pytest.raises(ValidationError) as caught:
        Outer.model_validate(raw)
    return first_error(caught.value, Outer, prefix)


@pytest.mark.parametrize(
    ("raw", "line"),
    [
        ({}, "missing key 'name'"),
        ({"name": "a", "inner": {"rnk": 1}}, "unknown key 'inner.rnk', did you mean 'rank'?; known: layers, rank"),
        ({"name": "a", "inner": {"rank": 9}}, "inner.rank: input should be less than or equal to 8, received 9"),
        (
            {"name": "a", "several": [{"rank": 9}]},
            "several.0.rank: input should be less than or equal to 8, received 9",
        ),
        (
            {"name": "a", "inner": {"layers": 5}},
            "inner.layers: input should be 'all' or input should be a valid list, received 5",
        ),
        ({"name": "a", "none": 1}, "unknown key 'none', did you mean 'inner'?; known: inner, several, name"),
        ({"name": "a", "inner": {"list[int]": 1}}, "unknown key 'inner.list[int]'; known: layers, rank"),
        ([], "input should be a valid dictionary, received []"),
        ({"name": ["x"] * 1000}, "name: input should be a valid string, received ['x', 'x', 'x', 'x', 'x', 'x', ...]"),
    ],
)
def test_one_line(raw, line):
    assert describe(raw) == line


def test_keys_and_values_of_any_size_are_shortened():
    assert len(describe({"name": "a", "k" * 10**6: 1})) < 150
    assert len(describe({"name": {"a" * 10**6: "b" * 10**6}})) < 150


def test_a_prefix_stands_before_the_place():
    assert describe({}, "methods", "fedit") == "missing key 'methods.fedit.name'"

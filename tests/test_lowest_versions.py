"""The versions that `make test-lowest` installs are the floors that pyproject.toml states."""

import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FLOORS = dict(
    line.split(">=") for line in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
)
LINES = (ROOT / "constraints-lowest.txt").read_text().splitlines()
PINS = dict(line.split("==") for line in LINES if not line.startswith("#"))


def test_every_dependency_is_pinned():
    assert PINS.keys() == FLOORS.keys()


@pytest.mark.parametrize("name", sorted(FLOORS.keys() - {"torch"}))  # of the floor of torch there is no small build
def test_the_pin_is_the_floor(name):
    floor, pin = FLOORS[name].split("."), PINS[name].split(".")
    assert pin[: len(floor)] == floor and not any(int(part) for part in pin[len(floor) :])

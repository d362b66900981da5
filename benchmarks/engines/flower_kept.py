"""Flower's simulation where an actor keeps its model between messages."""

from functools import partial

from flower_simulation import run
from work import contest

if __name__ == "__main__":
    contest(partial(run, keep=True), ("flwr", "ray"))

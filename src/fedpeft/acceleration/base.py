"""The one shape of an acceleration: something exact, done once to a model or around a client's turn on it."""

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

from fedpeft.adapters import AdaptedModel


class Turn(Protocol):
    """What an acceleration may ask of the client whose turn it is."""

    @property
    def checkpointing(self) -> bool:
        """Whether the client was given activation checkpointing."""

    def token_rows(self) -> Iterable[list[tuple[int, ...]]]:
        """The token ids of the client's examples, split by split."""


class Acceleration:
    """An exact optimisation of forward and backward passes: results change by rounding at most.

    One file each; deleting the file and its line in `fedpeft.acceleration` leaves everything else running.
    """

    def install_(self, model: AdaptedModel) -> None:
        """Changes the model's forwards for good. Called once for each clone that will train or predict."""

    def apply(self, model: AdaptedModel, client: Turn) -> AbstractContextManager[None]:
        """Context manager for one client's turn on the model, be it training or evaluation."""
        return nullcontext()

    def is_useful(self, model: AdaptedModel) -> bool:
        """Whether it can change anything for this model."""
        return True

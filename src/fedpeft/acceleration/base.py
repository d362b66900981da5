"""The contract of an acceleration: an exact optimisation, installed in a model once or applied while a client runs."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import ClassVar, Protocol

from fedpeft.adapters import AdaptedModel


class ClientView(Protocol):
    """The part of a client that accelerations read."""

    @property
    def uses_checkpointing(self) -> bool:
        """Whether the client was given activation checkpointing."""

    def iterate_token_ids(self) -> Iterator[list[tuple[int, ...]]]:
        """Yields the token ids of the client's examples, split by split."""


class Acceleration:
    """An exact optimisation of forward and backward passes: results change by rounding at most.

    One file each; when the file is deleted, with its import and entry in `fedpeft.acceleration`, everything else runs.
    """

    provides_checkpointing: ClassVar[bool] = False  # to clients that were given activation checkpointing

    def install_(self, model: AdaptedModel) -> None:
        """Changes the model's forwards for good; called once for each clone that trains or predicts."""

    def apply(self, model: AdaptedModel, client: ClientView) -> AbstractContextManager[None]:
        """Context manager in which the client trains or evaluates the model."""
        return nullcontext()

    def is_useful(self, model: AdaptedModel) -> bool:
        """Whether the acceleration can change anything for this model."""
        return True

"""What one client was given to train with: the settings by which a method fits its memory, its uplink and its time."""

from dataclasses import dataclass, fields


@dataclass(frozen=True)
class ClientResources:
    """A client's own configuration; None leaves a setting to the method's options."""

    rank: int | None = None  # of its adapter
    layers: tuple[int, ...] | None = None  # adapted blocks, counted from 0; backpropagation stops below the first
    density: float = 1.0  # fraction of the rows of every B that it trains or sends
    micro_batch: int | None = None  # examples per forward pass; gradients accumulate to the batch
    checkpointing: bool = False  # recompute activations in the backward pass

    def list_given(self) -> list[str]:
        """The names of the settings that are given, not left to the method."""
        return [field.name for field in fields(self) if getattr(self, field.name) != field.default]

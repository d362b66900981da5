"""How long a sequence may be where positions are looked up in a table."""

from torch import nn

from fedpeft.errors import UserError

_TABLES = {"position_embeddings", "embed_positions", "positions_embed", "wpe"}


def count_positions(model: nn.Module) -> int | None:
    """The most tokens that the model can read; None for relative and rotary positions, which have no end."""
    counts = [
        module.num_embeddings - getattr(module, "offset", 0 if module.padding_idx is None else module.padding_idx + 1)
        for name, module in model.named_modules()
        if isinstance(module, nn.Embedding) and name.split(".")[-1] in _TABLES
    ]
    return min(counts, default=None)


def require_positions(model: nn.Module, needed: int, setting: str) -> None:
    """Raises `UserError` where the model cannot read `needed` tokens; `setting` says what asks for them."""
    count = count_positions(model)
    if count is not None and needed > count:
        raise UserError(f"{setting}: this model has {count} positions; lower it. Received: {needed} tokens")

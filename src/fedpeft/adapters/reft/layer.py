"""A transformer block with interventions on its output."""

from typing import Any, NamedTuple

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from fedpeft.adapters.kind import OutputEdit
from fedpeft.adapters.reft.config import LoReftConfig
from fedpeft.adapters.reft.positions import Positions, PromptTracker
from fedpeft.errors import UserError


def orthonormalise_rows(matrix: Tensor) -> Tensor:
    """The orthonormal factor of (..., r, d) with r <= d, by a QR whose triangle has a positive diagonal.

    The fixed signs make it a retraction: rows that are orthonormal already come back unchanged, up to rounding.
    """
    q, triangle = torch.linalg.qr(matrix.mT)  # (..., d, r), (..., r, r)
    signs = torch.where(triangle.diagonal(dim1=-2, dim2=-1) < 0, -1.0, 1.0).to(q.dtype)  # (..., r)
    return (q * signs.unsqueeze(-2)).mT


class EditSettings(NamedTuple):
    """How one adapter edits a block's output."""

    positions: Positions
    tied: bool
    subtracts_R: bool  # whether the edit has the term - R h


class LoReftLayer(nn.Module, BaseTunerLayer, OutputEdit):
    """A block whose output h becomes h + R^T (W h + b - R h) at the chosen prompt positions.

    LoReFT eq. 2 [paper]. `noreft` is the same without the constraint on R; `direft` is h + R^T (W h + b). Parameters
    of each adapter: `reft_R` (g, r, d), `reft_W` (g, r, d), `reft_b` (g, r), with g = 2 where prefix and
    suffix have their own intervention and 1 otherwise. Every start is the identity with gradients that are
    not zero: W = R, b = 0 (`direft`: W = 0, b = 0), R with random orthonormal rows from torch's global
    generator.

    Adapters that are active together each edit the same h, and their edits add up (ours [choice], as for LoRA).
    """

    adapter_layer_names = ("reft_R", "reft_W", "reft_b")

    def __init__(self, base_layer: nn.Module, tracker: PromptTracker) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.tracker = tracker
        self.reft_R = nn.ParameterDict()
        self.reft_W = nn.ParameterDict()
        self.reft_b = nn.ParameterDict()
        self.settings: dict[str, EditSettings] = {}  # by adapter
        self.merged_adapters: list[str] = []
        # A hook on the block instead of code in forward(), because transformers records `output_hidden_states` with
        # hooks on the block itself, which must see the edited state.
        self._handle = base_layer.register_forward_hook(self._edit_output, prepend=True)

    def update_layer(self, adapter_name: str, config: LoReftConfig, width: int) -> None:
        """Adds an adapter for hidden states of `width` d. Raises `UserError` when its rank is larger than d."""
        if config.r > width:
            raise UserError(f"r: the rank cannot exceed the hidden size {width}. Received: {config.r}")
        positions = Positions.parse(config.positions)
        groups = positions.count_groups(config.tied)
        weight = next(self.base_layer.parameters())
        dtype = torch.promote_types(torch.float32, weight.dtype)  # float32 beside bfloat16 and quantised blocks
        options: dict[str, Any] = {"dtype": dtype, "device": weight.device}
        rows = orthonormalise_rows(torch.randn(groups, config.r, width, **options))  # (g, r, d)
        self.reft_R[adapter_name] = nn.Parameter(rows)
        start = torch.zeros_like(rows) if config.variant == "direft" else rows.clone()
        self.reft_W[adapter_name] = nn.Parameter(start)
        self.reft_b[adapter_name] = nn.Parameter(torch.zeros(groups, config.r, **options))
        self.settings[adapter_name] = EditSettings(positions, config.tied, config.variant != "direft")

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.base_layer(*args, **kwargs)

    def _edit_output(self, block: nn.Module, args: Any, output: Any) -> Any:
        if self.disable_adapters or not self.tracker.is_editing:
            return output
        if isinstance(output, tuple):
            return (self.edit(output[0]), *output[1:])
        return self.edit(output)

    def edit(self, hidden: Tensor) -> Tensor:
        """The edited states, of the shape (batch, length, d) and dtype of `hidden`.

        All groups share one projection to width g * r and one back.
        """
        result = hidden
        for name in self.active_adapters:
            if name not in self.settings:
                continue
            positions, tied, subtracts_R = self.settings[name]
            R, W, b = self.reft_R[name], self.reft_W[name], self.reft_b[name]
            down = (W - R if subtracts_R else W).flatten(0, 1).to(hidden.dtype)  # (g * r, d)
            inner = nn.functional.linear(hidden, down, b.flatten().to(hidden.dtype))  # (batch, length, g * r)
            mask = self.tracker.get_mask(positions, tied, R.shape[1], inner.dtype, inner.shape[:2])
            if mask is not None:
                inner = inner * mask.to(inner.device)  # blocks may be on several devices
            result = result + inner @ R.flatten(0, 1).to(hidden.dtype)
        return result

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Raises `UserError`: there is no weight to merge an edit of hidden states into."""
        raise UserError("LoReFT edits hidden states, so there is no weight to merge it into: use unload() instead.")

    def delete_adapter(self, adapter_name: str) -> None:
        """Deletes an adapter and its settings."""
        self.settings.pop(adapter_name, None)
        super().delete_adapter(adapter_name)

    def remove_hook(self) -> None:
        """Ends the edits for good; called when the block is unwrapped."""
        self._handle.remove()

    def __getattr__(self, name: str) -> Any:
        # Models read attributes of their blocks, `attention_type` for example.
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "base_layer":  # not there yet, in the middle of a deep copy
                raise
            return getattr(self.base_layer, name)

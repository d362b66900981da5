"""A transformer block with interventions on its output."""

from typing import Any, NamedTuple

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from fedpeft.adapters.kind import OutputEdit
from fedpeft.adapters.reft.config import LoReftConfig
from fedpeft.adapters.reft.positions import Positions
from fedpeft.adapters.reft.prompt import Prompt, PromptTracker
from fedpeft.errors import UserError

PROMPT_ARGUMENT = "reft_prompt"  # the keyword argument by which a block is told the prompt of its forward


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
        self._prompt: Prompt | None = None  # of the block's forward that is running; None: nothing is edited
        # Hooks on the block instead of code in forward(), because transformers records `output_hidden_states` with
        # hooks on the block itself, which must see the edited state.
        self._handles = (
            base_layer.register_forward_pre_hook(self._take_prompt, with_kwargs=True, prepend=True),
            base_layer.register_forward_hook(self._edit_output, prepend=True),
        )

    def update_layer(self, adapter_name: str, config: LoReftConfig, width: int) -> None:
        """Adds an adapter for hidden states of `width` d, at least its rank."""
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
        # transformers up to 5.22 checkpoints a block with its hooks, and runs both again in the backward pass, with
        # these arguments, when another forward may have begun: the prompt is bound here.
        return self.base_layer(*args, **kwargs, **{PROMPT_ARGUMENT: self.tracker.prompt})

    def _take_prompt(self, block: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        self._prompt = kwargs.pop(PROMPT_ARGUMENT, self.tracker.prompt)
        return args, kwargs

    def _edit_output(self, block: nn.Module, args: Any, output: Any) -> Any:
        prompt, self._prompt = self._prompt, None
        if self.disable_adapters or prompt is None:
            return output
        if isinstance(output, tuple | list):
            return type(output)((self.edit(output[0], prompt), *output[1:]))
        if not isinstance(output, Tensor):
            raise UserError(
                "LoReFT edits the hidden states that a block returns, alone or first in a tuple; use LoRA for this "
                f"model. Received: a {type(output).__name__} from {type(block).__name__}"
            )
        return self.edit(output, prompt)

    def edit(self, hidden: Tensor, prompt: Prompt) -> Tensor:
        """The states edited at the prompt's positions, of the shape (batch, length, d) and dtype of `hidden`.

        All groups share one projection to width g * r and one back.
        """
        result = hidden
        for name in self.active_adapters:
            if name not in self.settings:
                continue
            positions, tied, subtracts_R = self.settings[name]
            R, W, b = self.reft_R[name], self.reft_W[name], self.reft_b[name]
            if hidden.shape[-1] != R.shape[-1]:
                raise UserError(
                    f"LoReFT edits hidden states (batch, length, {R.shape[-1]}), the last as config.hidden_size says; "
                    f"the blocks of this model have others: use LoRA. Received: {tuple(hidden.shape)}"
                )
            down = (W - R if subtracts_R else W).flatten(0, 1).to(hidden.dtype)  # (g * r, d)
            inner = nn.functional.linear(hidden, down, b.flatten().to(hidden.dtype))  # (batch, length, g * r)
            mask = prompt.get_mask(positions, tied, R.shape[1], inner.dtype, inner.shape[:2])
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

    def remove_hooks(self) -> None:
        """Ends the edits for good; called when the block is unwrapped."""
        for handle in self._handles:
            handle.remove()

    def __getattr__(self, name: str) -> Any:
        # Models read attributes of their blocks, `attention_type` for example.
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "base_layer":  # not there yet, in the middle of a deep copy
                raise
            return getattr(self.base_layer, name)

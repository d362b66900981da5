"""A model that a program gives instead of naming one: any module with transformer blocks, and its tokenizer."""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from fedpeft.backbones.blocks import find_blocks
from fedpeft.backbones.decoder import prepare_decoder_
from fedpeft.backbones.heads import Pooling, SequenceClassifier
from fedpeft.errors import UserError, preview

_FORWARD = "forward(input_ids=..., attention_mask=...), both (batch, length), must return states (batch, length, width)"


class GivenBackbone(nn.Module):
    """A module that is no transformers model, as one: its states as `last_hidden_state`.

    `module` takes `input_ids` and `attention_mask` and returns states (batch, length, width), alone, first of a tuple,
    or as `last_hidden_state`. Raises UserError where it does not.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        sizes = [table.num_embeddings for table in module.modules() if isinstance(table, nn.Embedding)]
        self.config = PretrainedConfig()
        self.config.vocab_size = min(sizes, default=1)  # probes stay within it
        tokens = torch.zeros(1, 2, dtype=torch.long, device=self.device)
        try:
            with torch.no_grad():
                width = self(tokens, torch.ones_like(tokens)).last_hidden_state.shape[-1]
        except UserError:
            raise
        except Exception as error:  # the boundary to a user's own module
            raise UserError(f"model: {_FORWARD}; {type(error).__name__}: {error}") from error
        self.config.hidden_size = width

    @property
    def device(self) -> torch.device:
        """The device that inputs go to."""
        return next(self.module.parameters()).device

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> BaseModelOutput:
        """States (batch, length, width) of token ids (batch, length)."""
        output = self.module(input_ids=input_ids, attention_mask=attention_mask)
        states = getattr(output, "last_hidden_state", output[0] if isinstance(output, tuple) else output)
        if not isinstance(states, Tensor) or states.dim() != 3 or states.shape[:2] != input_ids.shape:
            shape = tuple(states.shape) if isinstance(states, Tensor) else type(states).__name__
            raise UserError(f"model: {_FORWARD}, received {shape}")
        return BaseModelOutput(last_hidden_state=states)


def require_model(module: Any, tokenizer: Any) -> None:
    """Raises UserError for what is no model with blocks, or no tokenizer that can serve it."""
    if not isinstance(module, nn.Module):
        raise UserError(f"model: expected a torch.nn.Module, received {preview(module)}; name one in model.name")
    if not callable(tokenizer) or not hasattr(tokenizer, "pad_token_id"):
        raise UserError(f"tokenizer: give the model's own, as transformers has it, received {preview(tokenizer)}")
    if tokenizer.pad_token_id is None and tokenizer.eos_token is None:
        raise UserError("tokenizer: it has neither a padding token nor an end token; set its pad_token")
    find_blocks(module)


def _share_tensors(module: nn.Module) -> nn.Module:
    """A copy in eval mode over the same memory, whose parameters are frozen: the module given stays as it is."""
    memo: dict[int, Any] = {id(p): nn.Parameter(p.detach(), requires_grad=False) for p in module.parameters()}
    memo |= {id(buffer): buffer for buffer in module.buffers()}
    return copy.deepcopy(module, memo).eval()


def _copy_tokenizer(tokenizer: Any) -> Any:
    copied = copy.deepcopy(tokenizer)
    if copied.pad_token is None:
        copied.pad_token = copied.eos_token
    return copied


def adopt_encoder(module: nn.Module, tokenizer: Any, *, num_labels: int, pooling: Pooling) -> tuple[nn.Module, Any]:
    """The model given under a new classification head, drawn from torch's global generator, and its tokenizer."""
    shared: Any = _share_tensors(module)
    if hasattr(shared, "pooler") and isinstance(module, PreTrainedModel):
        shared.pooler = None
    backbone: Any = shared if isinstance(module, PreTrainedModel) else GivenBackbone(shared)
    backbone.config = copy.deepcopy(backbone.config)
    return SequenceClassifier(backbone, num_labels, pooling).eval(), _copy_tokenizer(tokenizer)


def adopt_decoder(module: nn.Module, tokenizer: Any) -> tuple[nn.Module, Any]:
    """The causal language model given, and its tokenizer. Raises UserError where it is no model of transformers."""
    if not isinstance(module, PreTrainedModel) or module.get_output_embeddings() is None:
        raise UserError(
            f"model: a task that writes text needs a causal language model of transformers, received "
            f"{type(module).__name__}"
        )
    shared: Any = _share_tensors(module)
    copied = _copy_tokenizer(tokenizer)
    prepare_decoder_(shared, copied)
    return shared, copied

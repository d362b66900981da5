"""Loads a frozen decoder that generates text."""

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from fedpeft.backbones.pretrained import DeviceMap, load_pretrained


class OutputLinear(nn.Linear):
    """A linear output layer that autocast leaves in its stored dtype.

    In bfloat16 logits keep about three digits, so that different tokens would tie.
    """

    def forward(self, hidden: Tensor) -> Tensor:
        """(..., width) -> (..., vocabulary), in the weight's dtype."""
        with torch.autocast(hidden.device.type, enabled=False):
            return super().forward(hidden.to(self.weight.dtype))


def load_decoder(
    name: str,
    *,
    dtype: str = "float32",
    device: str = "cpu",
    quantization: str | None = None,
    device_map: DeviceMap = None,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The named causal language model, in eval mode, and its tokenizer, which has a padding token and pads on the left.

    With padding on the left every row of a batch continues where its own prompt ends. Of the model's generation config
    only the special tokens are kept. For the arguments and the errors raised see `load_pretrained`.
    """
    model, tokenizer = load_pretrained(
        AutoModelForCausalLM, name, dtype=dtype, device=device, quantization=quantization, device_map=device_map
    )
    prepare_decoder_(model, tokenizer)
    return model, tokenizer


def prepare_decoder_(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Makes a model decode greedily by default with unrounded logits, and its tokenizer pad on the left."""
    tokenizer.padding_side = "left"
    recommended = model.generation_config
    # Defaults that a model ships with (a repetition penalty, top-p) would apply wherever the caller sets nothing, and
    # greedy decoding would no longer be greedy.
    model.generation_config = GenerationConfig(
        bos_token_id=recommended.bos_token_id,
        eos_token_id=recommended.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,  # fills rows that end early
    )
    output = model.get_output_embeddings()
    if type(output) is nn.Linear:
        output.__class__ = OutputLinear  # the same module under the same name: tied weights stay tied

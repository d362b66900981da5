"""Load a frozen decoder that writes text."""

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from fedpeft.backbones.pretrained import DeviceMap, load_pretrained


class OutputLinear(nn.Linear):
    """The layer of the logits, as it is stored also under autocast: logits rounded to three digits would tie."""

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
    """The named causal language model in eval mode, and its tokenizer: with a padding token, and padding on the left,
    so that every row of a batch goes on where its prompt ends. Of the model's generation config only the special tokens
    are kept.

    The arguments and what they raise: see `load_pretrained`.
    """
    model, tokenizer = load_pretrained(
        AutoModelForCausalLM, name, dtype=dtype, device=device, quantization=quantization, device_map=device_map
    )
    tokenizer.padding_side = "left"
    own = model.generation_config
    # What the model's makers recommend (a penalty on repetition, top-p) would stay in force where nothing else is said,
    # and greedy would not be greedy.
    model.generation_config = GenerationConfig(
        bos_token_id=own.bos_token_id,
        eos_token_id=own.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,  # rows that end early are filled with it
    )
    output = model.get_output_embeddings()
    if type(output) is nn.Linear:
        output.__class__ = OutputLinear  # the same module under the same name, weights tied as they were
    return model, tokenizer

"""Load a frozen decoder that writes text."""

from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from fedpeft.adapters.pretrained import DeviceMap, load_pretrained


def load_decoder(
    name: str,
    *,
    dtype: str = "float32",
    device: str = "cpu",
    quantization: str | None = None,
    device_map: DeviceMap = None,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The named causal language model in eval mode, and its tokenizer: with a padding token, and padding on the left,
    so that every row of a batch goes on where its prompt ends.

    The arguments and what they raise: see `load_pretrained`.
    """
    model, tokenizer = load_pretrained(
        AutoModelForCausalLM, name, dtype=dtype, device=device, quantization=quantization, device_map=device_map
    )
    tokenizer.padding_side = "left"
    model.generation_config.pad_token_id = tokenizer.pad_token_id  # rows that end early are filled with it
    return model, tokenizer

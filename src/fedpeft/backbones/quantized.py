"""Backbones quantised to 8 or 4 bits by bitsandbytes, on a GPU or, slowly, on a CPU."""

from importlib.util import find_spec

import torch
from torch import nn
from transformers import BitsAndBytesConfig

from fedpeft.errors import UserError

QUANTIZATIONS = ("8bit", "4bit")


def make_quantization_config(quantization: str, dtype: torch.dtype) -> BitsAndBytesConfig:
    """The configuration with which transformers loads a model in 8 or 4 bits.

    `dtype` is the dtype of matrix products in 4 bits. Raises `UserError` for another quantisation and when bitsandbytes
    is not installed.
    """
    if quantization not in QUANTIZATIONS:
        raise UserError(f"quantization: use one of {', '.join(QUANTIZATIONS)} or null. Received: {quantization!r}")
    if find_spec("bitsandbytes") is None:
        raise UserError(f"quantization: {quantization} needs bitsandbytes. Run: pip install 'fedpeft[quantized]'")
    if quantization == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )


def make_shareable_(model: nn.Module) -> None:
    """Lets copies of a quantised model share its weights; call it after the model is on its final device.

    Some layers of bitsandbytes rewrite their weight on their first forward, and a second layer on the same parameter
    then computes nonsense. In 8 bits the scales move from the parameter into the layer: here they move at once, and
    become buffers, which copies of a model share. In 4 bits on a CPU the weights are repacked for inference: that is
    switched off.
    """
    from bitsandbytes.nn import Linear4bit, Linear8bitLt

    for layer in model.modules():
        if isinstance(layer, Linear8bitLt):
            layer.init_8bit_state()
            layer.register_buffer("int8_weight", layer.state.CB, persistent=False)  # (d_out, d_in)
            layer.register_buffer("int8_scale", layer.state.SCB, persistent=False)  # (d_out,)
        elif isinstance(layer, Linear4bit):
            layer.support_avx512bf16_for_cpu = False

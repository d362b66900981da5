"""Tiny random models of every supported architecture, and adapters away from their identity start."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft import get_peft_model
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast
from transformers.pytorch_utils import Conv1D

from fedpeft.adapters import AdaptedModel, get_frozen_delta_names, make_lora_config, take_head
from fedpeft.backbones import SequenceClassifier

ENCODERS = ("bert", "roberta", "mpnet")
DECODERS = ("llama", "qwen2", "qwen3", "mistral", "gpt2")
PAD = 1

torch.set_num_threads(1)


def tiny_config(architecture: str, width: int = 32, layers: int = 3, **options: Any) -> Any:
    """The configuration of a tiny model; `options` are fields of the architecture's own configuration."""
    common: dict[str, Any] = {"vocab_size": 60, "pad_token_id": PAD, "bos_token_id": 0, "eos_token_id": 2} | options
    if architecture == "gpt2":
        sizes = {"n_embd": width, "n_layer": layers, "n_head": 4, "n_positions": 64}
        return AutoConfig.for_model("gpt2", **common, **sizes)
    sizes = {"hidden_size": width, "num_hidden_layers": layers, "intermediate_size": 48, "num_attention_heads": 4}
    if architecture in DECODERS:
        sizes |= {"num_key_value_heads": 2, "head_dim": 8}
    return AutoConfig.for_model(architecture, max_position_embeddings=80, **common, **sizes)


@pytest.fixture
def tiny() -> Callable[..., PreTrainedModel]:
    """tiny("llama") -> a causal language model; tiny("bert") -> an encoder. Weights large enough to matter."""

    def build(architecture: str, seed: int = 0, **sizes: Any) -> PreTrainedModel:
        torch.manual_seed(seed)
        factory = AutoModelForCausalLM if architecture in DECODERS else AutoModel
        model = factory.from_config(tiny_config(architecture, **sizes)).eval()
        _enlarge_weights(model)
        return model

    return build


@pytest.fixture
def folder(tiny, tmp_path) -> Callable[..., str]:
    """A saved tiny LLaMA whose tokenizer has an end token and no padding token."""

    def build(architecture="llama", **special):
        model = tiny(architecture)
        model.config.pad_token_id = None
        model.save_pretrained(str(tmp_path))
        words = Tokenizer(models.WordLevel({"<s>": 0, "<unk>": 1, "</s>": 2, "good": 3, "bad": 4}, unk_token="<unk>"))
        words.pre_tokenizer = pre_tokenizers.Whitespace()
        PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>", **special).save_pretrained(str(tmp_path))
        return str(tmp_path)

    return build


@pytest.fixture
def tiny_classifier() -> Callable[..., SequenceClassifier]:
    """tiny_classifier("bert") -> a classifier of three classes."""

    def build(architecture: str, pooling: Any = "mean", seed: int = 0) -> SequenceClassifier:
        torch.manual_seed(seed)
        backbone = AutoModel.from_config(tiny_config(architecture)).eval()
        _enlarge_weights(backbone)
        return SequenceClassifier(backbone, num_labels=3, pooling=pooling).eval()

    return build


@torch.no_grad()
def _enlarge_weights(model: nn.Module) -> None:
    for parameter in model.parameters():
        if parameter.dim() == 2:
            parameter.mul_(6.0)  # initial weights of 0.02 would make every block close to the identity


@pytest.fixture
def stir() -> Callable[..., None]:
    """stir(model) changes every trainable tensor but R at random, so that no adapter is at its identity start."""

    @torch.no_grad()
    def change(model: nn.Module, seed: int = 1, scale: float = 0.3) -> None:
        generator = torch.Generator().manual_seed(seed)
        for name, parameter in model.named_parameters():
            if parameter.requires_grad and ".reft_R" not in name:
                parameter.add_(scale * torch.randn(parameter.shape, generator=generator).to(parameter.dtype))

    return change


@pytest.fixture
def padded() -> Callable[..., dict[str, torch.Tensor]]:
    """Three sequences of 11, 4 and 1 tokens as input_ids and attention_mask (3, 11), padded on one side."""

    def build(side: str = "right", seed: int = 2) -> dict[str, torch.Tensor]:
        generator = torch.Generator().manual_seed(seed)
        ids = torch.full((3, 11), PAD)
        mask = torch.zeros(3, 11, dtype=torch.long)
        for row, size in enumerate((11, 4, 1)):
            place = slice(11 - size, 11) if side == "left" else slice(0, size)
            ids[row, place] = torch.randint(3, 60, (size,), generator=generator)
            mask[row, place] = 1
        return {"input_ids": ids, "attention_mask": mask}

    return build


@pytest.fixture
def lora_model(tiny_classifier, stir) -> Callable[..., AdaptedModel]:
    """lora_model("gpt2", r=2, density=0.3) -> an adapted model with LoRA on every linear layer, away from its start."""

    def build(
        architecture: str, r: int = 2, seed: int = 1, dtype: torch.dtype | None = None, **options: Any
    ) -> AdaptedModel:
        plain = tiny_classifier(architecture)
        plain.backbone.to(dtype)
        model = get_peft_model(plain, make_lora_config(plain, r=r, alpha=1.5 * r, **options))
        stir(model, seed=seed)
        return AdaptedModel(model)

    return build


lora_slot = lora_model  # an older name, for tests that still use it


@pytest.fixture
def factors() -> Callable[..., dict[str, torch.Tensor]]:
    """factors(model, rank=3) -> random factors of a frozen delta for every LoRA module, in float32."""

    def build(model: AdaptedModel, rank: int, seed: int = 5, scale: float = 0.2) -> dict[str, torch.Tensor]:
        generator = torch.Generator().manual_seed(seed)
        tensors: dict[str, torch.Tensor] = {}
        for module, (d_out, d_in) in model.get_dimensions().items():
            a, b = get_frozen_delta_names(module)
            tensors[a] = scale * torch.randn(rank, d_in, generator=generator)
            tensors[b] = scale * torch.randn(d_out, rank, generator=generator)
        return tensors

    return build


@pytest.fixture
def dense_oracle(tiny_classifier) -> Callable[..., SequenceClassifier]:
    """dense_oracle("gpt2", model, deltas) -> the plain float64 model with `deltas` (d_out, d_in) in its weights.

    `deltas` by LoRA module name; the head is the model's, in its own float32. Built without PEFT and our layers.
    """

    def build(architecture: str, model: AdaptedModel, deltas: dict[str, torch.Tensor]) -> SequenceClassifier:
        plain = tiny_classifier(architecture)
        plain.backbone.double()
        for module, delta in deltas.items():
            layer = plain.get_submodule(module.removeprefix("base_model.model."))
            transposed = isinstance(layer, Conv1D)
            with torch.no_grad():
                layer.weight += delta.double().T if transposed else delta.double()
        head = {n.rsplit(".", 1)[-1]: t for n, t in take_head(model.read()).items()}
        plain.classifier.load_state_dict(head)
        return plain

    return build

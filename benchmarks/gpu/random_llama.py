"""A LLaMA of a given size with random weights, made on the device, and clients with random examples of it."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from fedpeft.acceleration import Acceleration, make_accelerations
from fedpeft.adapters import AdaptedModel, TaskModel
from fedpeft.backbones import count_blocks
from fedpeft.engines import find_engine
from fedpeft.engines.base import Engine, EngineSetup
from fedpeft.engines.templates import TemplateCache
from fedpeft.federation.client import Client, ClientSpec
from fedpeft.federation.federation import Federation
from fedpeft.federation.method import FederationInfo, Method
from fedpeft.federation.randomness import generator
from fedpeft.federation.training_config import TrainingConfig
from fedpeft.methods import find_method
from fedpeft.tasks.encode import Batch, Encoded, Padding
from fedpeft.tasks.kinds.common.token_losses import compute_token_losses

PAD = 0
STEPS, BATCH = 2, 4  # a client's optimiser steps in a round, and the examples of each


@dataclass(frozen=True)
class Size:
    """The shape of a LLaMA, and the longest example: those of Llama 3.2 with a vocabulary of 32,000 [choice]."""

    blocks: int
    width: int
    inner: int
    heads: int
    kv_heads: int
    length: int  # tokens
    vocabulary: int = 32_000


SIZES = {
    "tiny": Size(2, 64, 96, 4, 2, 24, 200),
    "1b": Size(16, 2048, 8192, 32, 8, 256),  # 1.04 billion parameters
    "3b": Size(28, 3072, 8192, 24, 8, 256),  # 2.92 billion
}
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "lora": ("fedit", {"kind": "lora", "r": 8, "alpha": 16}),
    "loreft": ("fedavg_loreft", {"kind": "loreft", "r": 4, "positions": "f4+l4"}),
}


class Answers:
    """A decoder's task, as far as training goes."""

    metric = "loss"

    def losses(self, model: TaskModel, batch: Batch) -> Tensor:
        return compute_token_losses(model, batch)


def make_model(size: Size, device: str) -> nn.Module:
    """The model in bfloat16 and eval mode; equal on each call."""
    config = LlamaConfig(
        vocab_size=size.vocabulary,
        hidden_size=size.width,
        intermediate_size=size.inner,
        num_hidden_layers=size.blocks,
        num_attention_heads=size.heads,
        num_key_value_heads=size.kv_heads,
        max_position_embeddings=4 * size.length,
        tie_word_embeddings=True,
        pad_token_id=PAD,
    )
    torch.manual_seed(0)
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(device):
            model = LlamaForCausalLM(config)
    finally:
        torch.set_default_dtype(default)
    return model.eval().requires_grad_(False)


def count_products(model: nn.Module) -> int:
    """Parameters of the blocks' matrices: a token takes two operations with each in either direction."""
    blocks = (module for name, module in model.named_modules() if ".layers." in name)
    return sum(module.weight.numel() for module in blocks if isinstance(module, nn.Linear))


def make_method(adapter: str, layers: list[int] | None = None) -> Method[Any]:
    """FedAvg of LoRA or of LoReFT, in all blocks or in those of these numbers."""
    name, options = METHODS[adapter]
    kind = find_method(name)
    own = options | ({} if layers is None else {"layers": layers})
    return kind(kind.Options.model_validate({"lr": 1e-4, "adapter": own}))


def list_upper_blocks(model: nn.Module) -> list[int]:
    """The numbers of the upper half of a model's blocks."""
    blocks = count_blocks(model)
    return list(range(blocks // 2, blocks))


def make_examples(client: int, size: Size) -> list[Encoded]:
    """A client's examples: prompts and answers of random tokens, half of the longest to the longest together."""
    draw = generator(client, "examples")
    totals = torch.randint(size.length // 2, size.length + 1, (STEPS * BATCH,), generator=draw).tolist()
    texts = [tuple(torch.randint(3, size.vocabulary, (total,), generator=draw).tolist()) for total in totals]
    return [Encoded(ids[: len(ids) // 2], 0, ids[len(ids) // 2 :]) for ids in texts]


def count_tokens(examples: list[Encoded]) -> int:
    """Tokens of prompts and answers."""
    return sum(len(example.input_ids) + len(example.target) for example in examples)


def make_federation(
    model: nn.Module,
    size: Size,
    method: Method[Any],
    clients: int,
    engine: str = "local",
    accelerations: tuple[Acceleration, ...] | None = None,
) -> tuple[Federation, int]:
    """A federation before its first round, and the tokens that its clients train on in a round."""
    specs = [ClientSpec(f"c{index:03d}", STEPS * BATCH) for index in range(clients)]
    template: AdaptedModel = TemplateCache(model, 0).get_template(method.adapter(model, specs[0]))
    initial, examples = template.read(), [make_examples(index, size) for index in range(clients)]
    parties = [
        Client(spec, {"train": rows}, Answers(), Padding(PAD, "left"), initial, 0)  # type: ignore[arg-type]
        for spec, rows in zip(specs, examples, strict=True)
    ]
    training = TrainingConfig(batch_size=BATCH, norm_limit=None)
    templates = {spec.id: template for spec in specs}
    shared = make_accelerations() if accelerations is None else accelerations
    setup = EngineSetup(method, parties, templates, training, 0, 1, shared, 8)
    runner: Engine = find_engine(engine).make(setup)
    dimensions = {spec.id: template.get_dimensions() for spec in specs}
    state = method.start(FederationInfo(tuple(specs), {spec.id: initial for spec in specs}, dimensions), 0)
    return Federation(method, runner, state, specs, specs, training, 0), sum(map(count_tokens, examples))

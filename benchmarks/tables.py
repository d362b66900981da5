"""The tables of benchmarks/results/README.md, made from the JSON beside it.

python benchmarks/tables.py
"""

import json
from pathlib import Path

from fedpeft.display import HEADINGS, cells

RESULTS = Path(__file__).with_name("results")


def markdown(headings: list[str], rows: list[list[str]]) -> str:
    align = ["---", *["---:"] * (len(headings) - 1)]
    return "\n".join("| " + " | ".join(row) + " |" for row in [headings, align, *rows])


def machine(found: dict) -> str:
    env = found["environment"]
    versions = ", ".join(f"{name} {env[name]}" for name in ("python", "torch", "transformers", "peft"))
    return f"{env['processor']}, {env['cores']} cores; {versions}."


def comparison(name: str) -> str:
    found = json.loads((RESULTS / f"{name}.json").read_text())
    base = next(row for row in found["rows"] if row["label"] == "fedit")
    rows = [[*cells(row), f"1/{base['adapter_parameters'] / row['adapter_parameters']:.0f}"] for row in found["rows"]]
    tried = {label: " ".join(f"{lr}: {100 * v:.1f}" for lr, v in rates.items()) for label, rates in
             found["tuned_on_validation"].items()}  # fmt: skip
    lines = [
        f"## {name}",
        f"{len(found['seeds'])} seeds. {machine(found)}",
        markdown([*HEADINGS, "of FedIT's"], rows),
        "Validation accuracy (%) of each learning rate tried, first seed: "
        + "; ".join(f"{label} {what}" for label, what in tried.items())
        + ".",
    ]
    return "\n\n".join(lines)


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


def accuracy(cell: dict) -> str:
    text = f"{100 * cell['mean']:.1f} ± {100 * cell['sd']:.1f}" if cell["accuracy"] else "-"
    return text + (f" ({len(cell['stopped'])} runs stopped: no usable replies)" if cell["stopped"] else "")


def main() -> None:
    parts = [
        "# Results",
        "Made by `python benchmarks/tables.py` from the JSON files here. Times are of a shared machine.",
    ]
    parts += [comparison(name) for name in ("reviews", "sst2") if (RESULTS / f"{name}.json").exists()]
    parts += [ablation(n) for n in (4, 8) if (RESULTS / f"ablation_{n}_clients.json").exists()]
    (RESULTS / "README.md").write_text("\n\n".join(parts) + "\n")
    print(f"wrote {RESULTS / 'README.md'}")


if __name__ == "__main__":
    main()

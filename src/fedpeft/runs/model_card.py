"""The model card (README.md) in a client's adapter folder: what it is, how it was trained, what it scores."""

import inspect
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from fedpeft import __version__
from fedpeft.adapters.kind import AdapterKind
from fedpeft.backbones.licence import find_licence
from fedpeft.backbones.locate import PACKAGE_PREFIX
from fedpeft.errors import printable
from fedpeft.federation.method import Method
from fedpeft.runs.build import RunContext
from fedpeft.runs.export import Card
from fedpeft.runs.files import report_os_errors
from fedpeft.runs.folder import RunFolder
from fedpeft.runs.loading import make_adapter_snippet, make_merged_snippet
from fedpeft.runs.spec import RunSpec
from fedpeft.tasks.examples import SPLITS
from fedpeft.tasks.kinds import find_kind

MODEL_CARD = "README.md"
PEFT_KINDS = ("lora",)  # adapters that PEFT loads by itself
_LOADING = "## Loading it"
_PIPELINES = {False: "text-classification", True: "text-generation"}  # by whether it is a decoder
_STAGES = {
    "deployed": "what this folder holds",
    "received": "what the server sent, after aggregation",
    "trained": "what the last local training left, before aggregation",
    "answer": "what the server answered to the local training of this client, which joined later",
    "alone": "the same local training from the common start, without the federation",
}

Scores = Mapping[str, Mapping[str, Mapping[str, float]]]  # by split, then by model, then by score


@dataclass(frozen=True)
class CardFacts:
    """What a client's model card is made of. `choice` is the candidate that the client deploys."""

    client: str
    choice: str
    scores: Scores
    rows: Mapping[str, int]  # by split
    parameters: Mapping[str, int]  # of the adapter and of the head
    kind: AdapterKind
    others: int | None  # clients in the run beside this one, where that is known


def write_model_cards(
    folder: RunFolder,
    spec: RunSpec,
    context: RunContext,
    choices: Mapping[str, str],
    scores: Mapping[str, Scores],
    others: int | None,
) -> None:
    """Writes README.md into the adapter folders of the clients in `choices` that lie in the run's folder.

    `scores` are each client's own, `others` how many clients the run has beside it. Raises UserError where a card
    cannot be written, or a link leads elsewhere.
    """
    licence = find_licence(spec.experiment.model.name)
    rows = {own.id: {split: len(getattr(own, split)) for split in SPLITS} for own in context.data.clients}
    method = spec.make_method()
    for client, choice in choices.items():
        file = folder.get_path(f"clients/{client}/adapter/{MODEL_CARD}")
        if not file.parent.is_dir():  # it lies at the client's site
            continue
        template = context.templates[client]
        counts = template.count_parameters()
        facts = CardFacts(client, choice, scores[client], rows[client], counts, template.kind, others)
        text = make_model_card(spec, method, list(context.data.labels), facts, licence)
        with report_os_errors(f"write {file}", f"free some space and `fedpeft resume {folder.path}`"):
            file.write_text(text, encoding="utf-8")  # result.json, written later, vouches for it


def make_model_card(
    spec: RunSpec, method: Method[Any], labels: list[str], facts: CardFacts, licence: str | None
) -> str:
    """The card as Markdown with the metadata that the hub reads at its head. Paths of this machine are not in it."""
    experiment = spec.experiment
    is_decoder = find_kind(experiment.task.kind).is_decoder
    base = get_base_name(experiment.model.name)
    snippet = make_adapter_snippet(
        experiment.model, experiment.task, base, len(labels), needs_fedpeft=facts.kind.name not in PEFT_KINDS
    )
    parts = [
        _make_front_matter(_make_metadata(spec, facts, is_decoder)),
        f"# Adapter of client {_quote(facts.client)}, trained with {_quote(spec.label)}",
        f"One of the personal adapters of a federation, made with fedpeft {__version__}. It is for this client's data; "
        "the other clients have their own.",
        "## What it is",
        _make_table(_describe(spec, method, labels, facts, base, licence)),
        "## What it scores",
        _describe_deployment(spec, facts),
        _make_score_table(facts.scores),
        f"{_LOADING}\n\n```python\n{snippet}```",
    ]
    return "\n\n".join(parts) + "\n"


def make_merged_card(card: Card, client: str, adapter_card: str) -> str:
    """The card of the model into which an adapter was merged: what the adapter's own says, and how to load it."""
    is_decoder = find_kind(card.task.kind).is_decoder
    metadata: dict[str, Any] = {"library_name": "transformers", **_name_base(card.model.name, "finetune")}
    metadata |= {"pipeline_tag": _PIPELINES[is_decoder], "tags": ["federated-learning", "fedpeft"]}
    head = adapter_card.startswith("---\n")
    body = (adapter_card.split("\n---\n", 1)[-1] if head else adapter_card).split(_LOADING)[0].strip()
    parts = [
        _make_front_matter(metadata),
        f"> The adapter of client {_quote(client)}, merged into {_quote(get_base_name(card.model.name))}. What follows "
        "was measured before merging, which rounds.",
        body,
        f"{_LOADING}\n\n```python\n{make_merged_snippet(card.model, card.task, len(card.labels))}```",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _make_front_matter(metadata: Mapping[str, Any]) -> str:
    return f"---\n{yaml.safe_dump(dict(metadata), sort_keys=False, allow_unicode=True)}---"


def get_base_name(name: str) -> str:
    """The base model's name without the folders of this machine."""
    return os.path.basename(name) if os.path.isabs(name) else name


def _make_metadata(spec: RunSpec, facts: CardFacts, is_decoder: bool) -> dict[str, Any]:
    tags = ["federated-learning", "fedpeft", facts.kind.name, spec.experiment.get_method_name(spec.label)]
    base = _name_base(spec.experiment.model.name, "adapter")
    return {"library_name": "peft", **base, "pipeline_tag": _PIPELINES[is_decoder], "tags": tags}


def _name_base(name: str, relation: str) -> dict[str, str]:
    """The metadata that lead to the base model, where it is one of the hub's."""
    if os.path.isabs(name) or name.startswith(PACKAGE_PREFIX) or "/" not in name:
        return {}
    return {"base_model": name, "base_model_relation": relation}


def _describe(
    spec: RunSpec, method: Method[Any], labels: list[str], facts: CardFacts, base: str, licence: str | None
) -> Iterator[tuple[str, str]]:
    training, task = spec.experiment.training, spec.experiment.task
    yield "method", _describe_method(method)
    options = {name: value for name, value in method.options.model_dump().items() if name != "lr"}
    yield "its options", ", ".join(f"{name} {value}" for name, value in options.items())
    yield (
        "adapter",
        f"{facts.kind.name}: {facts.parameters['adapter']:,} trained parameters"
        + (f", and {facts.parameters['head']:,} of the head" * bool(facts.parameters["head"])),
    )
    yield "base model", base
    yield "licence of the base model", licence or "not in its files; see where it comes from"
    yield "task", task.kind + (f", labels: {', '.join(labels[:50])}" if len(labels) > 1 else "")
    yield "this client's examples", ", ".join(f"{count:,} {split}" for split, count in facts.rows.items())
    beside = "" if facts.others is None else f"{facts.others} other clients, "
    yield "federation", f"{beside}{training.rounds} rounds, seed {spec.seed}"
    yield (
        "local training",
        f"{training.local_epochs} epochs a round, batches of {training.batch_size}, {training.optimiser}, "
        f"learning rate {method.options.lr:g}",
    )


def _describe_method(method: Method[Any]) -> str:
    """The first line of what its file says of itself: name, paper, link."""
    module = inspect.getmodule(type(method))
    text = (module.__doc__ if module and module.__name__.startswith("fedpeft.") else type(method).__doc__) or ""
    return next(iter(text.strip().splitlines()), type(method).__name__)


def _describe_deployment(spec: RunSpec, facts: CardFacts) -> str:
    rule = spec.experiment.training.deploy
    why = "the better of its candidates on this client's validation examples" if rule == "validation" else "by setting"
    return (
        f"This folder holds the **{facts.choice}** model ({_STAGES.get(facts.choice, facts.choice)}): {why} "
        f"(`training.deploy: {rule}`). The test examples were read once, after that choice."
    )


def _make_score_table(scores: Scores) -> str:
    """Rows by model and split; scores are fractions where the metric is one."""
    rows = [(model, split, own) for split, by_model in scores.items() for model, own in by_model.items()]
    if not rows:
        return "Its scores are with the run's server."
    names = [name for name in dict.fromkeys(name for _, _, own in rows for name in own) if name != "examples"]
    head = ["model", "stage", "examples of", *names]
    lines = [head, ["---"] * len(head)]
    for model, split, own in rows:
        where = f"{split} ({own['examples']:.0f})" if "examples" in own else split
        lines.append([model, _STAGES.get(model, ""), where, *(_format(own.get(name)) for name in names)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _format(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) else "" if value is None else str(value)


def _make_table(rows: Iterator[tuple[str, str]]) -> str:
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {_escape(value)} |" for name, value in rows)])


def _escape(text: str) -> str:
    """Anybody's text in a cell: no line ends, no HTML, no further cell."""
    shown = printable(text, 1000).replace("&", "&amp;").replace("<", "&lt;")
    return shown.replace("|", "\\|")


def _quote(text: str) -> str:
    return "`" + printable(text, 300).replace("`", "'") + "`"

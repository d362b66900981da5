"""Known tasks: the keys that an experiment would otherwise have to give for each, by the name a user writes.

Prompts, triggers and answer rules are those of LoReFT (arXiv 2404.03592), read in its task code; it takes the
instructions and the rules from LLM-Adapters (arXiv 2304.01933), whose own header also stands before its commonsense
prompts, where LoReFT has none. Metrics are those that GLUE and FedHFT (arXiv 2510.14054) report. Ours [choice] is
marked so.

A local folder holds `train.jsonl.gz` and, where there are, `validation.jsonl.gz` and `test.jsonl.gz`; a folder of such
folders is one data set whose rows carry the folder's name as `task`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from fedpeft.errors import UserError, suggest

# The prompt strings are data: a model trained elsewhere with them answers only to the same ones.
COMMONSENSE = "{text}\n"
TRIGGER = "the correct answer is "
INSTRUCTION = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{text}\n\n### Response:\n"
)
WITH_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{text}\n\n### Input:\n{text_pair}\n\n### Response:\n"
)
GSM8K = "{text}\nAnswer the above question. First think step by step and then answer the final number.\n"


@dataclass(frozen=True)
class Preset:
    """One task. `text` to `max_new_tokens` are keys of an experiment's task; None: not one of this kind of task.

    `labels` are by index, which is what a local folder holds. `metric` is what tables show. `folder` is the local
    layout, with the columns named here. `hub` is the data set on the hub; `on_hub` says which of its columns are named
    otherwise there, None that its rows have another form and need a local folder.
    """

    kind: str
    folder: str
    text: str
    text_pair: str | None = None
    label: str | None = None
    labels: tuple[str, ...] | None = None
    target: str | None = None
    answer: str | None = None
    template: str | None = None
    template_pair: str | None = None
    trigger: str | None = None
    extract: Literal["choice", "number", "letter", "text"] | None = None
    metric: str | None = None
    max_new_tokens: int | None = None
    hub: str | None = None
    on_hub: Mapping[str, str] | None = None


def get_preset(name: str, from_hub: bool = False) -> dict[str, Any]:
    """The keys of an experiment's task that a preset fills in; `from_hub` adds the source and the hub's column names.

    Raises UserError for an unknown name, and for `from_hub` where the hub's rows are not of the form needed.
    """
    preset = PRESETS.get(str(name))
    if preset is None:
        hint = suggest(str(name), PRESETS)
        raise UserError(f"task.preset: unknown preset {name!r}{hint}; known: {', '.join(PRESETS)}")
    values = {key: getattr(preset, key) for key in _KEYS}
    keys = {key: list(v) if isinstance(v, tuple) else v for key, v in values.items() if v is not None}
    if not from_hub:
        return keys
    if preset.on_hub is None:
        columns = ", ".join(c for c in (preset.text, preset.target, preset.answer) if c)
        raise UserError(
            f"task.source is missing: preset {name!r} reads rows with {columns}, and the hub's "
            f"{preset.hub or 'data sets'} have others; "
            f"give a folder like {preset.folder} with train.jsonl.gz and test.jsonl.gz"
        )
    return {**keys, **preset.on_hub, "source": preset.hub}


_KEYS = ("kind", "text", "text_pair", "label", "labels", "target", "answer", "template", "template_pair", "trigger",
         "extract", "metric", "max_new_tokens")  # fmt: skip


def _make_commonsense(folder: str, hub: str | None) -> Preset:
    """An instruction of LLM-Adapters that ends in "Answer format: a/b"; the output is the trigger and the answer."""
    return Preset(
        "multiple_choice", f"commonsense/{folder}".rstrip("/"), "instruction", target="output", answer="answer",
        template=COMMONSENSE, trigger=TRIGGER, max_new_tokens=32, hub=hub,
    )  # fmt: skip


def _make_arithmetic(
    folder: str, hub: str | None, extract: Literal["number", "letter"], target: str = "output"
) -> Preset:
    """A question, a rationale that ends in the answer, and the answer: a number, or a letter A to E."""
    return Preset(
        "generation", f"arithmetic/{folder}", "instruction", target=target, answer="answer",
        template=INSTRUCTION, extract=extract, max_new_tokens=512, hub=hub,
    )  # fmt: skip


def _make_glue(
    name: str, text: str, text_pair: str | None, labels: tuple[str, ...], metric: str = "accuracy"
) -> Preset:
    """A GLUE task of labels that a local folder holds by index; its columns are named as on the hub."""
    return Preset(
        "classification", f"glue/{name}", text, text_pair, label="label", labels=labels, metric=metric,
        hub=f"glue/{name}", on_hub={},
    )  # fmt: skip


PRESETS: dict[str, Preset] = {
    # ---- commonsense (LLM-Adapters' eight); `commonsense`: a folder of any of them, as they share all keys
    "commonsense": _make_commonsense("", None),
    "boolq": _make_commonsense("boolq", "google/boolq"),
    "piqa": _make_commonsense("piqa", "ybisk/piqa"),
    "social_i_qa": _make_commonsense("social_i_qa", "allenai/social_i_qa"),
    "hellaswag": _make_commonsense("hellaswag", "Rowan/hellaswag"),
    "winogrande": _make_commonsense("winogrande", "allenai/winogrande/winogrande_xl"),
    "arc_easy": _make_commonsense("arc_easy", "allenai/ai2_arc/ARC-Easy"),
    "arc_challenge": _make_commonsense("arc_challenge", "allenai/ai2_arc/ARC-Challenge"),
    "openbookqa": _make_commonsense("openbookqa", "allenai/openbookqa/main"),
    # ---- arithmetic
    "aqua": _make_arithmetic("aqua", "deepmind/aqua_rat/raw", "letter"),
    # LoReFT learns the rationale with "The final answer is: " for "####"; here it stays as it is [choice]. The hub's
    # `answer` is the whole rationale, whose number follows "####".
    "gsm8k": Preset(
        "generation", "arithmetic/gsm8k", "instruction", target="output", answer="answer", template=GSM8K,
        extract="number", max_new_tokens=256, hub="openai/gsm8k/main",
        on_hub={"text": "question", "target": "answer", "answer": "answer"},
    ),
    "mawps": _make_arithmetic("mawps", None, "number", target="answer"),  # no rationale: the answer is learnt
    "svamp": _make_arithmetic("svamp", "ChilleD/SVAMP", "number"),
    "addsub": _make_arithmetic("addsub", None, "number"),
    "multiarith": _make_arithmetic("multiarith", "ChilleD/MultiArith", "number"),
    "singleeq": _make_arithmetic("singleeq", None, "number"),
    # ---- GLUE; the hub withholds test labels, and of MNLI only the training split is read
    "cola": _make_glue("cola", "sentence", None, ("unacceptable", "acceptable"), "matthews"),
    "sst2": _make_glue("sst2", "sentence", None, ("negative", "positive")),
    "mrpc": _make_glue("mrpc", "sentence1", "sentence2", ("not_equivalent", "equivalent")),
    "stsb": Preset(
        "regression", "glue/stsb", "sentence1", "sentence2", label="label", metric="pearson",
        hub="glue/stsb", on_hub={},
    ),
    "qqp": _make_glue("qqp", "question1", "question2", ("not_duplicate", "duplicate")),
    "mnli": _make_glue("mnli", "premise", "hypothesis", ("entailment", "neutral", "contradiction")),
    "qnli": _make_glue("qnli", "question", "sentence", ("entailment", "not_entailment")),
    "rte": _make_glue("rte", "sentence1", "sentence2", ("entailment", "not_entailment")),
    "wnli": _make_glue("wnli", "sentence1", "sentence2", ("not_entailment", "entailment")),
    # ---- instructions; `input` is empty in most rows
    "alpaca": Preset(
        "generation", "alpaca", "instruction", "input", target="output", answer="output", template=INSTRUCTION,
        template_pair=WITH_INPUT,
        extract="text", metric="token_likelihood", max_new_tokens=512, hub="yahma/alpaca-cleaned", on_hub={},
    ),
}  # fmt: skip

"""Pages that are made from the program when the site is built, so that they cannot go stale.

keys.md       every key of the experiment file, from the typed models
methods.md    every method with its options and its paper, from the classes
commands.md   every command with its options, from the command line
results.md    the measured tables, from benchmarks/results
paper_table.md   part of a page: every method and its paper
"""

import inspect
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import click
import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from fedpeft.adapters.kinds import KINDS
from fedpeft.cli import app
from fedpeft.config import Experiment
from fedpeft.methods import find_method, list_built_in
from fedpeft.tasks.kinds import find_kind, list_kinds

FOLDER = "_generated"
_BOUNDS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below", "min_length": "entries: at least"}
_WORDS = {"NoneType": "null", "str": "text", "int": "whole number", "float": "number", "bool": "true or false"}
ROOT = Path(__file__).parents[2]


def setup(application: Any) -> dict[str, bool]:
    """Called by Sphinx."""
    application.connect("builder-inited", lambda app: write_pages(Path(app.srcdir) / FOLDER))
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def write_pages(folder: Path) -> None:
    """Writes the pages; those that are already as they would be are left alone, so that a second build is quick."""
    folder.mkdir(exist_ok=True)
    pages = {"keys": make_keys(), "methods": make_methods(), "commands": make_commands(), "results": make_results()}
    pages["paper_table"] = make_paper_table()
    for name, lines in pages.items():
        text = "\n".join(lines) + "\n"
        file = folder / f"{name}.md"
        if not file.is_file() or file.read_text(encoding="utf-8") != text:
            file.write_text(text, encoding="utf-8")


def make_keys() -> Iterator[str]:
    """The experiment file, group by group."""
    yield "# Every key of the experiment file\n"
    yield "Made from the program's own models: a key that is not here is refused, with the nearest that is.\n"
    groups = {name: model for name, field in Experiment.model_fields.items() if (model := _find_model(field))}
    yield "## At the top\n"
    yield from _make_table(Experiment, without=groups)
    for name, model in groups.items():
        yield f"\n## {name}\n"
        yield f"{_first_paragraph(model)}\n"
        yield from _make_table(model)
    yield "\n## Kinds of task\n"
    yield "| kind | what is scored, the first by default |\n| --- | --- |"
    for kind in list_kinds():
        yield f"| `{kind}` | {', '.join(f'`{metric}`' for metric in find_kind(kind).metrics)} |"
    yield "\n## Adapters\n"
    yield "What `adapter:` of a method holds, by its kind.\n"
    for adapter in KINDS:
        yield f"### {adapter.name}\n"
        yield f"{_first_paragraph(adapter.options)}\n"
        yield from _make_table(adapter.options)
        yield ""


def make_methods() -> Iterator[str]:
    """Every method in the package, with its options."""
    yield "# Methods and their options\n"
    yield "Options go under a method's label: `methods: {fedreft: {lr: 6e-3}}`. Every method takes `lr`.\n"
    for name in list_built_in():
        method = find_method(name)
        module = inspect.getmodule(method)
        yield f"\n## {name}\n"
        yield f"{_escape(inspect.cleandoc(module.__doc__ or ''))}\n"
        yield from _make_table(method.Options)


def make_paper_table() -> Iterator[str]:
    """The first line of every method's file, which names its paper."""
    yield "| method | what it is, and whose |\n| --- | --- |"
    for name in list_built_in():
        first_line = inspect.cleandoc(inspect.getmodule(find_method(name)).__doc__ or "").splitlines()[0]
        linked = re.sub(r"arXiv (\d{4}\.\d{5})", r"[arXiv \1](https://arxiv.org/abs/\1)", first_line)
        yield f"| `{name}` | {linked} |"


def make_commands() -> Iterator[str]:
    """Every command, with its arguments and options."""
    group: Any = typer.main.get_command(app)
    yield "# Commands\n"
    yield "`fedpeft COMMAND --help` shows the same; `fedpeft --install-completion` has your shell complete them.\n"
    for name, command in _list_commands(group, ""):
        yield f"\n## {name}\n"
        yield f"{_escape(command.help or '')}\n"
        yield "| argument or option | what it is |\n| --- | --- |"
        context = click.Context(command)
        for parameter in command.params:
            shown = parameter.get_help_record(context)
            if shown is not None and "--help" not in parameter.opts:
                yield f"| `{shown[0]}` | {_escape(' '.join(shown[1].replace(chr(92), '').split()))} |"


def make_results() -> Iterator[str]:
    """The measured tables, one level down."""
    yield "# Measured\n"
    text = (ROOT / "benchmarks/results/README.md").read_text(encoding="utf-8")
    yield re.sub(r"^# .*\n", "", text, count=1)


def read_scores() -> dict[str, str]:
    """The scores of benchmarks/results by file and method, in percent, as pages name them."""
    scores = {}
    for file in sorted((ROOT / "benchmarks/results").glob("*.json")):
        contents = json.loads(file.read_text(encoding="utf-8"))
        rows = contents.get("rows") if isinstance(contents, dict) else None
        for row in rows if isinstance(rows, list) else []:
            if "label" in row:
                name, score = f"{file.stem}_{row['label']}", row.get("deployed") or row["personal"]
                deviation = f" ± {100 * score['sd']:.1f}" if score["sd"] is not None else ""
                scores[name] = f"{100 * score['mean']:.1f}{deviation}"
                scores[f"{name}_worst"] = f"{100 * row['worst_client']['mean']:.1f}"
                scores[f"{name}_mib"] = f"{row['bytes_up']['mean'] / 2**20:.3f}"
    return scores


def _list_commands(group: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group) or hasattr(command, "commands"):
            yield from _list_commands(command, f"{prefix}{name} ")
        else:
            yield f"{prefix}{name}", command


def _make_table(model: type[BaseModel], without: Any = ()) -> Iterator[str]:
    yield "| key | value | default | what it is |\n| --- | --- | --- | --- |"
    for name, field in model.model_fields.items():
        if name in without:
            continue
        nested = _find_model(field)
        value = f"see {nested.__name__}" if nested and name != "adapter" else _describe_type(field)
        default, about = _format_default(_get_default(field)), _escape(field.description or "")
        yield f"| `{name}` | {_escape(value)} | {default} | {about} |"


def _find_model(field: FieldInfo) -> type[BaseModel] | None:
    """The typed model that a field holds, or a list of, or perhaps."""
    parts = [field.annotation, *get_args(field.annotation)]
    return next((part for part in parts if isinstance(part, type) and issubclass(part, BaseModel)), None)


def _get_default(field: FieldInfo) -> Any:
    if field.default_factory is not None:
        return field.default_factory()  # type: ignore[call-arg]
    return field.default


def _describe_type(field: FieldInfo) -> str:
    text = getattr(field.annotation, "__name__", None) if not get_args(field.annotation) else None
    text = text or str(field.annotation)
    text = re.sub(r"typing\.|fedpeft\.[\w.]+\.", "", text)
    if "Options" in text:
        return "options of an adapter"
    text = re.sub(r"Optional\[(.*)\]", r"\1 or null", text)
    text = re.sub(r"Literal\[([^\]]*)\]", lambda match: match[1].replace("'", ""), text)
    text = re.sub(rf"\b({'|'.join(_WORDS)})\b", lambda match: _WORDS[match[0]], text)
    text = re.sub(r"Union\[(.*)\]", lambda match: match[1].replace(", ", " or "), text)
    text = re.sub(r"list\[(.*?)\]", r"list of \1", text).replace("dict[text, dict[text, Any]]", "options by label")
    text = re.sub(r"dict\[text, ([^\]]*)\]", r"\1 by name", text).replace("None", "null").replace(" | ", " or ")
    bounds = [
        f"{words} {getattr(part, name):,}"
        for part in field.metadata
        for name, words in _BOUNDS.items()
        if getattr(part, name, None) is not None
    ]
    return ", ".join([text, *bounds])


def _format_default(value: Any) -> str:
    if value is PydanticUndefined or str(value) == "PydanticUndefined" or "UNSET" in repr(value):
        return ""
    if isinstance(value, BaseModel):
        return "as below" if not value.model_fields_set else "`{}`"
    text = {"None": "null", "True": "true", "False": "false"}.get(str(value), value)
    return f"`{text!r}`" if isinstance(text, str) and (text == "" or "\n" in text or "{" in text) else f"`{text}`"


def _first_paragraph(model: type[BaseModel]) -> str:
    return _escape(inspect.cleandoc(model.__doc__ or "").split("\n\n")[0])


def _escape(text: str) -> str:
    """Text as Markdown shows it as it stands, on one line of a table."""
    lines = re.sub(r"([\\*_<>\[\]#|$~])", r"\\\1", text)
    return lines if "\n" in lines else lines.strip()

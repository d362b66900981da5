"""The licence of a backbone, where its own files or its package say it; no network is asked."""

import os
import re
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path
from typing import Any

from huggingface_hub import try_to_load_from_cache

from fedpeft.backbones.locate import PACKAGE_PREFIX, find_package_model
from fedpeft.errors import UserError, printable
from fedpeft.small_files import read_small_file

_LICENCE = re.compile(
    r"^license: *([^\s\[{!].*)$", re.MULTILINE
)  # one word of the hub's list: no YAML is parsed for it
_LONGEST = 100  # characters: some packages give the whole text of a licence


def find_licence(name: str) -> str | None:
    """The licence of a model by name: of its folder's card, its package, or its card in the hub's cache; else None."""
    if name.startswith(PACKAGE_PREFIX):
        try:
            card = find_package_model(name) / "README.md"
        except UserError:  # it may not be installed where an adapter is described
            return None
        return _read_front_matter(card) or _read_package(name.removeprefix(PACKAGE_PREFIX))
    if os.path.isdir(name):
        return _read_front_matter(Path(name) / "README.md")
    try:
        cached = try_to_load_from_cache(name, "README.md")
    except ValueError:  # no name of the hub's
        return None
    return _read_front_matter(Path(cached)) if isinstance(cached, str) else None


def _read_package(package: str) -> str | None:
    try:
        fields: Any = metadata(package)
    except (PackageNotFoundError, ValueError):
        return None
    classifiers = [value for value in fields.get_all("Classifier") or [] if value.startswith("License ::")]
    values = [fields.get("License-Expression"), fields.get("License"), *(c.split(" :: ")[-1] for c in classifiers)]
    licence = next((value for value in map(_clean, values) if value is not None), None)
    return None if licence is None else f"{licence} (of the package {package})"


def _read_front_matter(file: Path) -> str | None:
    """The `license` in the YAML at the head of a model card; None where it has none, or cannot be read."""
    try:
        text = read_small_file(file).decode("utf-8", "replace")
    except UserError:  # there is none
        return None
    head, end, _ = text.partition("\n---")
    line = _LICENCE.search(head) if head.startswith("---") and end else None
    return None if line is None else _clean(line[1].strip("\"' "))


def _clean(value: Any) -> str | None:
    if not isinstance(value, str) or value.strip().lower() in ("", "unknown", "none"):
        return None
    return printable(value.strip(), _LONGEST)

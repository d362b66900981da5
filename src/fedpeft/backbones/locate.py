"""Finds what a model's name stands for: a folder, a GGUF file, an installed package or a hub id."""

import os
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path, PurePath

from fedpeft.backbones.gguf import dequantise_to_folder
from fedpeft.errors import UserError, printable, suggest

PACKAGE_PREFIX = "package:"


def quote(name: str) -> str:
    """The name as messages show it."""
    return printable(repr(name), 200)


def locate_model(name: str, base: Path) -> str:
    """The name with a local folder or GGUF file made absolute; packages and hub ids as they are.

    Relative paths start at `base`. Raises `UserError` for what can only be a path and is not there, so that no hub is
    asked for it.
    """
    if not name.removeprefix(PACKAGE_PREFIX).strip():
        raise UserError(f"model: the name is empty; give a hub id, a local folder, or '{PACKAGE_PREFIX}DISTRIBUTION'")
    if name.startswith(PACKAGE_PREFIX):
        return name
    path = os.path.abspath(base / os.path.expanduser(name))
    if os.path.isdir(path) or (name.endswith(".gguf") and os.path.isfile(path)):
        return path
    if os.path.isfile(path):
        raise UserError(f"model {quote(name)}: {path} is a file; give its folder, or a .gguf file")
    if _is_path(name, base):
        folder, last = os.path.split(path)
        near = suggest(last, os.listdir(folder)) if os.access(folder, os.R_OK) else ""
        raise UserError(f"model {quote(name)}: no such folder: {path}{near}; a relative path starts at {base}")
    return name


def _is_path(name: str, base: Path) -> bool:
    """Whether a name that is no folder cannot be a hub id, which is NAME or OWNER/NAME."""
    owner, slash, rest = name.partition("/")
    return name.startswith((".", "~")) or owner == "" or "/" in rest or bool(slash and os.path.isdir(base / owner))


def resolve_source(name: str, base: Path = Path()) -> str:
    """The hub id or folder that transformers can read for a name as `load_pretrained` takes it.

    Raises `UserError` for a path, a package or a GGUF file that cannot be read.
    """
    source = str(find_package_model(name)) if name.startswith(PACKAGE_PREFIX) else locate_model(name, base)
    is_gguf = source.endswith(".gguf") and os.path.isfile(source)
    return str(dequantise_to_folder(Path(source))) if is_gguf else source


def find_package_model(name: str) -> Path:
    """The folder with config.json and weights inside the distribution that "package:<distribution>" names, or else its
    one GGUF file.

    Raises `UserError` when the distribution is not installed or holds neither.
    """
    package = name.removeprefix(PACKAGE_PREFIX)
    try:
        files = distribution(package).files or []
    except (PackageNotFoundError, ValueError) as error:  # the second for a name that none can have
        raise UserError(f"backbone {quote(name)}: the package is not installed. Run: pip install {package}") from error
    weight_folders = {PurePath(file).parent for file in files if PurePath(file).suffix in (".safetensors", ".bin")}
    configs = [file for file in files if file.name == "config.json" and PurePath(file).parent in weight_folders]
    if configs:
        return Path(str(configs[0].locate())).parent
    gguf_files = [file for file in files if PurePath(file).suffix == ".gguf"]
    if len(gguf_files) != 1:
        raise UserError(
            f"backbone {quote(name)}: the package {package} has no folder with config.json and weights, "
            f"and {len(gguf_files)} GGUF files where one is needed."
        )
    return Path(str(gguf_files[0].locate()))

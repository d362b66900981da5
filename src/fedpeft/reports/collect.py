"""From the files of a run or a comparison to one record. Old files and runs that stopped give what there is."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from fedpeft.errors import UserError
from fedpeft.reports.records import (
    ComparisonFile,
    Environment,
    LogLine,
    MethodRecord,
    ReportRecord,
    RunRecord,
    RunResult,
    to_number,
)
from fedpeft.runs.files import Files, report_os_errors
from fedpeft.runs.run_files import RunFiles, get_run_path


def collect(path: Path) -> ReportRecord:
    """Reads a run's folder, a comparison's folder (finished or not), or a compare.json alone.

    Raises UserError where `path` is none of them, or a file of theirs is damaged.
    """
    if path.is_file():
        return _collect_comparison(path, path.parent)
    if (path / "compare.json").is_file():
        return _collect_comparison(path / "compare.json", path)
    if (path / "experiment.yaml").is_file():
        return _collect_run(path)
    folders = sorted(file.parent for file in path.glob("*/lr*-seed*/experiment.yaml"))
    if folders:
        return _collect_unfinished_comparison(path, folders)
    raise UserError(f"no run and no comparison at {path}; give a run's folder, a comparison's, or its compare.json")


def _collect_run(path: Path) -> ReportRecord:
    notes: list[str] = []
    run = _read_run(path, notes)
    return ReportRecord(
        name=path.resolve().name,
        kind="run",
        source=path.resolve().name,
        scenario=None,
        methods=[MethodRecord(run.label, [run])],
        settings=run.settings,
        environment=run.environment,
        notes=_describe_unfinished([run]) + notes,
    )


def _collect_comparison(file: Path, root: Path) -> ReportRecord:
    helps = "give a compare.json that `fedpeft compare` wrote"
    comparison = ComparisonFile.model_validate(Files(file.parent).read_json(file.name, ComparisonFile, helps))
    notes: list[str] = []
    methods = []
    for label, results in comparison.runs.items():
        runs = [_complete_run(result, label, root, comparison.experiment, notes) for result in results]
        methods.append(MethodRecord(label, runs))
    runs = [run for method in methods for run in method.runs]
    if not any(run.log for run in runs):
        notes.insert(0, f"No run folders beside {file.name}: there is no course over rounds.")
    return ReportRecord(
        name=comparison.name,
        kind="comparison",
        source=file.name,
        scenario=comparison.scenario,
        methods=methods,
        settings=comparison.experiment,
        environment=comparison.environment,
        tuned=comparison.tuned_on_validation,
        targets=comparison.cost_to_target,
        notes=notes,
    )


def _collect_unfinished_comparison(path: Path, folders: Sequence[Path]) -> ReportRecord:
    notes: list[str] = []
    runs = [_read_run(folder, notes) for folder in folders]
    rates: dict[str, set[float | None]] = {}
    for run in runs:
        rates.setdefault(run.label, set()).add(run.rate)
    by_name: dict[str, list[RunRecord]] = {}
    for run in runs:  # learning rates that are being tried are told apart
        name = run.label if len(rates[run.label]) == 1 else f"{run.label}, lr {run.rate:g}"
        by_name.setdefault(name, []).append(run)
    first = f"The comparison is not finished: {sum(run.result is not None for run in runs)} runs are, so far."
    return ReportRecord(
        name=str(runs[0].settings.get("name", path.name)),
        kind="comparison",
        source=path.resolve().name,
        scenario=None,
        methods=[MethodRecord(name, sorted(own, key=lambda run: run.seed)) for name, own in by_name.items()],
        settings=runs[0].settings | {"methods": _merge_methods(runs)},
        environment=runs[0].environment,
        notes=[first, *_describe_unfinished(runs), *notes],
    )


def _merge_methods(runs: Sequence[RunRecord]) -> dict[str, Any]:
    return {label: options for run in runs for label, options in run.settings["methods"].items()}


def _describe_unfinished(runs: Sequence[RunRecord]) -> list[str]:
    return [
        f"{run.label}, seed {run.seed}: not finished, {run.completed_rounds} of {run.planned_rounds} rounds completed; "
        "there is no test score yet."
        for run in runs
        if run.result is None
    ]


def _complete_run(result: RunResult, label: str, root: Path, experiment: dict[str, Any], notes: list[str]) -> RunRecord:
    """A run of a comparison, with the log of its folder where that is still there and inside the comparison's."""
    rate = to_number(result.options.get("lr"))
    folder = get_run_path(root, label, rate or 0.0, result.seed)
    is_inside = label == Path(label).name and folder.resolve().is_relative_to(root.resolve())
    log = _read_log(folder, notes) if is_inside and (folder / "experiment.yaml").is_file() else []
    return RunRecord(label, result.seed, rate, result.rounds, result, log, experiment)


def _read_run(path: Path, notes: list[str]) -> RunRecord:
    folder = RunFiles(path)
    experiment = folder.settings["experiment"]
    ((label, options),) = experiment["methods"].items()
    result = None
    if folder.has("result.json"):
        helps = f"remove it, and `fedpeft resume {path}` writes it again"
        result = RunResult.model_validate(folder.read_json("result.json", RunResult, helps))
    training = experiment.get("training")
    rounds = training.get("rounds") if isinstance(training, dict) else None
    seed = experiment.get("seed")
    environment = {}
    if folder.has("environment.json"):
        environment = folder.read_json("environment.json", Environment, "remove it: a report does without")
    return RunRecord(
        label=str(label),
        seed=seed if isinstance(seed, int) else 0,
        rate=to_number(options.get("lr")) if isinstance(options, dict) else None,
        planned_rounds=rounds if isinstance(rounds, int) else 0,
        result=result,
        log=_read_log(path, notes),
        settings=experiment,
        environment=environment,
    )


def _read_log(folder: Path, notes: list[str]) -> list[LogLine]:
    """The lines of metrics.jsonl that can be read; of others their number is noted.

    The last line of a run that is training, or that was killed, may be half of one: it is not counted.
    """
    run = RunFiles(folder)
    if not run.has("metrics.jsonl"):
        return []
    file = run.get_path("metrics.jsonl")
    with report_os_errors(f"read {file}", "check its permissions"):
        texts = file.read_text(encoding="utf-8", errors="replace").split("\n")[:-1]
    lines, unreadable = [], 0
    for text in texts:
        try:
            lines.append(LogLine.model_validate_json(text))
        except ValidationError:
            unreadable += 1
    if unreadable:
        notes.append(f"{folder.name}/{file.name}: {unreadable} of {len(texts)} lines cannot be read and are left out.")
    return lines

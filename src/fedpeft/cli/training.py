"""Commands that train: one method, several, a demo, and going on with a run."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedpeft.cli.app import (
    EngineName,
    ExperimentFile,
    Overrides,
    console,
    gc_paused,
    hint_on_interrupt,
    load,
    print_line,
    print_note,
    read_template,
    resolve_budgets,
    show_label_distribution,
)
from fedpeft.errors import UserError
from fedpeft.scenarios import SCENARIOS, get_overrides

if TYPE_CHECKING:
    from fedpeft.config import Experiment

Out = Annotated[Path, typer.Option(help="where runs are written")]
_SCENARIO_HELP = "settings over the file's, before --set; each has a folder and a table of its own: " + "; ".join(
    f"{name}: {scenario.about}" for name, scenario in SCENARIOS.items()
)


def run(
    experiment: ExperimentFile,
    method: Annotated[str | None, typer.Option(help="a label or a method's name; default: the file's first")] = None,
    seed: Annotated[int | None, typer.Option(min=0, max=2**31 - 1, help="instead of the file's")] = None,
    overrides: Overrides = None,
    engine: EngineName = None,
    out: Out = Path("runs"),
) -> None:
    """Run one method, export every client's adapter, and show the result."""
    with gc_paused():
        from fedpeft.display import ProgressDisplay
        from fedpeft.runs.folder import RunFolder
        from fedpeft.runs.runner import start
        from fedpeft.runs.spec import RunSpec

    loaded = load(experiment, overrides, engine)
    label = next(iter(loaded.methods)) if method is None else method
    seed = loaded.seed if seed is None else seed
    loaded.build_method(label)  # its mistakes first
    path = out / f"{loaded.name}-{label}-{seed}"
    RunFolder(path).require_free()
    spec = RunSpec(resolve_budgets(loaded), label, seed, None, experiment.parent)
    with hint_on_interrupt(path / "experiment.yaml", _resume_hint(path)), ProgressDisplay(console) as display:
        result = start(spec, path, display)
    _show_result(result, path)


def resume(path: Annotated[Path, typer.Argument(help="the folder of a run")]) -> None:
    """Continue a run that was broken off, to the same result to the bit."""
    with gc_paused():
        from fedpeft.display import ProgressDisplay
        from fedpeft.runs.runner import resume as resume_run

    with hint_on_interrupt(path / "experiment.yaml", _resume_hint(path)), ProgressDisplay(console) as display:
        result = resume_run(path, display)
    _show_result(result, path)


def compare(
    experiment: ExperimentFile,
    methods: Annotated[
        str | None, typer.Option(metavar="NAME[,NAME]", help="labels or methods; default: the file's")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, max=10_000, help="how many seeds, from the file's on")] = 1,
    overrides: Overrides = None,
    engine: EngineName = None,
    out: Annotated[Path | None, typer.Option(help="where; default runs/NAME-compare")] = None,
    scenario: Annotated[str | None, typer.Option(metavar="NAME[,NAME]", help=_SCENARIO_HELP)] = None,
    keep: Annotated[bool, typer.Option("--keep", help="keep adapters and checkpoints, for predict and join")] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="remove the runs that are there, and begin again")] = False,
) -> None:
    """Run several methods over several seeds on the same data, and show one table. Resumable."""
    scenarios = [None] if scenario is None else _split(scenario)
    changes = {name: [] if name is None else get_overrides(name) for name in scenarios}
    loaded = {name: load(experiment, changes[name] + (overrides or []), engine) for name in scenarios}
    with gc_paused():
        from fedpeft.runs.compare import make_grid, require_comparable

    root = out or Path("runs") / f"{loaded[scenarios[0]].name}-compare"
    labels = {name: _split(methods) if methods is not None else list(loaded[name].methods) for name in scenarios}
    resolved = {name: resolve_budgets(loaded[name]) for name in scenarios}
    if len(scenarios) > 1:  # of several, the last one's mistake would be found after the others' hours
        for name in scenarios:
            try:
                require_comparable(resolved[name], labels[name], experiment.parent)
                if name and not fresh:
                    make_grid(resolved[name], labels[name], seeds, experiment.parent).require_same_runs(root / name)
            except UserError as error:
                raise UserError(f"scenario {name}: {error}") from error
    for name in scenarios:
        out = root / name if name else root
        if fresh:
            require_comparable(resolved[name], labels[name], experiment.parent)  # before anything is gone
            _remove_comparison(out)
        _compare(resolved[name], labels[name], seeds, experiment.parent, out, name, keep)


def demo(
    out: Out = Path("runs/demo"),
    fresh: Annotated[bool, typer.Option(help="remove what an earlier demo left in --out first")] = False,
) -> None:
    """FedReFT against FedIT and local training on tweets from several sources: the whole thing in minutes."""
    with gc_paused():
        from fedpeft.config import parse_experiment, parse_yaml

    if fresh:
        _remove_comparison(out)
    where = "the demo's experiment"
    loaded = parse_experiment(parse_yaml(read_template().decode(), where), [], where)
    show_label_distribution(loaded, Path())  # its notes come with the comparison
    _compare(loaded, list(loaded.methods), 1, Path(), out)
    print_line(
        "\nWhere to go next:\n"
        "  fedpeft init                              write this experiment to a file and make it yours\n"
        "  fedpeft run experiment.yaml --method fedreft    one method, each client's adapter exported\n"
        "  fedpeft compare experiment.yaml --seeds 3       with a spread over seeds\n"
        "  fedpeft predict runs/tweets-fedreft-0 --client apple --text 'the new phone is great'"
    )


def _split(names: str) -> list[str]:
    return list(dict.fromkeys(name.strip() for name in names.split(",")))


def _resume_hint(path: Path) -> str:
    return f"`fedpeft resume {path}` goes on"


def _compare(
    experiment: "Experiment",
    labels: Sequence[str],
    seeds: int,
    base: Path,
    out: Path,
    scenario: str | None = None,
    keep: bool = False,
) -> None:
    from fedpeft.display import ProgressDisplay
    from fedpeft.runs.compare import compare as compare_methods

    hint = f"the same command goes on where this one was, in {out}"
    with hint_on_interrupt(out, hint), ProgressDisplay(console) as display:
        comparison = compare_methods(experiment, labels, seeds, base, out, display, scenario, keep)
    _show_comparison(comparison)
    print_line(f"written to {out}/compare.json" + f"; adapters in {out}/METHOD/RUN/clients" * keep)
    print_line(f"report: {_write_report(out)}")


def _remove_comparison(out: Path) -> None:
    from fedpeft.runs.remove import remove_comparison

    if count := remove_comparison(out):
        print_note(f"--fresh: {count} run{'s' * (count > 1)} removed from {out}")


def _show_result(result: dict[str, Any], path: Path) -> None:
    from fedpeft.display import make_cross_table
    from fedpeft.runs.finished import read_finished

    _show_comparison(read_finished(path))
    if "cross" in result:
        console.print(make_cross_table(result))
    print_line(f"written to {path}{_describe_adapters(path, result['clients'])}")
    print_line(f"report: {_write_report(path)}")


def _describe_adapters(path: Path, clients: Sequence[str]) -> str:
    """Where a run's adapters lie, as the end of a line; nothing for a run that exported none."""
    from fedpeft.engines import find_engine
    from fedpeft.runs.folder import RunFolder

    if not find_engine(RunFolder(path).settings["experiment"].get("engine", "local")).holds_clients:
        return "; adapters at the sites, each in its own folder: state/RUN/clients/ID/adapter"
    adapters = path / "clients"
    if not adapters.is_dir():
        return ""
    missing = [client for client in clients if not (adapters / client / "adapter").is_dir()]
    return f"; adapters in {adapters}" + (f" but none of {', '.join(missing)}" if missing else "")


def _write_report(path: Path) -> Path:
    from fedpeft.reports import write_report

    return write_report(path)


def _show_comparison(comparison: dict[str, Any]) -> None:
    from fedpeft.display import make_comparison_tables

    console.print(make_comparison_tables(comparison))

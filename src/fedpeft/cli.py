"""The commands, thin: each reads its arguments, calls one function of ours and shows what it returns.

Heavy libraries are imported inside the commands, so that `fedpeft --help` answers at once.
"""

import gc
import logging
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import click
import typer
from rich.console import Console
from rich.text import Text

from fedpeft import __version__
from fedpeft.errors import UserError
from fedpeft.scenarios import SCENARIOS, get_overrides

if TYPE_CHECKING:
    from fedpeft.config import Experiment

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help=__doc__ and "Federated fine-tuning.",
)
# Tables need some width: a file or a pipe gets it, a terminal has its own. What is shown may be anybody's text, so
# that nothing in square brackets is markup.
console = Console(width=None if sys.stdout.isatty() else 140, markup=False)
INTERRUPTED = 130  # the exit code of a process that ctrl-C ended

_RESUME_HINTS = {  # by command, what to do after an interrupt
    "run": "; `fedpeft resume` with the run's folder goes on",
    "resume": "; the same command goes on",
    "compare": "; the same command goes on where this one was",
    "demo": "; the same command goes on where this one was",
}
_SCENARIO_HELP = "settings over the file's, before --set; each has a folder and a table of its own: " + "; ".join(
    f"{name}: {scenario.about}" for name, scenario in SCENARIOS.items()
)

ExperimentFile = Annotated[Path, typer.Argument(help="the experiment's YAML file")]
Overrides = Annotated[list[str] | None, typer.Option("--set", help="KEY=VALUE, e.g. training.rounds=3")]
Out = Annotated[Path, typer.Option(help="where runs are written")]


@app.command()
def init(path: Annotated[Path, typer.Argument(help="the file to write")] = Path("experiment.yaml")) -> None:
    """Write a commented experiment file to start from."""
    from fedpeft.federation.checkpoint import write_atomically

    if path.exists():
        raise UserError(f"{path} exists already; give another name or remove it")
    if not path.parent.is_dir():
        raise UserError(f"no such folder: {path.parent}; create it first")
    write_atomically(path, _template())
    console.print(f"wrote {path}\nnext: fedpeft validate {path}")


@app.command()
def validate(experiment: ExperimentFile, overrides: Overrides = None) -> None:
    """Check an experiment file and its data, and show who holds what."""
    loaded = _load(experiment, overrides)
    for note in _show_holdings(loaded, experiment.parent):
        console.print(note, style="dim", highlight=False)
    console.print(f"{experiment} is valid: methods {', '.join(loaded.methods)}; the model is read when a run begins")


@app.command()
def run(
    experiment: ExperimentFile,
    method: Annotated[str | None, typer.Option(help="a label or a method's name; default: the file's first")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="instead of the file's")] = None,
    overrides: Overrides = None,
    out: Out = Path("runs"),
) -> None:
    """Run one method, export every client's adapter, and show the result."""
    with _gc_paused():
        from fedpeft.display import ProgressDisplay
        from fedpeft.runs.folder import RunFolder
        from fedpeft.runs.runner import start
        from fedpeft.runs.spec import RunSpec

    loaded = _load(experiment, overrides)
    label = next(iter(loaded.methods)) if method is None else method
    chosen = loaded.seed if seed is None else seed
    loaded.build_method(label)  # its mistakes first
    path = out / f"{loaded.name}-{label}-{chosen}"
    RunFolder.require_free(path)
    spec = RunSpec(_resolve_budgets(loaded), label, chosen, None, experiment.parent)
    with ProgressDisplay(console) as display:
        result = start(spec, path, display)
    _show_result(result, path)


@app.command()
def resume(path: Annotated[Path, typer.Argument(help="the folder of a run")]) -> None:
    """Continue a run that was broken off, to the same result to the bit."""
    with _gc_paused():
        from fedpeft.display import ProgressDisplay
        from fedpeft.runs.runner import resume as resume_run

    with ProgressDisplay(console) as live:
        result = resume_run(path, live)
    _show_result(result, path)


@app.command()
def compare(
    experiment: ExperimentFile,
    methods: Annotated[str | None, typer.Option(help="labels or methods, with commas; default: the file's")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="how many seeds, from the file's on")] = 1,
    overrides: Overrides = None,
    out: Annotated[Path | None, typer.Option(help="where; default runs/NAME-compare")] = None,
    scenario: Annotated[str | None, typer.Option(metavar="NAME[,NAME]", help=_SCENARIO_HELP)] = None,
) -> None:
    """Run several methods over several seeds on the same data, and show one table. Resumable."""
    names = [None] if scenario is None else list(dict.fromkeys(_split(scenario)))
    every = {
        name: _resolve_budgets(_load(experiment, (get_overrides(name) if name else []) + (overrides or [])))
        for name in names
    }
    for name, loaded in every.items():
        labels = list(loaded.methods) if methods is None else _split(methods)
        root = out or Path("runs") / f"{loaded.name}-compare"
        _compare(loaded, labels, seeds, experiment.parent, root / name if name else root, name)


@app.command()
def demo(
    out: Out = Path("runs/demo"),
    fresh: Annotated[bool, typer.Option(help="remove what an earlier demo left in --out first")] = False,
) -> None:
    """FedReFT against FedIT and local training on tweets from several sources: the whole thing in minutes."""
    import yaml

    with _gc_paused():
        from fedpeft.config import parse_experiment

    if fresh and (out / "compare.json").exists():
        shutil.rmtree(out)
    loaded = parse_experiment(yaml.safe_load(_template()), [], "the demo's experiment")
    _show_holdings(loaded, Path())  # its notes come with the comparison
    _compare(loaded, list(loaded.methods), 1, Path(), out)
    console.print(
        "\nWhere to go next:\n"
        "  fedpeft init                              write this experiment to a file and make it yours\n"
        "  fedpeft run experiment.yaml --method fedreft    one method, each client's adapter exported\n"
        "  fedpeft compare experiment.yaml --seeds 3       with a spread over seeds\n"
        "  fedpeft predict runs/tweets-fedreft-0 --client apple --text 'the new phone is great'"
    )


@app.command()
def ls(root: Annotated[Path, typer.Argument(help="a folder of runs")] = Path("runs")) -> None:
    """List the runs under a folder: finished with their accuracy, or how far they are."""
    from fedpeft.runs.folder import RunFolder

    found = sorted(file.parent for file in root.rglob("experiment.yaml")) if root.is_dir() else []
    if not found:
        raise UserError(f"no runs under {root}; `fedpeft run` makes one")
    for path in found:
        try:
            result = RunFolder(path).result
        except UserError as error:
            console.print(f"{path}  unreadable: {error}", highlight=False, soft_wrap=True)
            continue
        state = f"not finished; continue with fedpeft resume {path}"
        if result:
            score = 100 * result["test"]["personal"]["by_client"]
            state = f"{score:.1f} % personal test {result['metric']}, {result['rounds']} rounds"
        console.print(f"{path}  {state}", highlight=False, soft_wrap=True)


@app.command()
def predict(
    path: Annotated[Path, typer.Argument(metavar="RUN", help="the folder of a run")],
    client: Annotated[str, typer.Option(help="whose personal model")],
    text: Annotated[list[str], typer.Option(help="a text; may be given several times")],
    text_pair: Annotated[list[str] | None, typer.Option(help="its second text, where the task has pairs")] = None,
    temperature: Annotated[
        float | None, typer.Option(min=0.0, help="of sampling, for decoders; default 0: greedy")
    ] = None,
    max_new_tokens: Annotated[int | None, typer.Option(min=1, help="for decoders; default: the task's")] = None,
) -> None:
    """What one client's personal model says to texts: labels, numbers, or what it writes."""
    with _gc_paused():
        from fedpeft.runs.predict import predict as predict_texts

    for found in predict_texts(path, client, text, text_pair, temperature, max_new_tokens):
        said = f"{found['number']:.3f}" if "number" in found else found.get("label", found.get("written"))
        share = f"  {found['probability']:.2f}" if "probability" in found else ""
        pair = f"  {found['text_pair']}" if "text_pair" in found else ""
        console.print(f"{said}{share}  {found['text']}{pair}", highlight=False)


@app.command()
def bench(
    experiment: ExperimentFile,
    method: Annotated[str | None, typer.Option(help="a label or a method's name; default: the file's first")] = None,
    overrides: Overrides = None,
    rounds: Annotated[int, typer.Option(min=1, help="rounds timed under each option, after the first")] = 3,
) -> None:
    """Time the experiment's own rounds under each option of the engine, and say which to choose on this machine."""
    with _gc_paused():
        from fedpeft.display import bench_advice, bench_table
        from fedpeft.environment import describe_environment
        from fedpeft.runs.bench import bench as time_options

    loaded = _resolve_budgets(_load(experiment, overrides))
    label = next(iter(loaded.methods)) if method is None else method
    loaded.build_method(label)
    with console.status("loading") as status:
        timed = time_options(loaded, label, experiment.parent, status.update, rounds)
    machine = describe_environment()
    console.print(
        bench_table(label, timed, f"{machine['processor']}, {machine['cores']} cores, torch {machine['torch']}")
    )
    console.print(bench_advice(timed), highlight=False)


@app.command()
def join(
    path: Annotated[Path, typer.Argument(metavar="RUN", help="the folder of a finished run")],
    data: Annotated[Path, typer.Option(help="the joining client's examples: a file, or a folder of splits")],
    client: Annotated[str, typer.Option("--id", help="the joining client's name")],
    epochs: Annotated[int, typer.Option(min=1, help="passes over its training rows")] = 1,
) -> None:
    """Give a client that comes after training an adapter of its own; the run stays as it is."""
    with _gc_paused():
        from fedpeft.display import joining_table
        from fedpeft.runs.join import join as join_run

    joined = join_run(path, data, client, epochs)
    console.print(joining_table(joined))
    console.print(f"written to {path}/clients/{joined['client']}/adapter", highlight=False, soft_wrap=True)


@app.command()
def budget(
    model: Annotated[str, typer.Argument(help="hub id, local folder, or package:DISTRIBUTION")],
    memory_mib: Annotated[
        list[float] | None, typer.Option(min=1, help="a client's memory in MiB; may be given several times")
    ] = None,
    max_length: Annotated[int, typer.Option(min=4, help="tokens of each text")] = 64,
    batch_size: Annotated[int, typer.Option(min=1, help="examples per optimiser step")] = 16,
    rank: Annotated[int, typer.Option(min=1, help="the highest rank")] = 8,
    mask: Annotated[bool, typer.Option(help="may train fewer rows of B (fedhft with masks: before)")] = False,
    uplink_mib: Annotated[float | None, typer.Option(help="limit of MiB sent up in a round")] = None,
    seconds: Annotated[float | None, typer.Option(help="limit of seconds of training in a round")] = None,
    examples: Annotated[int | None, typer.Option(min=1, help="examples trained on in a round, for --seconds")] = None,
    dtype: Annotated[str, typer.Option(help="of the frozen weights")] = "float32",
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1 ...")] = "cpu",
    out: Annotated[Path, typer.Option(help="the JSON file that keeps what was measured")] = Path("budget.json"),
) -> None:
    """Measure a backbone in dry steps, and show the largest configuration that fits each budget."""
    with _gc_paused():
        from fedpeft.budgets.choose import Budget
        from fedpeft.budgets.describe import describe_fit, describe_probe
        from fedpeft.budgets.fit import check_options, fit_budget
        from fedpeft.budgets.measure import Workload
        from fedpeft.budgets.probe_file import ProbeFile
        from fedpeft.budgets.search_space import MASKED_DENSITIES, SearchSpace

    def progress(what: str, done: int, total: int) -> None:
        console.print(f"dry step {done + 1} of {total}: {what}", style="dim", highlight=False)

    def say(line: str) -> None:
        console.print(line, highlight=False, soft_wrap=True)

    workload = Workload(model, max_length, batch_size, dtype, device)
    check_options(workload, memory_mib or [], uplink_mib, seconds, examples, out)
    file = ProbeFile(out)
    probe = file.get_or_measure(workload, progress)
    for line in describe_probe(probe):
        say(line)
    space = SearchSpace(max_length, batch_size, rank, None, MASKED_DENSITIES if mask else (1.0,), examples)
    for memory in memory_mib or []:
        limits = Budget(memory, uplink_mib, seconds)
        say(describe_fit(fit_budget(file, probe, limits, space), limits, probe.shape.blocks))
    say(f"written to {out}")


def _template() -> bytes:
    return files("fedpeft").joinpath("experiment.yaml").read_bytes()


def _resolve_budgets(experiment: "Experiment") -> "Experiment":
    """Budgets of `resources` turned into what fits them."""
    if not experiment.resources:
        return experiment
    from fedpeft.budgets.resolve_budgets import get_probe_path, resolve_budgets

    return resolve_budgets(experiment, lambda line: console.print(line, style="dim", highlight=False), get_probe_path())


@contextmanager
def _gc_paused() -> Iterator[None]:
    """Context manager that pauses garbage collection during heavy imports: the million objects that these make stay,
    and looking through them again and again would take a fifth of the time, and some later."""
    if "torch" in sys.modules or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def _load(path: Path, overrides: list[str] | None) -> "Experiment":
    with _gc_paused():
        from fedpeft.config import load_experiment

    experiment = load_experiment(path, overrides)
    for note in experiment.notes:
        console.print(note, style="dim", highlight=False)
    return experiment


def _show_holdings(experiment: "Experiment", base: Path) -> list[str]:
    """Shows how many rows each client has of each label; returns the notes on the data."""
    from fedpeft.display import label_table
    from fedpeft.tasks.load import load_task
    from fedpeft.tasks.summary import label_distribution

    data = load_task(experiment.task, experiment.partition, experiment.seed, base)
    console.print(label_table(label_distribution(data), data.labels))
    return list(data.notes)


def _split(names: str) -> list[str]:
    return [part.strip() for part in names.split(",")]


def _compare(
    experiment: "Experiment", labels: Sequence[str], seeds: int, base: Path, out: Path, scenario: str | None = None
) -> None:
    from fedpeft.display import ProgressDisplay, comparison_table
    from fedpeft.runs.compare import compare as compare_methods

    with ProgressDisplay(console) as live:
        comparison = compare_methods(experiment, labels, seeds, base, out, live, live.planned, scenario)
    console.print(comparison_table(comparison))
    console.print(f"written to {out}/compare.json", highlight=False)


def _show_result(result: dict, path: Path) -> None:
    from fedpeft.display import comparison_table, cross_table
    from fedpeft.runs.compare import summarise_method

    table = {"name": path.name, "seeds": [result["seed"]], "rows": [summarise_method(result["label"], [result])]}
    console.print(comparison_table(table))
    if "cross" in result:
        console.print(cross_table(result))
    held = path / "clients"
    lost = [client for client in result["clients"] if not (held / client / "adapter").is_dir()]
    none = f" but none of {', '.join(lost)}" if lost else ""
    console.print(f"written to {path}" + f"; adapters in {held}{none}" * held.is_dir(), highlight=False)


def main() -> None:
    """The entry point: a user's mistake is one line on standard error and exit code 2, an interrupt is 130."""
    from fedpeft.engines.workers import exit_past_abandoned

    # Progress bars and advice of the libraries below are not ours to show.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_VERBOSITY", "critical")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    logging.basicConfig(level=os.environ.get("FEDPEFT_LOG", "ERROR").upper(), format="%(levelname)s %(message)s")
    code = _run_command()
    exit_past_abandoned(code)
    if code:
        sys.exit(code)


def _run_command() -> int:
    try:
        if app(standalone_mode=False) == INTERRUPTED:  # typer returns this code where it caught ctrl-C itself
            raise KeyboardInterrupt
    except UserError as error:
        return _fail(str(error), 2)
    except (KeyboardInterrupt, typer.Abort):
        return _fail(f"interrupted{_RESUME_HINTS.get(sys.argv[1] if sys.argv[1:] else '', '')}", INTERRUPTED)
    except click.ClickException as error:
        return _fail(error.format_message(), 2)
    return 0


def _fail(line: str, code: int) -> int:
    said = Text.assemble(("error:", "bold red"), f" {line}")
    Console(stderr=True).print(said, highlight=False, soft_wrap=True)
    return code


app.command(name="version", help="Show the version.")(lambda: console.print(__version__, highlight=False))

"""Commands that measure this machine: the speed of rounds, the memory of a backbone."""

from pathlib import Path
from typing import Annotated

import typer

from fedpeft.cli.app import (
    ExperimentFile,
    Overrides,
    console,
    gc_paused,
    load,
    print_line,
    print_note,
    resolve_budgets,
)


def bench(
    experiment: ExperimentFile,
    method: Annotated[str | None, typer.Option(help="a label or a method's name; default: the file's first")] = None,
    overrides: Overrides = None,
    rounds: Annotated[int, typer.Option(min=1, help="rounds timed under each option, after the first")] = 3,
) -> None:
    """Time the experiment's own rounds under each option of the engine, and say which to choose on this machine."""
    with gc_paused():
        from fedpeft.display import describe_best_option, make_bench_table
        from fedpeft.environment import describe_environment
        from fedpeft.runs.bench import bench as time_options

    loaded = resolve_budgets(load(experiment, overrides))
    label = next(iter(loaded.methods)) if method is None else method
    loaded.build_method(label)
    with console.status("loading") as status:
        options = time_options(loaded, label, experiment.parent, status.update, rounds)
    machine = describe_environment()
    console.print(
        make_bench_table(label, options, f"{machine['processor']}, {machine['cores']} cores, torch {machine['torch']}")
    )
    print_line(describe_best_option(options))


def budget(
    model: Annotated[str, typer.Argument(help="hub id, local folder, or package:DISTRIBUTION")],
    memory_mib: Annotated[
        list[float] | None, typer.Option(min=1, help="a client's memory in MiB; may be given several times")
    ] = None,
    max_length: Annotated[int, typer.Option(min=4, max=1_000_000, help="tokens of each text")] = 64,
    batch_size: Annotated[int, typer.Option(min=1, max=65_536, help="examples per optimiser step")] = 16,
    rank: Annotated[int, typer.Option(min=1, max=65_536, help="the highest rank")] = 8,
    mask: Annotated[bool, typer.Option(help="may train fewer rows of B (fedhft with masks: before)")] = False,
    uplink_mib: Annotated[float | None, typer.Option(help="limit of MiB sent up in a round")] = None,
    seconds: Annotated[float | None, typer.Option(help="limit of seconds of training in a round")] = None,
    examples: Annotated[int | None, typer.Option(min=1, help="examples trained on in a round, for --seconds")] = None,
    dtype: Annotated[str, typer.Option(help="of the frozen weights")] = "float32",
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1 ...")] = "cpu",
    out: Annotated[Path, typer.Option(help="the JSON file that keeps what was measured")] = Path("budget.json"),
) -> None:
    """Measure a backbone in dry steps, and show the largest configuration that fits each budget."""
    with gc_paused():
        from fedpeft.budgets.choose import Budget
        from fedpeft.budgets.describe import describe_fit, describe_probe
        from fedpeft.budgets.fit import check_options, fit_budget
        from fedpeft.budgets.measure import Workload
        from fedpeft.budgets.probe_file import ProbeFile
        from fedpeft.budgets.search_space import MASKED_DENSITIES, SearchSpace

    def progress(what: str, done: int, total: int) -> None:
        print_note(f"dry step {done + 1} of {total}: {what}")

    workload = Workload(model, max_length, batch_size, dtype, device)
    check_options(workload, memory_mib or [], uplink_mib, seconds, examples, out)
    file = ProbeFile(out)
    probe = file.get_or_measure(workload, progress)
    for line in describe_probe(probe):
        print_line(line)
    space = SearchSpace(max_length, batch_size, rank, None, MASKED_DENSITIES if mask else (1.0,), examples)
    for memory in memory_mib or []:
        limits = Budget(memory, uplink_mib, seconds)
        print_line(describe_fit(fit_budget(file, probe, limits, space), limits, probe.shape.blocks))
    print_line(f"written to {out}")

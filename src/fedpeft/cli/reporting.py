"""Commands that show what runs have left: in the terminal, as a table to cite, as a report."""

from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from fedpeft.cli.app import console, gc_paused, print_line
from fedpeft.errors import UserError


def report(
    path: Annotated[Path, typer.Argument(help="a run's folder, a comparison's, or a compare.json")],
    out: Annotated[Path | None, typer.Option(help="the file to write; default: report.html in the folder")] = None,
) -> None:
    """Write the report of a run or a comparison, finished or not: one HTML page with tables, charts and downloads."""
    with gc_paused():
        from fedpeft.reports import write_report

    print_line(f"written to {write_report(path, out)}")


def watch(
    path: Annotated[Path, typer.Argument(metavar="RUN", help="a run's folder, or a comparison's, while it trains")],
    port: Annotated[int, typer.Option(min=0, max=65535, help="on 127.0.0.1; 0: a free one")] = 8765,
    every: Annotated[float, typer.Option(min=1, max=3600, help="seconds from one page to the next")] = 10,
) -> None:
    """Serve the report on this machine while a run trains; the page refreshes itself until the run is finished."""
    with gc_paused():
        from fedpeft.reports.live import LivePage, LiveServer

    with LiveServer(LivePage(path), port, every) as server:
        print_line(f"the report of {path} is at {server.url}; ctrl-C ends this, not the run")
        with suppress(KeyboardInterrupt):
            server.serve_forever()
    print_line("no longer served; `fedpeft report` writes it to a file")


def show(
    path: Annotated[Path, typer.Argument(metavar="RUN", help="a finished run's folder, a comparison's")],
) -> None:
    """Show the tables of a finished run or comparison again, and what each client's model scores."""
    with gc_paused():
        from fedpeft.display import make_client_score_tables, make_comparison_tables, make_cross_table
        from fedpeft.runs.finished import average_client_scores, read_finished

    finished = read_finished(path)
    console.print(make_comparison_tables(finished))
    scores = {label: average_client_scores(results) for label, results in finished["runs"].items()}
    for table in make_client_score_tables(scores, finished["rows"][0]["metric"]):
        console.print(table)
    for results in finished["runs"].values():
        for result in results[:1]:
            if result.get("cross"):
                console.print(make_cross_table(result))


def table(
    paths: Annotated[list[Path], typer.Argument(metavar="RUN...", help="folders of runs or comparisons")],
    form: Annotated[str, typer.Option("--format", help="csv, latex (with booktabs) or markdown")] = "markdown",
    per_client: Annotated[bool, typer.Option("--per-client", help="a row for each client")] = False,
    out: Annotated[Path | None, typer.Option(help="the file to write; default: the screen")] = None,
) -> None:
    """Write the scores of finished runs and comparisons as one table to cite."""
    with gc_paused():
        from fedpeft.atomic_files import write_atomically
        from fedpeft.reports import write_table

    text = write_table(paths, form, per_client)
    if out is None:
        typer.echo(text, nl=False)
        return
    if not out.parent.is_dir():
        raise UserError(f"no such folder: {out.parent}; create it first")
    write_atomically(out, text.encode())
    print_line(f"written to {out}")

"""Commands for clients' exported models: predict with one, join as a new client."""

from pathlib import Path
from typing import Annotated

import typer

from fedpeft.cli.app import console, gc_paused, print_line


def predict(
    path: Annotated[Path, typer.Argument(metavar="RUN", help="the folder of a run")],
    client: Annotated[str, typer.Option(help="whose model")],
    text: Annotated[list[str], typer.Option(help="a text; may be given several times")],
    text_pair: Annotated[list[str] | None, typer.Option(help="its second text, where the task has pairs")] = None,
    temperature: Annotated[
        float | None, typer.Option(min=0.0, help="of sampling, for decoders; default 0: greedy")
    ] = None,
    max_new_tokens: Annotated[int | None, typer.Option(min=1, help="for decoders; default: the task's")] = None,
) -> None:
    """Predict with one client's exported model: labels, numbers, or the text it writes."""
    with gc_paused():
        from fedpeft.runs.predict import predict as predict_texts

    for prediction in predict_texts(path, client, text, text_pair, temperature, max_new_tokens):
        if "number" in prediction:
            answer = f"{prediction['number']:.3f}"
        else:
            answer = str(prediction.get("label", prediction.get("written")))
        parts = [answer, prediction["text"]]
        if "probability" in prediction:
            parts.insert(1, f"{prediction['probability']:.2f}")
        if "text_pair" in prediction:
            parts.append(prediction["text_pair"])
        print_line("  ".join(parts))


def join(
    path: Annotated[Path, typer.Argument(metavar="RUN", help="the folder of a finished run")],
    data: Annotated[Path, typer.Option(help="the joining client's examples: a file, or a folder of splits")],
    client: Annotated[str, typer.Option("--id", help="the joining client's name")],
    epochs: Annotated[int, typer.Option(min=1, help="passes over its training examples")] = 1,
) -> None:
    """Give a client that comes after training an adapter of its own; the run stays as it is."""
    with gc_paused():
        from fedpeft.display import make_joining_table
        from fedpeft.runs.join import join as join_run

    result = join_run(path, data, client, epochs)
    console.print(make_joining_table(result))
    print_line(f"written to {path}/clients/{result['client']}/adapter")

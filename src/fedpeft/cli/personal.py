"""Commands for clients' exported models: predict with one, join as a new client."""

from pathlib import Path
from typing import Annotated

import typer

from fedpeft.cli.app import console, gc_paused, print_line
from fedpeft.errors import UserError


def predict(
    path: Annotated[Path, typer.Argument(metavar="RUN", help="the folder of a run")],
    client: Annotated[str, typer.Option(help="whose model")],
    text: Annotated[list[str] | None, typer.Option(help="a text; may be given several times")] = None,
    text_pair: Annotated[list[str] | None, typer.Option(help="its second text, where the task has pairs")] = None,
    data: Annotated[Path | None, typer.Option(help="a file of rows, in place of --text; no labels are needed")] = None,
    out: Annotated[Path | None, typer.Option(help="the .csv or .jsonl to write rows and predictions to")] = None,
    temperature: Annotated[
        float | None, typer.Option(min=0.0, help="of sampling, for decoders; default 0: greedy")
    ] = None,
    max_new_tokens: Annotated[int | None, typer.Option(min=1, help="for decoders; default: the task's")] = None,
) -> None:
    """Predict with one client's exported model: labels, numbers, or the text it writes."""
    with gc_paused():
        from fedpeft.runs.predict import predict as predict_texts
        from fedpeft.runs.prediction_files import read_queries, require_writable, write_predictions

    if (data is None) == (not text):
        raise UserError("give texts with --text, or a file of rows with --data: one of the two")
    if out is not None:
        require_writable(out)
    rows = None
    if data is not None:
        if text_pair:
            raise UserError("--text-pair goes with --text; the second texts of --data are in its rows")
        rows, text, text_pair = read_queries(path, client, data)
    predictions = predict_texts(path, client, text or [], text_pair, temperature, max_new_tokens)
    if out is not None:
        texts = [{"text": p["text"]} | ({"text_pair": p["text_pair"]} if "text_pair" in p else {}) for p in predictions]
        write_predictions(out, rows or texts, predictions)
        print_line(f"{len(predictions):,} predictions written to {out}")
        return
    for prediction in predictions:
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

"""The command that takes clients' models elsewhere: merged into plain folders, and to the Hugging Face hub."""

from pathlib import Path
from typing import Annotated

import typer

from fedpeft.cli.app import console, gc_paused, print_line
from fedpeft.errors import UserError


def export(
    path: Annotated[Path, typer.Argument(metavar="RUN", help="the folder of a finished run")],
    client: Annotated[
        list[str] | None, typer.Option(help="whose model; may be given several times; default: all")
    ] = None,
    merge: Annotated[
        bool, typer.Option("--merge", help="LoRA into its base model: folders for transformers alone")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="of --merge: where the folders go; default: RUN/merged")] = None,
    push_to_hub: Annotated[
        str | None,
        typer.Option(metavar="OWNER/NAME", help="push to this repository, a folder for each client; of one, its top"),
    ] = None,
    public: Annotated[bool, typer.Option("--public", help="of --push-to-hub: for everybody; default: private")] = False,
) -> None:
    """Merge clients' adapters into their base model, or push them to the Hugging Face hub, private by default."""
    _require_work(path, merge, out, push_to_hub, public)
    with gc_paused():
        from fedpeft.runs.export import get_adapter_folder, list_exported
        from fedpeft.runs.files import report_os_errors
        from fedpeft.runs.merge import merge as merge_client

    clients = list_exported(path, client)
    folders = {name: get_adapter_folder(path, name) for name in clients}
    if merge:
        out = out or path / "merged"
        with report_os_errors(f"create {out}", "give another --out"):
            out.mkdir(parents=True, exist_ok=True)
        for name in clients:
            with console.status(f"merging {name}"):
                merge_client(path, name, out / name)
            print_line(f"written to {out / name}")
        folders = {name: out / name for name in clients}
    if push_to_hub is None:
        return
    from fedpeft.runs.push import push

    by_name = {"" if client and len(clients) == 1 else name: folder for name, folder in folders.items()}
    print_line(f"pushed to {push(by_name, push_to_hub, public)}")


def _require_work(path: Path, merge: bool, out: Path | None, push_to_hub: str | None, public: bool) -> None:
    """Raises UserError where options do not go together."""
    if not merge and push_to_hub is None:
        raise UserError(
            f"nothing to do: the adapters are in {path / 'clients'} as PEFT folders; --merge writes them into their "
            "base model, --push-to-hub OWNER/NAME pushes them"
        )
    if out is not None and not merge:
        raise UserError("--out goes with --merge: adapters are pushed from the run's folder")
    if public and push_to_hub is None:
        raise UserError("--public goes with --push-to-hub OWNER/NAME")

"""Commands at a site of a federation over several machines."""

from pathlib import Path
from typing import Annotated

import typer

from fedpeft.cli.app import app, gc_paused, print_line
from fedpeft.errors import UserError

site_app = typer.Typer(help="A site of a federation over several machines: its data stay here.", no_args_is_help=True)
app.add_typer(site_app, name="site")


@site_app.command("run")
def run(config: Annotated[Path, typer.Argument(metavar="SITE.YAML", help="this site's own file")]) -> None:
    """Keep this site's model and data ready, and answer what its node hands over, until ctrl-C."""
    with gc_paused():
        from fedpeft.sites.config import load_site
        from fedpeft.sites.site import Site
        from fedpeft.sites.worker import serve, stop_on_signals

    site = load_site(config)
    print_line(f"site {site.id!r} listens at {site.socket}; ctrl-C ends it")
    serve(Path(site.socket), Site(site).answer, stop_on_signals())


@site_app.command("node")
def node(config: Annotated[Path, typer.Argument(metavar="SITE.YAML", help="this site's own file")]) -> None:
    """Connect this site to the server, beside `site run`, until ctrl-C; connects again by itself."""
    from fedpeft.sites.config import load_site
    from fedpeft.sites.node import run_node
    from fedpeft.sites.worker import stop_on_signals

    run_node(load_site(config), stop_on_signals(), print_line)


@site_app.command("init")
def init(
    folder: Annotated[Path, typer.Argument(help="a new folder for everything")],
    sites: Annotated[str, typer.Option(metavar="NAME[,NAME]", help="the sites' names: their clients' ids")],
    address: Annotated[str, typer.Option(metavar="HOST:PORT", help="where sites reach the server")] = "127.0.0.1:8000",
    insecure: Annotated[bool, typer.Option("--insecure", help="plain text, for trials on one machine")] = False,
) -> None:
    """Write keys, certificates, files and services for a server and its sites."""
    from fedpeft.engines.flower.config import require_flower

    require_flower("flower")
    from fedpeft.sites.init import init_federation

    folders = init_federation(folder, [name.strip() for name in sites.split(",")], address, insecure)
    for path in folders:
        print_line(f"written: {path}")
    print_line(
        f"\nAt the server:   fedpeft superlink {folders[0]}\n"
        f"At each site:    fedpeft site run site.yaml    and beside it    fedpeft site node site.yaml\n"
        f"Then:            fedpeft run experiment.yaml, with what {folders[0] / 'flower.yaml'} says in it"
    )


@app.command("superlink")
def superlink(folder: Annotated[Path, typer.Argument(help="the server's folder, as `site init` wrote it")]) -> None:
    """Run the server's SuperLink, which sites connect to, until ctrl-C."""
    from fedpeft.sites.superlink import run_superlink
    from fedpeft.sites.worker import stop_on_signals

    code = run_superlink(folder, stop_on_signals(), print_line)
    if code:
        raise UserError(f"the SuperLink ended with code {code}; its log is {folder / 'superlink.log'}")

"""Commands at a site of a federation over several machines."""

from pathlib import Path
from typing import Annotated

import typer

from fedpeft.cli.app import app, gc_paused, print_line

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

"""What `fedpeft site init` writes: a folder for the server, one for each site, and what starts them.

    server/      ca.pem server.pem server.key keys/<site>.pub superlink.service flower.yaml
    <site>/      ca.pem node.key site.yaml fedpeft-worker.service fedpeft-node.service
    compose.yaml

A site's folder is all that goes to that site; nobody else's key is in it.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path

import yaml

from fedpeft.engines.flower.transport import split_address
from fedpeft.errors import UserError
from fedpeft.sites.keys import write_certificates, write_node_key
from fedpeft.tasks.clients import require_distinct_ids
from fedpeft.tasks.items import require_client_id

_UNIT = """\
[Unit]
Description=fedpeft: {about}
After=network-online.target

[Service]
WorkingDirectory=/etc/fedpeft
ExecStart=fedpeft {command}
Restart=always
RestartSec=5

[Install]
WantedBy=multi-user.target
"""
_SITE = """\
# Site {id}. This file and what it names stay here: the server learns the id, the number of training examples and what
# the site can carry.
id: {id}
source: data.jsonl          # a file or folder with this site's rows, in the columns that the experiment names
folder: state               # states of the last two rounds, and this site's adapters
socket: worker.sock         # where `fedpeft site run` listens for `fedpeft site node`
superlink: {address}
root_certificates: {authority}
node_key: {key}
insecure: {insecure}
memory_mib: null            # what training may take; null: no bound
"""


def init_federation(folder: Path, sites: Sequence[str], address: str, insecure: bool = False) -> list[Path]:
    """Writes everything for a server at `address` (host:port) and these sites; returns the folders.

    Raises UserError where the folder is there already or a name will not do; then nothing is left behind.
    """
    host, _ = split_address(address, "--address")
    names = [require_client_id(site, "--sites") for site in sites]
    require_distinct_ids(names)
    if len(set(names)) < len(names) or "server" in names:
        raise UserError(
            f"--sites: every site needs a name of its own, other than 'server', received {', '.join(sites)}"
        )
    if folder.exists():
        raise UserError(f"{folder} is there already; keys are never replaced: give another folder or remove it")
    try:
        folder.mkdir(parents=True, mode=0o700)
        server = folder / "server"
        (server / "keys").mkdir(parents=True, mode=0o700)
        authority = (
            None if insecure else write_certificates(server, list(dict.fromkeys([host, "localhost", "127.0.0.1"])))
        )
        _write_server(server, address, len(names), authority)
        for name in names:
            _write_site(folder / name, name, address, authority, server / "keys")
        (folder / "compose.yaml").write_text(_make_compose(names))
    except OSError as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise UserError(f"cannot write {folder}: {error.strerror or error}") from error
    return [server, *(folder / name for name in names)]


def _write_server(folder: Path, address: str, sites: int, authority: bytes | None) -> None:
    flower = {"superlink": address, "sites": sites}
    if authority is None:
        flower["insecure"] = True
    else:
        flower["root_certificates"] = str((folder / "ca.pem").resolve())
        (folder / "ca.pem").write_bytes(authority)
    text = "# Put this into the experiment's file: engine: flower finds the sites by it.\n"
    (folder / "flower.yaml").write_text(text + yaml.safe_dump({"engine": "flower", "flower": flower}, sort_keys=False))
    unit = _UNIT.format(about="the SuperLink", command="superlink /etc/fedpeft")
    (folder / "superlink.service").write_text(unit)


def _write_site(folder: Path, name: str, address: str, authority: bytes | None, keys: Path) -> None:
    folder.mkdir(mode=0o700)
    if authority is not None:
        (folder / "ca.pem").write_bytes(authority)
        (keys / f"{name}.pub").write_bytes(write_node_key(folder))
    written = ("null", "null") if authority is None else ("ca.pem", "node.key")
    text = _SITE.format(
        id=yaml.safe_dump(name).split("\n")[0],
        address=address,
        authority=written[0],
        key=written[1],
        insecure=str(authority is None).lower(),
    )
    (folder / "site.yaml").write_text(text)
    for unit, command in (("worker", "run"), ("node", "node")):
        about = f"the {unit} of site {name}"
        content = _UNIT.format(about=about, command=f"site {command} /etc/fedpeft/site.yaml")
        (folder / f"fedpeft-{unit}.service").write_text(content)


def _make_compose(sites: Sequence[str]) -> str:
    """A SuperLink and all sites as containers of one image, `fedpeft`, on one machine's network."""
    services: dict[str, object] = {
        "superlink": {
            "image": "fedpeft",
            "command": "fedpeft superlink /etc/fedpeft",
            "volumes": ["./server:/etc/fedpeft"],
            "network_mode": "host",
        }
    }
    for site in sites:
        for part, command in (("worker", "run"), ("node", "node")):
            services[f"{site}-{part}"] = {
                "image": "fedpeft",
                "command": f"fedpeft site {command} /etc/fedpeft/site.yaml",
                "volumes": [f"./{site}:/etc/fedpeft"],
                "network_mode": "host",
                "restart": "always",
            }
    return yaml.safe_dump({"services": services}, sort_keys=False)

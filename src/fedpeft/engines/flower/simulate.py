"""The process of a simulation: Flower's Ray backend, whose Grid it lends to the process of the run.

python -m fedpeft.engines.flower.simulate NODES WORKERS GPUS [RAY_ADDRESS]
"""

import importlib
import sys
from typing import Any

from flwr.simulation import run_simulation

from fedpeft.engines.flower.server_app import app

CLIENT_APP = "fedpeft.sites.simulated"  # by its name: it is in a room above this one


def main(nodes: int, workers: int, gpus: float, address: str | None = None) -> None:
    """Runs until the process of the run closes its socket."""
    init: dict[str, Any] = {"include_dashboard": False, "log_to_driver": False}
    init |= {"num_cpus": workers} if address is None else {"address": address}
    config = {"client_resources": {"num_cpus": 1, "num_gpus": gpus}, "init_args": init}
    client_app = importlib.import_module(CLIENT_APP).app
    run_simulation(app, client_app, num_supernodes=nodes, backend_config=config)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), *sys.argv[4:])

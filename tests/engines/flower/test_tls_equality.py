"""Three sites with TLS and a key each against the local engine, to the bit; and who is not let in.

FEDPEFT_FLOWER=1 pytest tests/engines/flower/test_tls_equality.py     (`make test-flower` has it)
"""

import hashlib
import json
import os

import pytest
from helpers.real_sites import RealSites

from fedpeft.callbacks import RunCallback
from fedpeft.config import load_experiment
from fedpeft.runs.runner import start
from fedpeft.runs.spec import RunSpec

pytest.importorskip("flwr", reason="flwr is not installed: pip install 'fedpeft[flower]'")
pytestmark = pytest.mark.skipif(
    not os.environ.get("FEDPEFT_FLOWER"), reason="minutes of Flower's start-up and polling: `make test-flower`"
)
SETTINGS = ["workers=1", "training.rounds=4", "training.participation=0.6", "task.labels=['0', '1']"]


@pytest.fixture(scope="module")
def sites(tmp_path_factory, tiny_data):
    federation = RealSites(tmp_path_factory.mktemp("tls"), tiny_data)
    federation.start_all()
    yield federation
    federation.close()


def run(file, label, out, overrides=()):
    start(RunSpec(load_experiment(file, [*SETTINGS, *overrides]), label, 0, None, file.parent), out, RunCallback())
    return (out / "metrics.jsonl").read_text()


def digest_adapters(clients):
    """SHA-256 of every client's adapter in a folder of clients, by client."""
    files = sorted(clients.glob("*/adapter/adapter_model.safetensors"))
    return {file.parent.parent.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


@pytest.mark.parametrize("label", ["fedhft", "fedit", "fedreft"])
def test_a_deployment_is_equal_to_the_bit(label, experiment_file, tmp_path, sites):
    local = run(experiment_file, label, tmp_path / "local")
    before = {site: set(list_runs(sites, site)) for site in sites.sites}
    deployed = run(experiment_file, label, tmp_path / "deployed", sites.overrides)
    assert deployed == local and len(local.splitlines()) > 20
    exported = {}
    for site in sites.sites:
        (own,) = set(list_runs(sites, site)) - before[site]
        exported |= digest_adapters(own / "clients")
    assert exported == digest_adapters(tmp_path / "local" / "clients")
    assert sorted(exported) == sorted(sites.sites)
    print(json.dumps({label: {"lines": len(local.splitlines()), "adapters": exported}}))


def list_runs(sites, site):
    return [path for path in (sites.folder / site / "state").glob("*") if (path / "clients").exists()]

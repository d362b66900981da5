"""What `run` and `resume` say at the end of where the adapters lie."""

import pytest
import yaml

from fedpeft.cli.training import _describe_adapters


@pytest.mark.parametrize(
    ("engine", "exported", "words"),
    [
        ("local", ["a", "b"], "; adapters in {run}/clients"),
        ("local", ["a"], "; adapters in {run}/clients but none of b"),
        ("local", None, ""),
        ("flower", [], "; adapters at the sites, each in its own folder: state/RUN/clients/ID/adapter"),
    ],
)
def test_adapters_are_where_their_clients_are(engine, exported, words, tmp_path):
    settings = {"base": "/", "experiment": {"engine": engine, "methods": {"fedit": {}}}}
    (tmp_path / "experiment.yaml").write_text(yaml.safe_dump(settings))
    for client in exported or []:
        (tmp_path / "clients" / client / "adapter").mkdir(parents=True)
    if exported == []:
        (tmp_path / "clients").mkdir()  # as a run over sites leaves it
    assert _describe_adapters(tmp_path, ["a", "b"]) == words.format(run=tmp_path)

"""A site's export: its adapter at home, with a model card that holds its own scores."""

import json

from fedpeft.config import load_experiment
from fedpeft.engines.flower.exchange import pack_resources
from fedpeft.engines.flower.protocol import pack, unpack
from fedpeft.federation.message import Message, encode
from fedpeft.resources import ClientResources
from fedpeft.runs.spec import RunSpec
from fedpeft.sites.config import SiteConfig
from fedpeft.sites.site import Site


def test_an_export_has_a_card_with_the_scores_of_this_site_alone(experiment_file, tiny_data, tmp_path):
    rows = [json.loads(line) for line in tiny_data.read_text().splitlines()]
    own = [{"text": row["text"], "label": row["label"]} for row in rows if row["site"] == "site1"]
    (tmp_path / "own.jsonl").write_text("\n".join(map(json.dumps, own)))
    experiment = load_experiment(experiment_file, ["task.labels=['0','1']", "engine=local"])
    site = Site(SiteConfig(id="north", source=str(tmp_path / "own.jsonl"), folder=str(tmp_path / "state")))
    header = {
        "ask": "export", "client": "north", "settings": RunSpec(experiment, "fedit", 0, None, tmp_path).as_dict(),
        "resources": pack_resources(ClientResources()), "run": "0" * 16, "base": 0, "model": "received",
    }  # fmt: skip
    answer, _ = unpack(site.answer(pack(header, [encode(Message("north", 1, {}))])))
    site._close()
    assert answer["scores"] == {}, answer
    card = (tmp_path / "state" / ("0" * 16) / "clients/north/adapter/README.md").read_text()
    assert "# Adapter of client `north`" in card and "| federation | 3 rounds, seed 0 |" in card
    assert "| received | what the server sent, after aggregation | test (" in card
    assert str(tmp_path) not in card

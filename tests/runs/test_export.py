"""Exported folders: each client's own rank, merged factors and masked rows, as PEFT reads them."""

import pytest
import torch
from peft import LoraConfig, PeftConfig

from fedpeft.adapters import lora_config, lora_pairs, merged_names
from fedpeft.config import load_experiment
from fedpeft.federation.message import Message
from fedpeft.federation.task import logits
from fedpeft.methods.local import Local
from fedpeft.runs.build import build
from fedpeft.runs.export import export_adapters
from fedpeft.runs.predict import predict

RANKS = {"site0": 1, "site1": 2, "site2": 3}


class Odd(Local):
    """site0 trains some rows, site1 holds something merged, site2 is plain; all differ in rank."""

    def adapter(self, model, client):
        return lora_config(model, RANKS[client.id], 2.0, density=0.4 if client.id == "site0" else 1.0)

    def personal(self, model, message, client):
        draw = torch.Generator().manual_seed(RANKS[client.spec.id])
        model.write({name: 0.3 * torch.randn(t.shape, generator=draw) for name, t in model.read().items()})
        model.set_rows({module: rows + 2 for module, rows in model.rows().items()})
        if client.spec.id == "site1":
            module, _, _ = lora_pairs(model.names)[0]
            a, b = merged_names(module)
            model.merge({a: torch.randn(4, 32, generator=draw), b: torch.randn(32, 4, generator=draw)})


@pytest.fixture
def exported(experiment_file, tmp_path):
    experiment = load_experiment(experiment_file, [])
    built = build(experiment, Odd(experiment.build_method("local", None).options), 0, tmp_path)
    export_adapters(tmp_path / "clients", built, experiment)
    yield tmp_path, built
    built.engine.close()


def test_every_folder_predicts_what_the_clients_own_model_does(exported):
    folder, built = exported
    texts = ["a great lovely film", "we saw the dull broken book today"]
    for name, client in built.engine.clients.items():
        slot = built.engine.templates[name].clone()
        built.federation.method.personal(slot, Message(name, 1, {}), client)
        batch = built.tokenizer(texts, padding=True, return_tensors="pt")
        with torch.no_grad():
            shares = logits(slot, batch).softmax(-1)
        for row, share in zip(predict(folder, name, texts), shares, strict=True):
            assert row["probability"] == pytest.approx(float(share.max()), abs=1e-4)


def test_folders_hold_each_clients_own_rank_and_only_plain_lora(exported):
    folder, _ = exported
    configs = {name: PeftConfig.from_pretrained(str(folder / "clients" / name / "adapter")) for name in RANKS}
    assert {type(config) for config in configs.values()} == {LoraConfig}
    assert (configs["site0"].r, configs["site2"].r) == (1, 3)
    assert configs["site1"].r == 6 and sorted(configs["site1"].rank_pattern.values())[-2:] == [2, 6]

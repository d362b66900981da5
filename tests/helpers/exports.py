"""A finished run's export without its training: three clients whose adapters differ in rank and form."""

import pytest
import torch

from fedpeft.adapters import find_lora_pairs, get_frozen_delta_names, make_lora_config
from fedpeft.config import load_experiment
from fedpeft.methods.local import Local
from fedpeft.runs.build import assemble, load_model
from fedpeft.runs.export import make_card
from fedpeft.runs.folder import RunFolder
from fedpeft.runs.model_card import write_model_cards
from fedpeft.runs.spec import RunSpec
from fedpeft.tasks.load import load_task

RANKS = {"site0": 1, "site1": 2, "site2": 3}


class Odd(Local):
    """site0 trains some rows, site1 holds something merged, site2 is plain; all differ in rank."""

    def adapter(self, model, client):
        return make_lora_config(model, RANKS[client.id], 2.0, density=0.4 if client.id == "site0" else 1.0)

    def load_personal(self, model, message, client):
        draw = torch.Generator().manual_seed(RANKS[client.spec.id])
        model.write({name: 0.3 * torch.randn(t.shape, generator=draw) for name, t in model.read().items()})
        model.set_rows({module: rows + 2 for module, rows in model.get_rows().items()})
        if client.spec.id == "site1":
            module, _, _ = find_lora_pairs(model.names)[0]
            a, b = get_frozen_delta_names(module)
            model.set_frozen_delta({a: torch.randn(4, 32, generator=draw), b: torch.randn(32, 4, generator=draw)})


def export(experiment, method, folder):
    """Exports every client's adapter of a run that has not trained; returns its context."""
    data = load_task(experiment.task, experiment.partition, 0, folder)
    backbone = load_model(experiment.model, experiment.task, len(data.labels), 0)
    context = assemble(experiment, method, 0, data, backbone)
    card = make_card(experiment, data.labels)
    context.engine.export(
        context.federation.deployment_messages(), folder / "clients", card, dict.fromkeys(RANKS, "received")
    )
    context.engine.close()
    spec = RunSpec(experiment, "local", 0, None, folder)
    write_model_cards(
        RunFolder(folder), spec, context, dict.fromkeys(RANKS, "received"), {client: {} for client in RANKS}, others=2
    )
    return context


@pytest.fixture
def exported(experiment_file, tmp_path):
    """The run's folder, and the context of the run that has not trained."""
    experiment = load_experiment(experiment_file, [])
    return tmp_path, export(experiment, Odd(experiment.build_method("local", None).options), tmp_path)

"""Levels of resources in a whole run: what a method follows, refuses and notes."""

import pytest

from fedpeft.config import load_experiment
from fedpeft.errors import UserError
from fedpeft.runs.build import build
from fedpeft.runs.spec import RunSpec
from fedpeft.scenarios import get_overrides


@pytest.fixture
def build_with(experiment_file):
    def build_method(label, *overrides):
        wanted = [*get_overrides("four-levels"), *overrides]
        context = build(RunSpec(load_experiment(experiment_file, wanted), label, 0, None, experiment_file.parent))
        context.engine.close()
        return context

    return build_method


def get_ranks(context, part):
    return [next(t for n, t in tensors.items() if part in n).shape for _, tensors in sorted(context.initial.items())]


def test_fedreft_does_not_train_as_if_there_were_no_levels(build_with):
    with pytest.raises(UserError, match=r"differ in rank, layers or density; .*`levels: lowest`"):
        build_with("fedreft")
    lowest = build_with("fedreft", "methods.fedreft.levels=lowest")
    assert {shape[1] for shape in get_ranks(lowest, "reft_R")} == {1}
    assert "FedReft does not follow density of `resources`" in lowest.data.notes


def test_loreft_follows_each_clients_rank_where_nothing_is_aggregated(build_with):
    context = build_with("local", "methods.local.adapter={kind: loreft, r: 4}")
    assert {shape[1] for shape in get_ranks(context, "reft_R")} <= {4, 2, 1}
    assert len({shape[1] for shape in get_ranks(context, "reft_R")}) > 1


def test_what_is_not_followed_is_noted(build_with):
    assert "HetLora does not follow density of `resources`" in build_with("hetlora").data.notes
    assert "Centralised does not follow any setting of `resources`" in build_with("centralised").data.notes
    assert not [note for note in build_with("fedhft").data.notes if "follow" in note]


def test_an_adapter_of_several_lora_says_that_it_takes_more(build_with):
    notes = build_with("fedalt", "methods.fedalt.levels=lowest").data.notes
    assert [note for note in notes if note.startswith("FedAlt holds several LoRA of the rank given")]
    assert not [note for note in build_with("hetlora").data.notes if "several LoRA" in note]

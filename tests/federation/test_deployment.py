"""Which model a client deploys: by its own validation rows, or as the experiment says."""

import math

import pytest
from pydantic import ValidationError

from fedpeft.federation.deployment import choose_models, count_choices, list_model_choices, select_deployed
from fedpeft.federation.method import Method
from fedpeft.federation.training_config import TrainingConfig
from fedpeft.methods.fedavg_ft import FedAvgFt


def choose(received, trained, rule="validation", metric="accuracy"):
    """The choice of one client by its two candidates' (score, loss)."""
    pairs = {"received": received, "trained": trained}
    scores = {choice: {"a": {metric: score, "loss": loss}} for choice, (score, loss) in pairs.items()}
    return choose_models(rule, ["a"], scores, metric)["a"]


@pytest.mark.parametrize(
    ("received", "trained", "choice"),
    [
        ((0.5, 1.0), (0.6, 2.0), "trained"),  # the better score, whatever the loss
        ((0.6, 2.0), (0.5, 1.0), "received"),
        ((0.5, 1.0), (0.5, 0.9), "trained"),  # of equal ones the lower loss
        ((0.5, 0.9), (0.5, 1.0), "received"),
        ((0.5, 1.0), (0.5, 1.0), "received"),  # of equal losses what was received
        ((math.nan, 1.0), (0.0, 9.0), "trained"),  # no number is the worst score
        ((0.5, math.nan), (0.5, 9.0), "trained"),
        ((math.nan, 1.0), (math.nan, 1.0), "received"),
    ],
)
def test_the_best_on_its_own_validation_rows_is_deployed(received, trained, choice):
    assert choose(received, trained) == choose(received, trained, metric="pearson") == choice


@pytest.mark.parametrize("rule", ["received", "trained"])
def test_a_rule_that_names_a_model_asks_no_score(rule):
    assert choose((0.9, 0.0), (0.1, 9.0), rule) == choose((0.1, 9.0), (0.9, 0.0), rule) == rule


def test_each_client_chooses_for_itself():
    scores = {
        "received": {"a": {"accuracy": 0.1, "loss": 1.0}, "b": {"accuracy": 0.9, "loss": 1.0}},
        "trained": {"a": {"accuracy": 0.2, "loss": 1.0}, "b": {"accuracy": 0.8, "loss": 1.0}},
    }
    choices = choose_models("validation", ["a", "b"], scores, "accuracy")
    assert choices == {"a": "trained", "b": "received"} and count_choices(choices) == {"received": 1, "trained": 1}
    assert select_deployed(choices, scores) == {"a": scores["trained"]["a"], "b": scores["received"]["b"]}


def test_where_no_trained_models_are_kept_the_received_one_is_the_only_candidate():
    assert list_model_choices(TrainingConfig(), Method) == ("received", "trained")
    assert list_model_choices(TrainingConfig(before_aggregation=False), Method) == ("received",)
    scores = {"received": {"a": {"accuracy": 0.1, "loss": 1.0}}}
    assert choose_models("validation", ["a"], scores, "accuracy") == {"a": "received"}
    with pytest.raises(ValidationError, match="before_aggregation: false does not keep"):
        TrainingConfig(before_aggregation=False, deploy="trained")


@pytest.mark.parametrize("rule", ["received", "trained", "validation"])
def test_a_method_whose_clients_deploy_what_they_trained_does_so_whatever_is_kept(rule):
    for keeps in (True, False):
        training = TrainingConfig.model_construct(before_aggregation=keeps)
        assert list_model_choices(training, FedAvgFt) == ("trained",)
    scores = {"trained": {"a": {"accuracy": 0.1, "loss": 1.0}}}
    assert choose_models(rule, ["a"], scores, "accuracy") == {"a": "trained"}

import pytest
from pydantic import ValidationError

from fedpeft.federation.training_config import TrainingConfig


@pytest.mark.parametrize(
    "values",
    [
        {"rounds": 0}, {"local_epochs": 0}, {"batch_size": 0}, {"weight_decay": -0.1}, {"lr_decay": 0.0},
        {"lr_decay": 1.1}, {"participation": 0.0}, {"participation": 1.1}, {"quorum": 0.0}, {"quorum": 1.5},
        {"norm_limit": 1.0}, {"evaluate_every": -1}, {"learning_rate": 1.0}, {"weight_decay": float("nan")},
        {"norm_limit": float("inf")}, {"rounds": 2.5}, {"momentum": 0.9}, {"momentum": 1.0, "optimiser": "sgd"},
        {"schedule": "step"}, {"schedule_span": "epoch"}, {"warmup_ratio": 1.0}, {"max_grad_norm": 0.0},
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused_by_its_name(values):
    with pytest.raises(ValidationError, match=next(iter(values))):
        TrainingConfig(**values)


def test_the_ends_of_every_range_are_allowed():
    training = TrainingConfig(participation=1, quorum=1, lr_decay=1, weight_decay=0, evaluate_every=0, norm_limit=None)
    assert training.norm_limit is None and TrainingConfig().norm_limit == 10.0

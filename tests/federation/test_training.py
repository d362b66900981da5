"""Local training, held against a loop written out: gradients and steps, not where Adam went."""

import pytest
import torch
from helpers.local_training import EXAMPLES, PADDING, CrossEntropy, build, make_trainer

from fedpeft.federation.client import Client, ClientSpec
from fedpeft.federation.training import LocalTrainer, train_locally
from fedpeft.federation.training_config import TrainingConfig
from fedpeft.resources import ClientResources
from fedpeft.tasks.encode import collate


def gradients_of_first_step(model, resources=None, penalty=None):
    """By name, as they stand when the optimiser is about to move."""
    seen = []

    def observe():
        if not seen:
            parameters = zip(model.names, model.parameters(), strict=True)
            seen.append({name: p.grad.clone() for name, p in parameters})

    train_locally(make_trainer(model, TrainingConfig(batch_size=8), resources), penalty, observe)
    return seen[0]


def expected_gradients(model):
    batch = collate(EXAMPLES, PADDING)
    logits = model.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    torch.nn.functional.cross_entropy(logits, batch["labels"]).backward()
    return {name: p.grad.clone() for name, p in zip(model.names, model.parameters(), strict=True)}


def assert_equal(gradients, expected):
    """Up to the head's float32."""
    assert gradients.keys() == expected.keys()
    for name, gradient in gradients.items():
        assert (gradient - expected[name]).norm() <= 1e-5 * expected[name].norm() + 1e-7, name


@pytest.mark.parametrize("micro_batch", [None, 1, 3, 8, 100])
@pytest.mark.parametrize("kind", ["lora", "reft"])
def test_gradients_are_those_of_the_batchs_mean_loss(kind, micro_batch):
    resources = ClientResources(micro_batch=micro_batch)
    assert_equal(gradients_of_first_step(build(kind), resources), expected_gradients(build(kind)))


def test_a_penalty_adds_its_gradient_once_whatever_the_micro_batch():
    model = build("lora")
    first = model.parameters()[0]
    gradients = gradients_of_first_step(model, ClientResources(micro_batch=2), lambda: first.sum())
    expected = expected_gradients(build("lora"))
    expected[model.names[0]] += 1
    assert_equal(gradients, expected)


def test_the_loss_returned_is_the_last_epochs_mean_per_label():
    model = build("lora")
    trainer = make_trainer(model, TrainingConfig(batch_size=8, local_epochs=1))
    batch = collate(EXAMPLES, PADDING)
    logits = build("lora").model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    assert train_locally(trainer) == pytest.approx(float(torch.nn.functional.cross_entropy(logits, batch["labels"])))


def test_weight_decay_reaches_everything_but_r():
    """One step whose gradients are zero moves a decayed tensor by lr x decay of itself, and nothing else."""
    model = build("reft")
    trainer = make_trainer(model, TrainingConfig(batch_size=8, weight_decay=0.5))
    with torch.no_grad():
        for name, parameter in zip(model.names, model.parameters(), strict=True):
            if not name.endswith("reft_R"):
                parameter.fill_(1.0)
    before = dict(zip(model.names, [p.detach().clone() for p in model.parameters()], strict=True))
    model.retract_ = lambda: None  # it would hide a shrunken R
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    trainer.step(collate(EXAMPLES, PADDING), torch.tensor(0.0))
    for name, parameter in zip(model.names, model.parameters(), strict=True):
        expected = before[name] if name.endswith("reft_R") else (1 - 1e-3 * 0.5) * before[name]
        assert torch.allclose(parameter, expected, rtol=1e-6), name
        assert not torch.equal(parameter, before[name]) or name.endswith("reft_R")


def test_weight_decay_reaches_every_tensor_of_lora():
    model = build("lora")
    groups = make_trainer(model, TrainingConfig(weight_decay=0.1))._optimiser.param_groups
    assert [group["weight_decay"] for group in groups] == [0.1]
    assert len(groups[0]["params"]) == len(model.names)


def test_r_has_orthonormal_rows_after_every_step():
    model = build("reft")
    train_locally(make_trainer(model, TrainingConfig(batch_size=2, local_epochs=2, weight_decay=0.1)))
    for name, parameter in zip(model.names, model.parameters(), strict=True):
        if name.endswith("reft_R"):
            product = parameter.detach() @ parameter.detach().mT
            assert torch.allclose(product, torch.eye(2, dtype=product.dtype).expand_as(product), atol=1e-5)


def test_what_is_not_named_is_not_trained_and_leaves_no_gradient():
    model = build("lora")
    parameters = dict(zip(model.names, model.parameters(), strict=True))
    frozen, trained = model.names[0], model.names[1:]
    parameters[frozen].grad = torch.ones_like(parameters[frozen])  # a client that failed may have left some
    before = parameters[frozen].detach().clone()
    spec = ClientSpec("c", len(EXAMPLES))
    client = Client(spec, {"train": EXAMPLES}, CrossEntropy(), PADDING, {}, 0)
    trainer = LocalTrainer(model, client, trained, 1e-3, TrainingConfig(), torch.Generator().manual_seed(0), 1)
    train_locally(trainer)
    assert torch.equal(parameters[frozen], before) and parameters[frozen].grad is None


@pytest.mark.parametrize("micro_batch", [1, 3])
def test_the_loss_of_micro_batches_is_that_of_the_whole_batch(micro_batch):
    whole, parts = (
        train_locally(make_trainer(build("lora"), TrainingConfig(batch_size=8), resources))
        for resources in (None, ClientResources(micro_batch=micro_batch))
    )
    assert parts == pytest.approx(whole, rel=1e-12)

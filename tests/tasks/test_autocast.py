"""Products in bfloat16: the loss is rounded and nothing else changes its precision."""

import pytest
import torch
from helpers.caching import enable_cache
from helpers.decoding import EXAMPLES, PADDING
from peft import get_peft_model

from fedpeft.acceleration.prefix_cache import PrefixCache
from fedpeft.adapters import AdaptedModel, LoReftConfig, make_lora_config
from fedpeft.backbones import load_decoder
from fedpeft.tasks.autocast import Autocast
from fedpeft.tasks.config import TaskConfig
from fedpeft.tasks.encode import collate
from fedpeft.tasks.kinds import make_task


@pytest.fixture(params=["lora", "loreft"])
def model(request, tiny_decoder):
    torch.manual_seed(0)
    decoder, _ = load_decoder(str(tiny_decoder))
    configs = {
        "lora": make_lora_config(decoder, 2, 4.0, layers=[1]),
        "loreft": LoReftConfig(r=2, positions="all", layers=[1]),
    }
    adapted = AdaptedModel(get_peft_model(decoder, configs[request.param]))
    draw = torch.Generator().manual_seed(3)
    adapted.write({n: t + 0.3 * torch.randn(t.shape, generator=draw) for n, t in adapted.read().items()})
    adapted.retract_()
    return adapted


@pytest.fixture
def task(tokenizer):
    config = TaskConfig(source="rows.jsonl", kind="multiple_choice", trigger="answer is ", max_new_tokens=4)
    return make_task(config, ["no", "yes"], tokenizer, 32)


@pytest.fixture
def batch(encoded):
    return collate(encoded[:2], PADDING)


def compute_gradients(task, model, batch):
    losses = task.losses(model, batch)
    losses.sum().backward()
    gradients = [parameter.grad for parameter in model.parameters()]
    for parameter in model.parameters():
        parameter.grad = None
    return losses.detach(), gradients


def test_losses_and_gradients_are_rounded_and_float32(model, task, batch):
    losses, gradients = compute_gradients(task, model, batch)
    rounded_losses, rounded_gradients = compute_gradients(Autocast(task, torch.bfloat16), model, batch)
    assert rounded_losses.dtype == torch.float32 and not torch.equal(rounded_losses, losses)
    torch.testing.assert_close(rounded_losses, losses, rtol=2e-2, atol=0)
    for rounded, exact, parameter in zip(rounded_gradients, gradients, model.parameters(), strict=True):
        assert rounded.dtype == parameter.dtype == torch.float32
        assert (rounded - exact).norm() < 0.2 * exact.norm() + 1e-6


def test_scores_are_rounded_alike(model, task, encoded):
    lower = Autocast(task, torch.bfloat16)
    assert lower.metric == task.metric
    rounded, exact = lower.scores(model, encoded, PADDING), task.scores(model, encoded, PADDING)
    assert rounded["loss"] != exact["loss"] and rounded["loss"] == pytest.approx(exact["loss"], rel=2e-2)


def test_examples_are_encoded_as_by_the_task_itself(task):
    assert Autocast(task, torch.bfloat16).encode(EXAMPLES) == task.encode(EXAMPLES)


def test_predictions_are_made_in_the_lower_precision(model, task, encoded, monkeypatch):
    is_lower = []

    def generate(*arguments, **options):
        is_lower.append((torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu"), options))
        return ["yes"] * 3

    monkeypatch.setattr("fedpeft.tasks.kinds.common.decoder.generate", generate)
    assert Autocast(task, torch.bfloat16).predict(model, encoded, PADDING, top_k=5) == [{"written": "yes"}] * 3
    task.predict(model, encoded, PADDING)
    assert is_lower[0] == (True, torch.bfloat16, {"top_k": 5})
    assert is_lower[1][0] is False


def test_logits_are_not_rounded(model, batch):
    """Rounded ones tie, and a tie goes to the first choice."""
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        logits = model.model(**inputs).logits
    assert logits.dtype == torch.float32
    assert not torch.equal(logits, logits.bfloat16().float())


def test_a_cache_keeps_the_precisions_apart(model, task, batch):
    lower, cache = Autocast(task, torch.bfloat16), PrefixCache(4)
    with torch.no_grad():
        expected = lower.losses(model, batch)
        with enable_cache(cache, model):
            task.losses(model, batch)
            losses = lower.losses(model, batch)
    assert cache.stats.computed == 2 * len(batch["input_ids"])
    torch.testing.assert_close(losses, expected, rtol=1e-2, atol=0)

"""Products in bfloat16: the loss is rounded and nothing else changes its precision."""

import pytest
import torch
from fedpeft.federation.answers import MultipleChoice
from fedpeft.federation.task import Autocast, autocast
from peft import get_peft_model
from transformers import AutoTokenizer

from fedpeft.acceleration import PrefixCache
from fedpeft.adapters import AdaptedModel, LoReftConfig, make_lora_config
from fedpeft.backbones import load_decoder
from fedpeft.tasks.encode import Padding, collate, encode_prompts
from fedpeft.tasks.examples import Example

PADDING = Padding(0, "left")
ROWS = [
    Example("we saw a film it was good", 0, target="answer is yes", answer="yes", choices=("yes", "no")),
    Example("dull", 1, target="answer is no", answer="no", choices=("yes", "no")),
]


@pytest.fixture(params=["lora", "loreft"])
def slot(request, tiny_decoder):
    torch.manual_seed(0)
    model, _ = load_decoder(str(tiny_decoder))
    kinds = {
        "lora": make_lora_config(model, 2, 4.0, layers=[1]),
        "loreft": LoReftConfig(r=2, positions="all", layers=[1]),
    }
    slot = AdaptedModel(get_peft_model(model, kinds[request.param]))
    draw = torch.Generator().manual_seed(3)
    slot.write({n: t + 0.3 * torch.randn(t.shape, generator=draw) for n, t in slot.read().items()})
    slot.retract_()
    return slot


@pytest.fixture
def plain(tiny_decoder):
    return MultipleChoice(AutoTokenizer.from_pretrained(tiny_decoder), 4, "answer is ", False, "likelihood_accuracy")


@pytest.fixture
def rows(tiny_decoder):
    return encode_prompts(ROWS, AutoTokenizer.from_pretrained(tiny_decoder), 32, lambda row: row.text + " :")


def gradients(task, slot, rows):
    losses = task.losses(slot, collate(rows, PADDING))
    losses.sum().backward()
    found = [parameter.grad for parameter in slot.parameters()]
    for parameter in slot.parameters():
        parameter.grad = None
    return losses.detach(), found


def test_losses_and_gradients_are_rounded_and_float32(slot, plain, rows):
    losses, found = gradients(plain, slot, rows)
    rounded, coarse = gradients(Autocast(plain, torch.bfloat16), slot, rows)
    assert rounded.dtype == torch.float32 and not torch.equal(rounded, losses)
    torch.testing.assert_close(rounded, losses, rtol=2e-2, atol=0)
    for one, other, parameter in zip(coarse, found, slot.parameters(), strict=True):
        assert one.dtype == parameter.dtype == torch.float32
        assert (one - other).norm() < 0.2 * other.norm() + 1e-6


def test_scores_are_computed_alike(slot, plain, rows):
    lower = Autocast(plain, torch.bfloat16)
    assert lower.metric == plain.metric
    one, other = lower.scores(slot, rows, PADDING), plain.scores(slot, rows, PADDING)
    assert one["loss"] != other["loss"] and one["loss"] == pytest.approx(other["loss"], rel=2e-2)


def test_logits_are_not_rounded(slot, rows):
    """Rounded ones tie, and a tie goes to the first choice."""
    with autocast(slot, torch.bfloat16), torch.no_grad():
        logits = slot.model(**{k: v for k, v in collate(rows, PADDING).items() if k in ("input_ids", "attention_mask")})
    assert logits.logits.dtype == torch.float32
    assert not torch.equal(logits.logits, logits.logits.bfloat16().float())


def test_a_cache_keeps_the_two_apart(slot, plain, rows):
    lower, cache, batch = Autocast(plain, torch.bfloat16), PrefixCache(4), collate(rows, PADDING)
    with torch.no_grad():
        expected = lower.losses(slot, batch)
        with slot.cached(cache):
            plain.losses(slot, batch)
            found = lower.losses(slot, batch)
    assert cache.stats.computed == 2 * len(rows)
    torch.testing.assert_close(found, expected, rtol=1e-2, atol=0)

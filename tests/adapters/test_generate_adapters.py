"""Text that adapted decoders write: the same with and without a key-value cache, batched and one by one.

reft/test_generation.py has LoReFT on every architecture, by hand and on both padding sides.
"""

import pytest
import torch
from peft import get_peft_model

from fedpeft.adapters import AdaptedModel, LoReftConfig, MaskedLoraConfig, make_lora_config

STEPS, SIZES = 6, (11, 4, 1)  # tokens written; tokens of the prompts of `padded`
KINDS = ("lora", "merged", "masked", "masked and merged", "f2+l2", "f2+l2 tied", "all", "f3", "l2 of one block")
ARCHITECTURES = ("llama", "gpt2")


@pytest.fixture
def set_checkpointing_():
    return pytest.importorskip("fedpeft.acceleration.checkpointing").set_checkpointing_


@pytest.fixture
def adapted(tiny, stir, factors):
    """adapted("merged", "llama") -> an adapted decoder, away from its start, in float64."""

    def build(kind, architecture):
        model = tiny(architecture).double()
        if "merged" in kind or "lora" in kind or "masked" in kind:
            config = make_lora_config(model, r=2, alpha=3, density=0.4 if "masked" in kind else 1.0)
            assert isinstance(config, MaskedLoraConfig) == ("masked" in kind)
        else:
            positions, *other = kind.split(" ")
            layers = [1] if "one" in other else "all"
            config = LoReftConfig(r=3, positions=positions, tied="tied" in other, layers=layers)
        peft = get_peft_model(model, config).double()
        stir(peft)
        result = AdaptedModel(peft)
        result.set_frozen_delta(factors(result, 3) if "merged" in kind else {})
        return result

    return build


def generate(model, batch, **options):
    """Tokens written (rows, steps) and the scores they were chosen by (rows, steps, vocabulary)."""
    out = model.generate(
        **batch,
        max_new_tokens=STEPS,
        min_new_tokens=STEPS,  # the end token scores -inf
        do_sample=False,
        output_scores=True,
        return_dict_in_generate=True,
        **options,
    )
    return out.sequences[:, -STEPS:], torch.stack(out.scores, 1)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("kind", KINDS)
def test_cache_or_not_and_batched_or_alone(kind, architecture, adapted, padded):
    model, batch = adapted(kind, architecture).model, padded("left")
    tokens, scores = generate(model, batch, use_cache=True)
    plain_tokens, plain_scores = generate(model, batch, use_cache=False)
    assert torch.equal(tokens, plain_tokens)
    torch.testing.assert_close(scores, plain_scores, rtol=1e-8, atol=1e-8)
    for row, size in enumerate(SIZES):
        alone = {name: tensor[row : row + 1, -size:] for name, tensor in batch.items()}
        own_tokens, own_scores = generate(model, alone, use_cache=True)
        assert torch.equal(tokens[row], own_tokens[0])
        torch.testing.assert_close(scores[row], own_scores[0], rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("kind", KINDS)
def test_the_adapter_is_heard(kind, adapted, padded):
    adapted, batch = adapted(kind, "llama"), padded("left")
    _, scores = generate(adapted.model, batch)
    adapted.set_frozen_delta({})
    with adapted.model.disable_adapter():
        _, plain = generate(adapted.model, batch)
    finite = plain.isfinite()
    assert (scores - plain)[finite].abs().max() > 0.05


def test_masked_rows_and_merged_factors_speak_as_their_whole_update_does(adapted, tiny, padded):
    adapted, batch = adapted("masked and merged", "llama"), padded("left")
    plain = tiny("llama").double()
    for module, (A, B) in adapted.effective_factors.items():
        with torch.no_grad():
            plain.get_submodule(module.removeprefix("base_model.model.")).weight += B @ A
    tokens, scores = generate(adapted.model, batch)
    dense_tokens, dense_scores = generate(plain, batch)
    assert torch.equal(tokens, dense_tokens)
    torch.testing.assert_close(scores, dense_scores, rtol=1e-8, atol=1e-8)


def test_sampling_from_equal_seeds_is_equal_with_and_without_cache(adapted, padded):
    model, batch = adapted("f2+l2", "llama").model, padded("left")
    drawn = []
    for use_cache in (True, False):
        torch.manual_seed(3)
        drawn.append(model.generate(**batch, max_new_tokens=STEPS, do_sample=True, top_k=0, use_cache=use_cache))
    assert torch.equal(drawn[0], drawn[1])


@pytest.mark.parametrize("kind", ["lora", "masked", "f2+l2"])
def test_checkpointing_does_not_touch_generation(kind, adapted, padded, set_checkpointing_):
    adapted, batch = adapted(kind, "llama"), padded("left")
    expected = generate(adapted.model, batch)
    set_checkpointing_(adapted.base, True)
    got = generate(adapted.model, batch)
    assert all(torch.equal(a, b) for a, b in zip(expected, got, strict=True))


@pytest.mark.parametrize("kind", ["lora", "masked and merged", "f2+l2", "all"])
def test_recomputed_gradients_of_the_answer_are_bit_equal(kind, adapted, padded, set_checkpointing_):
    """The causal language model itself; test_checkpointing has the classifiers."""
    adapted, batch = adapted(kind, "llama"), padded()
    labels = batch["input_ids"].where(batch["attention_mask"].cumsum(-1) > 3, -100)  # the answer: after 3 tokens
    results = []
    for on in (False, True):
        set_checkpointing_(adapted.base, on)
        loss = adapted.model(**batch, labels=labels).loss
        results.append((loss.detach(), *torch.autograd.grad(loss, adapted.parameters())))
    assert all(g.any() for g in results[0])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))

"""FedLEASE's adaptive choice against sorting by hand; similarity against one text at a time."""

import pytest
import torch
from peft import get_peft_model

from fedpeft.acceleration import optimise_forward_
from fedpeft.adapters import AdaptedModel, make_experts_config
from fedpeft.adapters.experts.gate import NAME, get_shared_gate, select_adaptively

REFERENCE, LIMIT = (f"base_model.model.{NAME}.expert_{part}" for part in ("reference", "limit"))


def choose_by_hand(logits, experts, count):
    """The weights of each expert, one token at a time: choices sorted, the first `count` kept, the surplus our own."""
    choices = [*range(count), *range(experts, experts + count - 1)]
    rows = []
    for row in logits.tolist():
        powers = {c: torch.tensor(row[c], dtype=torch.float64).exp() for c in choices}
        best = sorted(choices, key=lambda c: -powers[c])[:count]
        weights = [0.0] * experts
        for c in best:
            weights[c if c < experts else 0] += float(powers[c] / sum(powers[b] for b in best))
        rows.append(weights)
    return torch.tensor(rows, dtype=torch.float64)


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_the_adaptive_choice_is_the_best_of_twice_as_many(count):
    logits = torch.randn(200, 7, generator=torch.Generator().manual_seed(count), dtype=torch.float64)
    weights = select_adaptively(logits, torch.tensor([float(count)]))
    torch.testing.assert_close(weights, choose_by_hand(logits, 4, count), rtol=0, atol=1e-12)
    counts = {int(n) for n in (weights > 0).sum(-1)}  # from the client's own expert alone to all of them
    assert counts == set(range(1, count + 1)) if count < 4 else {2, 3, 4} <= counts


def test_one_expert_is_plain_lora():
    logits = torch.randn(5, 7)
    assert torch.equal(select_adaptively(logits, torch.ones(1)), torch.eye(4)[:1].expand(5, 4))


def test_gradients_reach_the_router_through_the_choices_kept():
    logits = torch.randn(50, 7, dtype=torch.float64, requires_grad=True)
    select = lambda values: select_adaptively(values, torch.tensor([3.0]))  # noqa: E731
    assert torch.autograd.gradcheck(select, (logits,))
    unused = torch.autograd.grad(select(logits).square().sum(), logits)[0][:, [3, 6]]
    assert not unused.any()


@pytest.fixture
def similar(tiny, tiny_classifier):
    """similar("bert", seed) -> an adapted model with a gate by similarity, away from its start."""

    def build(architecture):
        plain = tiny_classifier(architecture) if architecture == "bert" else tiny(architecture)
        model = AdaptedModel(get_peft_model(plain, make_experts_config(plain, 3, 6, 2, "similarity")))
        draw = torch.Generator().manual_seed(1)
        values = {n: 0.3 * torch.randn(t.shape, generator=draw) for n, t in model.read().items()}
        model.write(values | {LIMIT: torch.tensor([0.9])})
        return model, get_shared_gate(model.base)

    return build


def read_vectors(model, gate, **batch):
    """The unit vectors (batch, width) that the gate compares."""
    with gate.collect_vectors() as collected:
        read_logits(model, **batch)
    (vectors,) = collected
    return vectors


@torch.no_grad()
def read_logits(model, **batch):
    options = {} if hasattr(model.base, "classifier") else {"use_cache": False}
    return model.model(**batch, **options).logits


def make_batch():
    ids = torch.randint(3, 60, (3, 12), generator=torch.Generator().manual_seed(2))
    mask = torch.ones_like(ids)
    mask[0, 3:] = mask[1, 7:] = 0
    return {"input_ids": ids, "attention_mask": mask}


@pytest.mark.parametrize("architecture", ["bert", "llama"])
def test_each_text_is_weighed_by_its_own_cosine(similar, architecture):
    model, gate = similar(architecture)
    batch, rows = make_batch(), []
    whole = read_logits(model, **batch)
    vectors, reference = read_vectors(model, gate, **batch), model.read()[REFERENCE]
    torch.testing.assert_close(vectors.norm(dim=-1), torch.ones(3))
    for i, length in enumerate((3, 7, 12)):
        weight = 0.9 * max(0.0, float(vectors[i] @ reference))
        with gate.use_weights((weight, 1 - weight)):
            rows.append(read_logits(model, input_ids=batch["input_ids"][i : i + 1, :length]))
        own = whole[i : i + 1] if architecture == "bert" else whole[i : i + 1, :length]
        torch.testing.assert_close(own, rows[-1], rtol=1e-4, atol=1e-4)
    with gate.use_weights((0.45, 0.55)):
        assert float((read_logits(model, **batch) - whole).abs().max()) > 1e-3


@pytest.mark.parametrize("architecture", ["bert", "llama"])
def test_the_vector_is_the_last_blocks_state_with_the_first_expert_alone(similar, architecture):
    model, gate = similar(architecture)
    ids = make_batch()["input_ids"][:1]
    vector = read_vectors(model, gate, input_ids=ids)
    states = []
    blocks = model.base.backbone.encoder.layer if architecture == "bert" else model.base.model.layers
    blocks[-1].register_forward_hook(lambda _, __, out: states.append(out if torch.is_tensor(out) else out[0]))
    with gate.use_weights((1.0, 0.0)):
        read_logits(model, input_ids=ids)
    expected = states[0].mean(1) if architecture == "bert" else states[0][:, -1]
    torch.testing.assert_close(vector, torch.nn.functional.normalize(expected, dim=-1))


def test_a_reference_of_several_texts_is_the_mean_of_their_cosines(similar):
    model, gate = similar("bert")
    texts = read_vectors(model, gate, **make_batch())
    model.write({REFERENCE: texts.mean(0), LIMIT: torch.tensor([0.5])})
    read_logits(model, **make_batch())
    expected = 0.5 * torch.stack([torch.cosine_similarity(text, texts, dim=-1).mean() for text in texts]).clamp(min=0)
    torch.testing.assert_close(gate._weights[:, 0], expected)


@pytest.mark.parametrize("architecture", ["bert", "llama"])
def test_blocks_without_padding_give_the_same(similar, architecture):
    model, _ = similar(architecture)
    expected, mask = read_logits(model, **make_batch()), make_batch()["attention_mask"].bool()
    optimise_forward_(model)
    shapes = []
    layer = next(module for module in model.model.modules() if hasattr(module, "expert_lora"))
    layer.register_forward_pre_hook(lambda _, inputs: shapes.append(tuple(inputs[0].shape[:2])))
    result = read_logits(model, **make_batch())
    assert shapes[-1] == (1, 22)
    tokens = slice(None) if architecture == "bert" else mask
    torch.testing.assert_close(result[tokens], expected[tokens], rtol=1e-4, atol=1e-4)


def test_the_prompt_alone_is_compared(similar):
    model, gate = similar("llama")
    batch, prompt = make_batch(), torch.zeros(3, 12, dtype=torch.bool)
    prompt[:, :3] = True
    with model.use_prompt(prompt):
        vectors = read_vectors(model, gate, **batch)
    expected = read_vectors(model, gate, input_ids=batch["input_ids"][:, :3])
    torch.testing.assert_close(vectors, expected, rtol=1e-4, atol=1e-5)


def test_a_written_text_keeps_the_weights_of_its_prompt(similar):
    model, gate = similar("llama")
    ids = make_batch()["input_ids"][2:]
    with torch.no_grad():
        text = model.model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=4, do_sample=False
        )
    weights = tuple(gate._weights[0].tolist())
    with gate.use_weights(weights), torch.no_grad():
        again = model.model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=4, do_sample=False
        )
    assert torch.equal(text, again) and text.shape[1] > 12


@pytest.mark.parametrize("gate", ["router", "adaptive", "similarity"])
def test_nothing_but_experts_routers_and_head_trains(gate, tiny_classifier):
    model = get_peft_model(plain := tiny_classifier("bert"), make_experts_config(plain, 3, 6, 2, gate))
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained and all(".expert_lora." in n or ".expert_gate." in n or "modules_to_save" in n for n in trained)

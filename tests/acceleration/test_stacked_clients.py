"""Several clients in one forward and backward pass, against running each of them alone."""

from contextlib import nullcontext

import pytest
import torch
from helpers.ia3_kind import Ia3Options, use_ia3
from peft import get_peft_model
from torch.nn.functional import cross_entropy
from transformers import AutoModelForSequenceClassification

from fedpeft.acceleration.stacked_clients import StackedClients, copy_base_model, find_unstackable
from fedpeft.adapters import AdaptedModel, LoReftConfig, get_frozen_delta_names, make_lora_config
from fedpeft.backbones import SequenceClassifier
from fedpeft.engines.templates import attach_adapter

PAD = 1
FIRST, LAST = [0], [1, 2]  # blocks
LAYOUTS = {
    "equal": [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7],
    "unequal": [0, 0, 0, 1, 2, 2, 3, 4, 5, 5, 5, 5, 6, 7, 7],
    "mixed": [7, 0, 3, 4, 0, 5, 6, 1, 2, 2, 4],
}


@pytest.fixture
def adapt(stir):
    """adapt(backbone, config, config, ...) -> a model for each, away from its start, over the one backbone."""

    def build(backbone, *configs):
        models = [AdaptedModel(attach_adapter(backbone, config, seed)) for seed, config in enumerate(configs)]
        for seed, model in enumerate(models):
            stir(model.model, seed=seed + 1)
        return models

    return build


@pytest.fixture
def in_float64(tiny):
    """A backbone in float64, head and all: an encoder with a linear head, or a causal language model."""

    def build(architecture):
        if architecture == "llama":
            return tiny("llama").double()
        torch.manual_seed(0)
        config = tiny(architecture).config
        config.num_labels = 3
        model = AutoModelForSequenceClassification.from_config(config).eval().double()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() == 2:
                    parameter.mul_(6.0)
        return model

    return build


def lora(backbone, has_head=True, **options):
    config = make_lora_config(backbone, **options)
    config.modules_to_save = ["classifier"] if has_head else None
    return config


def make_configs(backbone, has_head=True):
    """LoRA of three ranks and scales on different blocks, masked LoRA, LoReFT in every form: one for each client."""
    saved = ["classifier"] if has_head else None
    return [
        lora(backbone, has_head, r=2, alpha=3),
        lora(backbone, has_head, r=4, alpha=4, layers=LAST),
        lora(backbone, has_head, r=3, alpha=9, density=0.3),
        lora(backbone, has_head, r=1, alpha=2, layers=FIRST),
        LoReftConfig(r=2, positions="f2+l3", modules_to_save=saved),
        LoReftConfig(r=3, positions="all", layers=LAST, variant="noreft", modules_to_save=saved),
        LoReftConfig(r=1, positions="l2", variant="direft", modules_to_save=saved),
        LoReftConfig(r=2, positions="f3+l1", tied=True, modules_to_save=saved),
    ]


def make_batch(rows, side="right", seed=0):
    """Rows of 1 to 12 tokens, padded on one side to 12."""
    generator = torch.Generator().manual_seed(seed)
    ids, mask = torch.full((rows, 12), PAD), torch.zeros(rows, 12, dtype=torch.long)
    for row in range(rows):
        length = 12 if row == 0 else int(torch.randint(1, 13, (), generator=generator))
        positions = slice(12 - length, 12) if side == "left" else slice(0, length)
        ids[row, positions] = torch.randint(3, 60, (length,), generator=generator)
        mask[row, positions] = 1
    return {"input_ids": ids, "attention_mask": mask}


def label_answers(batch):
    """Labels for a causal language model: everything after the first third of a row is its answer."""
    length = batch["attention_mask"].sum(-1, keepdim=True)
    position = batch["attention_mask"].cumsum(-1) - 1
    is_prompt = position < (length + 2) // 3
    labels = batch["input_ids"].masked_fill(is_prompt | (batch["attention_mask"] == 0), -100)
    labels[:, -1] = batch["input_ids"][:, -1]  # every row has an answer
    return labels


def token_loss(logits, labels):
    return cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100)


def take_gradients(models):
    """The gradients by client and name, which the models then have no more."""
    gradients = {
        (i, name): parameter.grad
        for i, model in enumerate(models)
        for name, parameter in zip(model.names, model.parameters(), strict=True)
    }
    for model in models:
        model.model.zero_grad()
    return gradients


def compute_both_ways(models, rows, batch, labels, loss):
    """Gradients of the sum of the clients' mean losses: stacked, and one client after another."""
    stacked, is_prompt = StackedClients(models).assign_rows(rows), (labels != -100).cumsum(-1) == 0
    with nullcontext() if labels.dim() == 1 else stacked.use_prompt(is_prompt & (batch["attention_mask"] != 0)):
        logits = stacked(**batch).logits
    rows_of = [[i for i, client in enumerate(rows) if client == own] for own in range(len(models))]
    sum(loss(logits[own], labels[own]) for own in rows_of if own).backward()
    gradients = take_gradients(models)
    expected_logits = torch.zeros_like(logits)
    for model, own in zip(models, rows_of, strict=True):
        if own:
            output = model.model(**{name: tensor[own] for name, tensor in batch.items()}, labels=labels[own])
            expected_logits[own] = output.logits
            loss(output.logits, labels[own]).backward()
    torch.testing.assert_close(logits, expected_logits)
    return gradients, take_gradients(models)


def find_largest_difference(gradients, expected, floor):
    """The largest error of a tensor relative to its largest entry, or to `floor` times its client's if that is larger.

    Saturated attention has gradients that are zero but for rounding.
    """
    assert gradients.keys() == expected.keys() and all(gradient is not None for gradient in gradients.values())
    largest: dict[int, float] = {}
    for (client, _), tensor in expected.items():
        largest[client] = max(largest.get(client, 0.0), float(tensor.abs().max()))
    return max(
        float((gradients[key] - tensor).abs().max()) / max(float(tensor.abs().max()), floor * largest[key[0]])
        for key, tensor in expected.items()
    )


# ---- logits and gradients


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("architecture", ["bert", "llama"])
def test_gradients_are_those_of_each_client_alone(architecture, layout, in_float64, adapt):
    backbone, rows, is_encoder = in_float64(architecture), LAYOUTS[layout], architecture == "bert"
    models = adapt(backbone, *make_configs(backbone, has_head=is_encoder))
    models[2].set_rows({module: numbers + 5 for module, numbers in models[2].get_rows().items()})
    batch = make_batch(len(rows))
    labels = torch.arange(len(rows)) % 3 if is_encoder else label_answers(batch)
    gradients, expected = compute_both_ways(models, rows, batch, labels, cross_entropy if is_encoder else token_loss)
    assert find_largest_difference(gradients, expected, floor=1e-3) < 1e-10


@pytest.mark.parametrize("architecture", ["bert", "gpt2", "mpnet"])
def test_gradients_with_our_head_and_frozen_deltas(architecture, tiny_classifier, adapt, factors):
    backbone = tiny_classifier(architecture)
    backbone.backbone.double()  # the head and so the results are float32
    models = adapt(backbone, *make_configs(backbone)[:4], make_lora_config(backbone, r=2, alpha=3))
    models[0].set_frozen_delta(factors(models[0], rank=3))
    models[1].set_frozen_delta(factors(models[1], rank=40))  # larger than the product, which is held instead
    rows, labels = [0, 0, 1, 1, 2, 2, 3, 3, 4, 4], torch.arange(10) % 3
    gradients, expected = compute_both_ways(models, rows, make_batch(10), labels, cross_entropy)
    assert find_largest_difference(gradients, expected, floor=1.0) < 1e-5
    assert {get_frozen_delta_names(name)[0] for name in models[0].get_dimensions()} <= models[0].frozen_delta.keys()


def test_another_clients_tensors_change_nothing(tiny_classifier, adapt):
    backbone = tiny_classifier("bert")
    models = adapt(backbone, *make_configs(backbone))
    stacked, batch = StackedClients(models).assign_rows(range(8)), make_batch(8)
    with torch.no_grad():
        before = stacked(**batch).logits
        for parameter in models[3].parameters():
            parameter += 1.0
        after = stacked(**batch).logits
    assert (before != after).any(-1).tolist() == [i == 3 for i in range(8)]
    stacked(**batch).logits[[0, 1, 2, 4, 5, 6, 7]].sum().backward()
    has_gradient = [any(parameter.grad.any() for parameter in model.parameters()) for model in models]
    assert has_gradient == [i != 3 for i in range(8)]


def test_clients_without_rows_get_no_gradient(tiny_classifier, adapt):
    backbone = tiny_classifier("bert")
    models = adapt(backbone, *make_configs(backbone))
    StackedClients(models).assign_rows([4, 4, 1])(**make_batch(3)).logits.sum().backward()
    assert [model.parameters()[0].grad is not None for model in models] == [i in (1, 4) for i in range(8)]


def test_a_tensor_that_one_client_does_not_train_gets_no_gradient(tiny_classifier, adapt):
    backbone = tiny_classifier("bert")
    models = adapt(backbone, *[make_lora_config(backbone, r=2, alpha=3)] * 2)
    for name, parameter in zip(models[1].names, models[1].parameters(), strict=True):
        parameter.requires_grad_("lora_A" not in name)
    StackedClients(models).assign_rows([0, 1])(**make_batch(2)).logits.sum().backward()
    for i, model in enumerate(models):
        for name, parameter in zip(model.names, model.parameters(), strict=True):
            assert (parameter.grad is None) == (i == 1 and "lora_A" in name)


def test_beside_a_bfloat16_backbone_adapters_stay_in_float32(tiny_classifier, adapt):
    backbone = tiny_classifier("bert")
    backbone.backbone.to(torch.bfloat16)
    models = adapt(backbone, *make_configs(backbone))
    batch = make_batch(8)
    with torch.no_grad():
        logits = StackedClients(models).assign_rows(range(8))(**batch).logits
        for i, model in enumerate(models):
            expected = model.model(**{name: tensor[i : i + 1] for name, tensor in batch.items()}).logits
            torch.testing.assert_close(logits[i : i + 1], expected, rtol=0.05, atol=0.1)
    assert all(parameter.dtype == torch.float32 for model in models for parameter in model.parameters())


# ---- generation


@pytest.mark.parametrize("use_cache", [True, False])
def test_greedy_answers_are_those_of_each_client_alone(use_cache, in_float64, adapt):
    backbone, rows = in_float64("llama"), LAYOUTS["equal"]
    models, batch = adapt(backbone, *make_configs(backbone, has_head=False)), make_batch(16, "left")
    options = {"max_new_tokens": 8, "do_sample": False, "use_cache": use_cache}
    together = StackedClients(models).assign_rows(rows).generate(**batch, **options)[:, 12:]
    for i, model in enumerate(models):
        own = [row for row, client in enumerate(rows) if client == i]
        length = int(batch["attention_mask"][own].sum(-1).max())
        inputs = {name: tensor[own, 12 - length :] for name, tensor in batch.items()}  # padded to its own longest
        alone = model.model.generate(**inputs, **options)[:, length:]
        assert torch.equal(together[own, : alone.shape[1]], alone)
        assert (together[own, alone.shape[1] :] == PAD).all()
    assert len({tuple(answer) for answer in together.tolist()}) > 8, "the clients' answers differ"


def test_beams_stay_with_their_rows(in_float64, adapt):
    backbone = in_float64("llama")
    models, batch = adapt(backbone, *make_configs(backbone, has_head=False)), make_batch(8, "left")
    options = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False, "num_beams": 3}
    together = StackedClients(models).assign_rows(range(8)).generate(**batch, **options)
    for i, model in enumerate(models):
        alone = model.model.generate(**{name: tensor[i : i + 1] for name, tensor in batch.items()}, **options)
        assert torch.equal(together[i : i + 1], alone)


# ---- what stays as it was


def test_outside_a_call_the_backbone_is_plain(tiny_classifier, adapt):
    backbone, batch = tiny_classifier("bert"), make_batch(4)
    stacked = StackedClients(adapt(backbone, *make_configs(backbone)[3:5]))
    model = stacked.assign_rows([0, 0, 1, 1])
    with torch.no_grad():
        expected = backbone(**batch).logits
        assert not torch.equal(model(**batch).logits, expected)
        assert torch.equal(stacked.backbone(**batch).logits, expected)
        with pytest.raises(IndexError):
            model(**batch | {"input_ids": batch["input_ids"] + 1000})
        assert torch.equal(stacked.backbone(**batch).logits, expected)


def test_the_backbone_is_shared_and_neither_it_nor_the_models_are_changed(tiny_classifier, adapt, factors):
    backbone = tiny_classifier("bert")
    frozen = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    models = adapt(backbone, make_lora_config(backbone, r=2, alpha=3), LoReftConfig(modules_to_save=["classifier"]))
    models[0].set_frozen_delta(factors(models[0], rank=3))
    before = [model.snapshot() for model in models]
    stacked = StackedClients(models)
    stacked.assign_rows([0, 1, 1])(**make_batch(3)).logits.sum().backward()
    assert {id(p) for p in stacked.backbone.parameters()} == {id(p) for p in backbone.parameters()}
    assert all(torch.equal(tensor, frozen[name]) for name, tensor in backbone.state_dict().items())
    for model, snapshot in zip(models, before, strict=True):
        assert all(torch.equal(tensor, snapshot[name]) for name, tensor in model.snapshot().items())


def test_a_copied_base_model_has_no_frozen_delta(lora_model, factors, padded):
    model, batch = lora_model("bert"), padded()
    model.set_frozen_delta(factors(model, rank=3))
    with torch.no_grad():
        with_delta = model.model(**batch).logits
        base = copy_base_model(model)
        with model.model.disable_adapter():
            assert not torch.equal(base(**batch).logits, model.model(**batch).logits), "PEFT knows no frozen delta"
        assert torch.equal(model.model(**batch).logits, with_delta)
        model.set_frozen_delta({})
        with model.model.disable_adapter():
            assert torch.equal(base(**batch).logits, model.model(**batch).logits)


def test_a_task_can_run_it_like_an_adapted_model(tiny_classifier, adapt):
    backbone = tiny_classifier("bert")
    models = adapt(backbone, make_lora_config(backbone, r=2, alpha=3))
    stacked = StackedClients(models).assign_rows([0])
    assert stacked.model is stacked
    assert stacked.device == models[0].device


# ---- what is refused


def test_mistakes_in_models_and_rows(tiny_classifier, adapt):
    backbone = tiny_classifier("bert")
    config = make_lora_config(backbone, r=2, alpha=3)
    models = adapt(backbone, config, config)
    with pytest.raises(ValueError, match="at least one model"):
        StackedClients([])
    with pytest.raises(ValueError, match="model 1 on another than model 0"):
        StackedClients([models[0], AdaptedModel(get_peft_model(tiny_classifier("bert"), config))])
    stacked = StackedClients(models).assign_rows([0, 1])
    for run in (stacked, stacked.generate):
        with pytest.raises(ValueError, match=r"2 rows with clients\. Received: a batch of 3"):
            run(**make_batch(3))
    for rows in ([0, 2, 2], []):
        with pytest.raises(ValueError, match="one of clients 0 to 1"):
            StackedClients(models).assign_rows(rows)


def test_a_head_of_several_layers_is_refused(tiny_classifier):
    deep = SequenceClassifier(tiny_classifier("bert").backbone, num_labels=3, pooling="mean")
    deep.classifier = torch.nn.Sequential(torch.nn.Linear(32, 3))
    with pytest.raises(ValueError, match=r"one linear layer\. Received: .*classifier of Sequential"):
        StackedClients([AdaptedModel(get_peft_model(deep, LoReftConfig(modules_to_save=["classifier"])))])


def test_an_adapter_without_a_stacked_form_is_refused_and_not_left_out(tiny_classifier):
    plain = tiny_classifier("bert")
    with use_ia3():
        model = AdaptedModel(get_peft_model(plain, Ia3Options().make_config(plain, None)))
        assert find_unstackable(model).endswith("ia3_l")
        with pytest.raises(ValueError, match=r"LoRA or LoReFT\. Received: .*ia3_l$"):
            StackedClients([model])


def test_lora_masked_lora_and_loreft_with_heads_have_a_stacked_form(tiny_classifier):
    for density in (1.0, 0.5, None):
        plain = tiny_classifier("bert")
        reft = LoReftConfig(modules_to_save=["classifier"])
        config = reft if density is None else make_lora_config(plain, r=2, alpha=2, density=density)
        assert find_unstackable(AdaptedModel(get_peft_model(plain, config))) is None

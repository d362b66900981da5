"""Several clients in one forward, against running each of them alone."""

from contextlib import nullcontext

import pytest
import torch
from peft import get_peft_model
from transformers import AutoModelForSequenceClassification

from fedpeft.acceleration.row_groups import RowGroups
from fedpeft.acceleration.stacked_clients import Stack, copy_base_model
from fedpeft.adapters import AdaptedModel, LoReftConfig, get_frozen_delta_names, make_lora_config
from fedpeft.backbones import SequenceClassifier
from fedpeft.engines.templates import attach_adapter

PAD = 1
FIRST, LAST = [0], [1, 2]  # blocks


@pytest.fixture
def adapted(stir):
    """adapted(backbone, config, config, ...) -> a slot each, away from its start, over the one backbone."""

    def build(backbone, *configs):
        slots = [AdaptedModel(attach_adapter(backbone, config, seed)) for seed, config in enumerate(configs)]
        for seed, slot in enumerate(slots):
            stir(slot.model, seed=seed + 1)
        return slots

    return build


@pytest.fixture
def in_float64(tiny):
    """A backbone in float64, head and all; as an encoder with a linear head, or as a causal language model."""

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


def lora(backbone, head=True, **options):
    config = make_lora_config(backbone, **options)
    config.modules_to_save = ["classifier"] if head else None
    return config


def unlike(backbone, head):
    """LoRA of three ranks and scales on different blocks, masked LoRA, LoReFT in every form: one client each."""
    saved = ["classifier"] if head else None
    return [
        lora(backbone, head, r=2, alpha=3),
        lora(backbone, head, r=4, alpha=4, layers=LAST),
        lora(backbone, head, r=3, alpha=9, density=0.3),
        lora(backbone, head, r=1, alpha=2, layers=FIRST),
        LoReftConfig(r=2, positions="f2+l3", modules_to_save=saved),
        LoReftConfig(r=3, positions="all", layers=LAST, variant="noreft", modules_to_save=saved),
        LoReftConfig(r=1, positions="l2", variant="direft", modules_to_save=saved),
        LoReftConfig(r=2, positions="f3+l1", tied=True, modules_to_save=saved),
    ]


def prompts(rows, side="right", seed=0):
    """Rows of 1 to 12 tokens, padded on one side to 12."""
    draw = torch.Generator().manual_seed(seed)
    ids, mask = torch.full((rows, 12), PAD), torch.zeros(rows, 12, dtype=torch.long)
    for row in range(rows):
        size = 12 if row == 0 else int(torch.randint(1, 13, (), generator=draw))
        place = slice(12 - size, 12) if side == "left" else slice(0, size)
        ids[row, place] = torch.randint(3, 60, (size,), generator=draw)
        mask[row, place] = 1
    return {"input_ids": ids, "attention_mask": mask}


def answers(batch):
    """Labels for a causal language model: all but the first third of a row's tokens is its answer."""
    size = batch["attention_mask"].sum(-1, keepdim=True)
    place = batch["attention_mask"].cumsum(-1) - 1
    return batch["input_ids"].masked_fill((place < (size + 2) // 3) | (batch["attention_mask"] == 0), -100)


def gradients(slots):
    found = {(i, n): p.grad for i, slot in enumerate(slots) for n, p in zip(slot.names, slot.parameters(), strict=True)}
    for slot in slots:
        slot.model.zero_grad()
    return found


def largest_difference(got, wanted, floor):
    """The largest error of a tensor relative to its largest entry, or to `floor` times its client's where that is more.

    Attention that is saturated has gradients that are zero but for rounding.
    """
    assert got.keys() == wanted.keys() and all(g is not None for g in got.values())
    most: dict[int, float] = {}
    for (client, _), tensor in wanted.items():
        most[client] = max(most.get(client, 0.0), float(tensor.abs().max()))
    error = {
        k: float((got[k] - w).abs().max()) / max(float(w.abs().max()), floor * most[k[0]]) for k, w in wanted.items()
    }
    return max(error.values())


def both_ways(slots, rows, batch, labels, loss):
    """Gradients of the sum of the clients' mean losses: stacked, and one client after another."""
    stacked_rows, prompt = Stack(slots).rows(rows), (labels != -100).cumsum(-1) == 0
    with nullcontext() if labels.dim() == 1 else stacked_rows.use_prompt(prompt & (batch["attention_mask"] != 0)):
        logits = stacked_rows(**batch).logits
    own = [[i for i, row in enumerate(rows) if row == client] for client in range(len(slots))]
    sum(loss(logits[at], labels[at]) for at in own if at).backward()
    stacked = gradients(slots)
    alone_logits = torch.zeros_like(logits)
    for slot, at in zip(slots, own, strict=True):
        if at:
            output = slot.model(**{k: v[at] for k, v in batch.items()}, labels=labels[at])
            alone_logits[at] = output.logits
            loss(output.logits, labels[at]).backward()
    torch.testing.assert_close(logits, alone_logits)
    return stacked, gradients(slots)


def token_loss(logits, labels):
    return torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100)


LAYOUTS = {
    "equal": [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7],
    "unequal": [0, 0, 0, 1, 2, 2, 3, 4, 5, 5, 5, 5, 6, 7, 7],
    "mixed": [7, 0, 3, 4, 0, 5, 6, 1, 2, 2, 4],
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("architecture", ["bert", "llama"])
def test_gradients_are_those_of_each_client_alone(architecture, layout, in_float64, adapted):
    backbone, rows = in_float64(architecture), LAYOUTS[layout]
    slots = adapted(backbone, *unlike(backbone, head=architecture == "bert"))
    slots[2].set_rows({name: kept + 5 for name, kept in slots[2].get_rows().items()})
    batch = prompts(len(rows))
    if architecture == "bert":
        labels, loss = torch.arange(len(rows)) % 3, torch.nn.functional.cross_entropy
    else:
        labels, loss = answers(batch), token_loss
        labels[:, -1] = batch["input_ids"][:, -1]  # every row has an answer
    got, wanted = both_ways(slots, rows, batch, labels, loss)
    assert largest_difference(got, wanted, floor=1e-3) < 1e-10


@pytest.mark.parametrize("architecture", ["bert", "gpt2", "mpnet"])
def test_in_float32_with_our_head_and_merged_factors(architecture, tiny_classifier, adapted, factors):
    backbone = tiny_classifier(architecture)
    slots = adapted(backbone, *unlike(backbone, head=True)[:4], make_lora_config(backbone, r=2, alpha=3))
    slots[0].set_frozen_delta(factors(slots[0], rank=3))
    slots[1].set_frozen_delta(factors(slots[1], rank=40))  # larger than the product, which is held instead
    rows = [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    labels = torch.arange(10) % 3
    got, wanted = both_ways(slots, rows, prompts(10), labels, torch.nn.functional.cross_entropy)
    assert largest_difference(got, wanted, floor=1.0) < 1e-5
    assert {get_frozen_delta_names(name)[0] for name in slots[0].get_dimensions()} <= slots[0].frozen_delta.keys()


def test_another_clients_tensors_and_rows_change_nothing(tiny_classifier, adapted):
    backbone = tiny_classifier("bert")
    slots = adapted(backbone, *unlike(backbone, head=True))
    stack, batch, rows = Stack(slots), prompts(8), list(range(8))
    with torch.no_grad():
        first = stack.rows(rows)(**batch).logits
        for parameter in slots[3].parameters():
            parameter += 1.0
        second = stack.rows(rows)(**batch).logits
    changed = (first != second).any(-1)
    assert changed.tolist() == [i == 3 for i in range(8)]
    stack.rows(rows)(**batch).logits[[0, 1, 2, 4, 5, 6, 7]].sum().backward()
    zero = {i: all(not p.grad.any() for p in slot.parameters()) for i, slot in enumerate(slots)}
    assert zero == {i: i == 3 for i in range(8)}


def test_clients_without_rows_get_no_gradient(tiny_classifier, adapted):
    backbone = tiny_classifier("bert")
    slots = adapted(backbone, *unlike(backbone, head=True))
    Stack(slots).rows([4, 4, 1])(**prompts(3)).logits.sum().backward()
    assert [slot.parameters()[0].grad is not None for slot in slots] == [i in (1, 4) for i in range(8)]


def test_frozen_tensors_get_no_gradient_and_the_others_theirs(tiny_classifier, adapted):
    backbone = tiny_classifier("bert")
    slots = adapted(backbone, *[make_lora_config(backbone, r=2, alpha=3)] * 2)
    for name, parameter in zip(slots[1].names, slots[1].parameters(), strict=True):
        parameter.requires_grad_("lora_A" not in name)
    Stack(slots).rows([0, 1])(**prompts(2)).logits.sum().backward()
    for i, slot in enumerate(slots):
        for name, parameter in zip(slot.names, slot.parameters(), strict=True):
            assert (parameter.grad is None) == (i == 1 and "lora_A" in name)


@pytest.mark.parametrize("use_cache", [True, False])
def test_greedy_answers_are_those_of_each_client_alone(use_cache, tiny, adapted):
    backbone = tiny("llama")
    slots = adapted(backbone, *unlike(backbone, head=False))
    stack, batch, rows = Stack(slots), prompts(16, "left"), LAYOUTS["equal"]
    options = {"max_new_tokens": 8, "do_sample": False, "use_cache": use_cache}
    together = stack.rows(rows).generate(**batch, **options)
    for i, slot in enumerate(slots):
        at = [row for row, client in enumerate(rows) if client == i]
        size = int(batch["attention_mask"][at].sum(-1).max())
        own = {name: tensor[at, 12 - size :] for name, tensor in batch.items()}  # padded to its own longest alone
        alone = slot.model.generate(**own, **options)[:, size:]
        got = together[at, 12:]
        assert torch.equal(got[:, : alone.shape[1]], alone)
        assert (got[:, alone.shape[1] :] == PAD).all()
    texts = {tuple(row) for row in together[:, 12:].tolist()}
    assert len(texts) > 8, "the clients' answers differ"


def test_beams_go_with_their_rows(tiny, adapted):
    backbone = tiny("llama")
    slots = adapted(backbone, *unlike(backbone, head=False))
    stack, batch, rows = Stack(slots), prompts(8, "left"), list(range(8))
    options = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False, "num_beams": 3}
    together = stack.rows(rows).generate(**batch, **options)
    for i, slot in enumerate(slots):
        alone = slot.model.generate(**{name: tensor[i : i + 1] for name, tensor in batch.items()}, **options)
        assert torch.equal(together[i : i + 1], alone)


def test_outside_a_call_the_model_is_the_plain_one(tiny_classifier, adapted):
    backbone, batch = tiny_classifier("bert"), prompts(4)
    slots = adapted(backbone, *unlike(backbone, head=True)[3:5])
    stack = Stack(slots)
    with torch.no_grad():
        expected = backbone(**batch).logits
        assert not torch.equal(stack.rows([0, 0, 1, 1])(**batch).logits, expected)
        assert torch.equal(stack.model(**batch).logits, expected)
        with pytest.raises(IndexError):
            stack.rows([0, 0, 1, 1])(**batch | {"input_ids": batch["input_ids"] + 1000})
        assert torch.equal(stack.model(**batch).logits, expected)


def test_the_backbone_is_shared_and_neither_it_nor_the_slots_are_changed(tiny_classifier, adapted, factors):
    backbone = tiny_classifier("bert")
    frozen = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    slots = adapted(backbone, make_lora_config(backbone, r=2, alpha=3), LoReftConfig(modules_to_save=["classifier"]))
    slots[0].set_frozen_delta(factors(slots[0], rank=3))
    before = [slot.snapshot() for slot in slots]
    stack = Stack(slots)
    stack.rows([0, 1, 1])(**prompts(3)).logits.sum().backward()
    assert {id(p) for p in stack.model.parameters()} == {id(p) for p in backbone.parameters()}
    assert all(torch.equal(tensor, frozen[name]) for name, tensor in backbone.state_dict().items())
    for slot, kept in zip(slots, before, strict=True):
        assert all(torch.equal(tensor, kept[name]) for name, tensor in slot.snapshot().items())


def test_an_unadapted_model_forgets_what_was_merged(lora_slot, factors, padded):
    slot = lora_slot("bert")
    slot.set_frozen_delta(factors(slot, rank=3))
    with torch.no_grad():
        merged = slot.model(**padded()).logits
        plain = copy_base_model(slot)
        with slot.model.disable_adapter():
            assert not torch.equal(plain(**padded()).logits, slot.model(**padded()).logits), "a merged delta stays"
        assert torch.equal(slot.model(**padded()).logits, merged)
        slot.set_frozen_delta({})
        with slot.model.disable_adapter():
            assert torch.equal(plain(**padded()).logits, slot.model(**padded()).logits)


def test_beside_a_bfloat16_backbone_adapters_stay_in_float32(tiny_classifier, adapted):
    backbone = tiny_classifier("bert")
    backbone.backbone.to(torch.bfloat16)
    slots = adapted(backbone, *unlike(backbone, head=True))
    batch, rows = prompts(8), list(range(8))
    with torch.no_grad():
        together = Stack(slots).rows(rows)(**batch).logits
        for i, slot in enumerate(slots):
            alone = slot.model(**{name: tensor[i : i + 1] for name, tensor in batch.items()}).logits
            torch.testing.assert_close(together[i : i + 1], alone, rtol=0.05, atol=0.1)
    assert all(parameter.dtype == torch.float32 for slot in slots for parameter in slot.parameters())


def test_what_a_stack_refuses(tiny_classifier, adapted):
    backbone = tiny_classifier("bert")
    config = make_lora_config(backbone, r=2, alpha=3)
    slots = adapted(backbone, config, config)
    with pytest.raises(ValueError, match="at least one slot"):
        Stack([])
    with pytest.raises(ValueError, match="slot 1 on another"):
        Stack([slots[0], AdaptedModel(get_peft_model(tiny_classifier("bert"), config))])
    with pytest.raises(ValueError, match=r"clients of 2 rows\. Received: a batch of 3"):
        Stack(slots).rows([0, 1])(**prompts(3))
    for wrong in ([0, 2, 2], []):
        with pytest.raises(ValueError, match="one of slots 0 to 1"):
            Stack(slots).rows(wrong)
    deep = SequenceClassifier(backbone.backbone, num_labels=3, pooling="mean")
    deep.classifier = torch.nn.Sequential(torch.nn.Linear(32, 3))
    with pytest.raises(ValueError, match="one linear layer"):
        Stack([AdaptedModel(get_peft_model(deep, LoReftConfig(modules_to_save=["classifier"])))])


@pytest.mark.parametrize(
    ("rows", "size", "runs"),
    [
        ([0, 0, 1, 1], 2, ((0, 1), (1, 1))),
        ([2, 2, 2, 2, 0, 0], 2, ((2, 2), (0, 1))),
        ([0, 0, 0, 1], 1, ((0, 3), (1, 1))),
        ([0, 1, 0], 1, ((0, 1), (1, 1), (0, 1))),
        ([5] * 7, 7, ((5, 1),)),
    ],
)
def test_groups_of_rows(rows, size, runs):
    groups = RowGroups.of(rows)
    assert (groups.size, groups.runs, groups.rows) == (size, runs, len(rows))
    own = {client: torch.full((client + 1, 2), float(client + 1)) for client in set(rows)}
    spread = groups.spread(own)
    assert spread.shape == (groups.count, max(rows) + 1, 2)
    for group, client in enumerate(rows[::size]):
        assert torch.equal(spread[group, : client + 1], own[client])
        assert not spread[group, client + 1 :].any()

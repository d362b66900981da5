"""Clients trained in one pass, against the local engine: the same batches, steps, replies and states."""

import logging

import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM
from transformers.modeling_outputs import SequenceClassifierOutput

from fedpeft.acceleration import PrefixCache
from fedpeft.backbones import SequenceClassifier
from fedpeft.backbones.heads import pool
from fedpeft.engines.batched import BatchedEngine, concat_batches
from fedpeft.engines.local import LocalEngine
from fedpeft.engines.templates import TemplateCache
from fedpeft.federation.answers import token_losses
from fedpeft.federation.client import Client, ClientSpec
from fedpeft.federation.message import Message
from fedpeft.federation.method import FederationInfo, Method
from fedpeft.federation.randomness import generator
from fedpeft.federation.task import Classification, Regression
from fedpeft.federation.training_config import TrainingConfig
from fedpeft.methods import BUILT_IN
from fedpeft.resources import ClientResources
from fedpeft.tasks.encode import Encoded, Padding, collate

EXAMPLES = (13, 8, 3, 9, 4)  # with batches of 4: 4, 2, 1, 3 and 1 steps an epoch, some of them short
SETTINGS = TrainingConfig(batch_size=4, local_epochs=2, weight_decay=0.01, lr_decay=0.5)
PAD = 1
SIZES = {"vocab_size": 60, "pad_token_id": PAD, "bos_token_id": 0, "eos_token_id": 2}


class InFloat64(SequenceClassifier):
    """Head and all: AdamW divides by the size of a gradient, so that in float32 what is nearly zero moves at random."""

    def forward(self, input_ids, attention_mask, **kwargs):
        hidden = self.backbone(input_ids=input_ids, attention_mask=attention_mask, **kwargs).last_hidden_state
        return SequenceClassifierOutput(logits=self.classifier(pool(hidden, attention_mask, "mean")))


def classifier(outputs=3, kind=InFloat64):
    torch.manual_seed(0)
    config = AutoConfig.for_model("bert", hidden_size=32, num_hidden_layers=2, intermediate_size=48,
                                  num_attention_heads=4, max_position_embeddings=32, initializer_range=0.1,
                                  **SIZES)  # fmt: skip
    model = kind(AutoModel.from_config(config).eval(), num_labels=outputs, pooling="mean").eval()
    return model.double() if kind is InFloat64 else model


def decoder():
    torch.manual_seed(0)
    config = AutoConfig.for_model("llama", hidden_size=32, num_hidden_layers=2, intermediate_size=48,
                                  num_attention_heads=4, num_key_value_heads=2, initializer_range=0.1,
                                  **SIZES)  # fmt: skip
    return AutoModelForCausalLM.from_config(config).eval().double()


class Answers:
    """A decoder's task, as far as training goes."""

    metric = "loss"

    def losses(self, model, batch):
        return token_losses(model, batch)


def rows(client, count, target):
    draw = generator(client, "rows")

    def ids(low, high):
        return tuple(
            torch.randint(3, 60, (int(torch.randint(low, high, (), generator=draw)),), generator=draw).tolist()
        )

    return [Encoded(ids(2, 12), i % 3, ids(1, 5) if target else ()) for i in range(count)]


def built(method, backbone, task, allotments, target=False, max_clients=None, settings=SETTINGS):
    """A local engine, or a batched one when `at_once` is given, over fresh clients; and the server's start."""
    models = TemplateCache(backbone, 0)
    padding = Padding(PAD, "left" if target else "right")
    specs = [ClientSpec(f"c{i}", n, a) for i, (n, a) in enumerate(zip(EXAMPLES, allotments, strict=True))]
    templates = {spec.id: models.get_template(method.adapter(backbone, spec)) for spec in specs}
    clients = []
    for i, spec in enumerate(specs):
        splits = {"train": rows(i, spec.examples, target), "validation": rows(100 + i, 5, target)}
        clients.append(Client(spec, splits, task, padding, templates[spec.id].read(), 0))
    arguments = (method, clients, templates, settings, 0, 1)
    engine = LocalEngine(*arguments) if at_once is None else BatchedEngine(*arguments)
    if at_once is not None:
        engine.max_clients = at_once
    dimensions = {name: template.get_dimensions() for name, template in templates.items()}
    return engine, method.start(FederationInfo(tuple(specs), {c.spec.id: c.initial for c in clients}, dimensions), 0)


def rounds(method, engine, state, count=2):
    """The replies of each round, by client, and what the clients keep at the end."""
    found = []
    for round_ in range(1, count + 1):
        specs = [client.spec for client in engine.by_id.values()]
        outcomes = list(engine.train([Message(s.id, round_, method.send(state, s)) for s in specs]))
        assert [o.failure for o in outcomes] == [None] * len(specs)
        assert all(outcome.seconds > 0 for outcome in outcomes)
        replies = sorted((outcome.reply for outcome in outcomes), key=lambda reply: reply.client)
        found.append({reply.client: reply for reply in replies})
        state = method.aggregate(state, replies)
    engine.close()
    return found, engine.save(0)


def largest_difference(got, wanted):
    """The largest relative difference of replies, their scalars and the clients' states, tensor by tensor."""
    worst = 0.0
    for one, other in zip(got[0], wanted[0], strict=True):
        assert one.keys() == other.keys()
        for client in one:
            assert one[client].scalars == pytest.approx(other[client].scalars, rel=1e-5)
            worst = max(worst, of_tensors(one[client].tensors, other[client].tensors))
    for client, state in got[1].items():
        worst = max(worst, of_tensors(state.trained, wanted[1][client].trained))
        worst = max(worst, of_tensors(state.kept, wanted[1][client].kept))
    return worst


def of_tensors(one, other):
    assert one.keys() == other.keys()
    pairs = [(t.double(), other[name].double()) for name, t in one.items()]
    return max((float((a - b).norm() / b.norm().clamp(min=1e-3)) for a, b in pairs), default=0.0)


@pytest.fixture
def passes(monkeypatch):
    """Who trained alone, and how many clients each pass of the others had."""
    alone, together = [], []
    one, many = BatchedEngine._train_one, BatchedEngine._train_together

    def counted_one(self, message):
        alone.append(message.client)
        return one(self, message)

    def counted_many(self, group):
        together.append(len(group))
        return many(self, group)

    monkeypatch.setattr(BatchedEngine, "_train_one", counted_one)
    monkeypatch.setattr(BatchedEngine, "_train_together", counted_many)
    return alone, together


def made(name, **options):
    kind = BUILT_IN[name]
    return kind(kind.Options(lr=5e-3, **options))


LIKE = [ClientResources()] * 5
UNLIKE = [
    ClientResources(rank=r, layers=layers) for r, layers in ((2, None), (4, None), (1, (1,)), (4, (0,)), (2, None))
]
RANKS = [ClientResources(rank=r) for r in (2, 4, 1, 4, 2)]
LORA = {"adapter": {"r": 4, "alpha": 8}}
REFT = {"adapter": {"kind": "loreft", "r": 2, "positions": "f1+l2"}}


@pytest.mark.parametrize(
    ("name", "options", "allotments"),
    [
        ("fedit", LORA, LIKE),
        ("local", LORA, UNLIKE),
        ("local", REFT, [ClientResources(layers=layers) for layers in (None, (0,), (1,), None, (0, 1))]),
        ("fedreft", {"mixing": "validation"} | REFT, LIKE),
        ("ffa_lora", LORA, LIKE),
        ("flora", LORA, RANKS),
        ("fedex_lora", LORA, LIKE),
        ("ifca", LORA, LIKE),
    ],
)
def test_two_rounds_are_the_local_engines(name, options, allotments, passes):
    method, backbone, task = made(name, **options), classifier(), Classification(3)
    wanted = rounds(method, *built(method, backbone, task, allotments))
    got = rounds(method, *built(method, backbone, task, allotments, max_clients=3))
    assert passes == ([], [3, 2, 3, 2])
    assert largest_difference(got, wanted) < 1e-10


@pytest.mark.parametrize(
    ("name", "options"), [("fedit", LORA), ("fedavg_loreft", {"adapter": {"r": 2, "positions": "f2+l3"}})]
)
def test_decoders_learn_the_same(name, options, passes):
    method, backbone, task = made(name, **options), decoder(), Answers()
    wanted = rounds(method, *built(method, backbone, task, LIKE, target=True))
    got = rounds(method, *built(method, backbone, task, LIKE, target=True, max_clients=5))
    assert passes == ([], [5, 5])
    assert largest_difference(got, wanted) < 1e-10


def test_regression_learns_the_same(passes):
    method, backbone, task = made("fedit", **LORA), classifier(outputs=1), Regression("pearson")
    wanted = rounds(method, *built(method, backbone, task, LIKE))
    assert largest_difference(rounds(method, *built(method, backbone, task, LIKE, max_clients=5)), wanted) < 1e-10


@pytest.mark.parametrize(("name", "options"), [("fedit", LORA), ("fedreft", REFT)])
def test_a_round_in_float32(name, options):
    method, backbone, task = made(name, **options), classifier(kind=SequenceClassifier), Classification(3)
    ways = [built(method, backbone, task, LIKE, max_clients=at_once) for at_once in (None, 5)]
    wanted, got = (rounds(method, *way, count=1)[0][0] for way in ways)
    for client in wanted:
        one, other = (torch.cat([t.flatten() for t in found[client].tensors.values()]) for found in (got, wanted))
        assert float((one - other).norm() / other.norm()) < 1e-5


@pytest.mark.parametrize("name", ["ditto", "fedhft", "hetlora", "fedit"])
def test_who_trains_alone_is_the_local_engines_bit_for_bit(name, passes):
    options = {"proximal": 0.1} if name == "fedit" else {"gamma": 0.5} if name == "hetlora" else {}
    method, backbone, task = made(name, **LORA, **options), classifier(), Classification(3)
    wanted = rounds(method, *built(method, backbone, task, LIKE), count=1)
    got = rounds(method, *built(method, backbone, task, LIKE, max_clients=5), count=1)
    assert sorted(passes[0]) == [f"c{i}" for i in range(5)]
    assert largest_difference(got, wanted) == 0.0


def test_clients_that_must_spare_memory_train_alone_beside_the_others(passes, caplog):
    allotments = [
        ClientResources(micro_batch=2),
        ClientResources(checkpointing=True),
        ClientResources(),
        ClientResources(),
        ClientResources(),
    ]
    method, backbone, task = made("fedit", **LORA), classifier(), Classification(3)
    wanted = rounds(method, *built(method, backbone, task, allotments), count=1)
    with caplog.at_level(logging.INFO):
        got = rounds(method, *built(method, backbone, task, allotments, max_clients=5), count=1)
    assert passes == (["c0", "c1"], [3])
    assert largest_difference(got, wanted) < 1e-10
    assert "c0 trains alone: it was allotted a micro-batch" in caplog.text
    assert "c1 trains alone: it was allotted activation checkpointing" in caplog.text


def test_one_clients_failure_is_its_own(passes):
    class Failing(Classification):
        def losses(self, model, batch):
            if (batch["input_ids"] == 60).any():
                raise RuntimeError("no such word")
            return super().losses(model, batch)

    method, backbone = made("fedit", **LORA), classifier()
    engine, state = built(method, backbone, Failing(3), LIKE, max_clients=5)
    broken = engine.by_id["c3"]
    broken.splits["train"][0] = Encoded((60, 3), 0)
    reference, _ = built(method, backbone, Failing(3), LIKE)
    messages = [Message(name, 1, method.send(state, client.spec)) for name, client in engine.by_id.items()]
    outcomes = {outcome.client: outcome for outcome in engine.train(messages)}
    wanted = {outcome.client: outcome for outcome in reference.train(messages)}
    assert {name: outcome.failure for name, outcome in outcomes.items() if outcome.failure} == {
        "c3": "RuntimeError: no such word"
    }
    assert broken.local.trained is None
    for name in ("c0", "c1", "c2", "c4"):
        assert of_tensors(outcomes[name].reply.tensors, wanted[name].reply.tensors) == 0.0


def test_clients_that_memory_does_not_hold_together_train_in_smaller_groups(passes, caplog):
    class Small(Classification):  # as an accelerator that holds eight rows
        def losses(self, model, batch):
            if len(batch["input_ids"]) > 8:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return super().losses(model, batch)

    method, backbone = made("fedit", **LORA), classifier()
    wanted = rounds(method, *built(method, backbone, Small(3), LIKE))
    engine, state = built(method, backbone, Small(3), LIKE, max_clients=5)
    got = rounds(method, engine, state)
    assert largest_difference(got, wanted) < 1e-10
    assert engine.max_clients == 2
    assert passes == (["c2", "c2"], [5, 2, 2, 2, 2])  # what does not fit is tried once in the whole run
    assert "memory does not hold these 5 clients in one pass: 2 at once" in caplog.text


def test_a_client_that_diverges_takes_nobody_with_it(passes):
    method, backbone, task = made("fedit", **LORA), classifier(), Classification(3)
    engine, state = built(method, backbone, task, LIKE, max_clients=5)
    reference, _ = built(method, backbone, task, LIKE)
    messages = [Message(name, 1, dict(method.send(state, client.spec))) for name, client in engine.by_id.items()]
    head = next(name for name in messages[1].tensors if name.endswith("classifier.weight"))
    messages[1].tensors[head] = torch.full_like(messages[1].tensors[head], float("inf"))
    outcomes = {outcome.client: outcome for outcome in engine.train(messages)}
    wanted = {outcome.client: outcome for outcome in reference.train(messages)}
    assert outcomes["c1"].reply is None and outcomes["c1"].failure == wanted["c1"].failure
    assert engine.by_id["c1"].local.trained is None
    assert passes == (["c1"], [5])
    for name in ("c0", "c2", "c3", "c4"):
        assert of_tensors(outcomes[name].reply.tensors, wanted[name].reply.tensors) < 1e-5


@pytest.mark.parametrize("side", ["left", "right"])
def test_joined_batches_are_the_batch_of_all_rows(side):
    padding = Padding(PAD, side)
    for target in (True, False):
        parts = [rows(client, 3, target) for client in range(4)]
        whole = collate([row for part in parts for row in part], padding)
        pieces = concat_batches([collate(part, padding) | {"rows": torch.arange(3)} for part in parts], padding)
        assert pieces.keys() == whole.keys()
        assert all(torch.equal(pieces[name], tensor) for name, tensor in whole.items())


def test_groups_hold_clients_of_like_length_and_kind():
    method, backbone = made("fedit", **LORA), classifier()
    engine, state = built(method, backbone, Classification(3), LIKE, max_clients=2)
    engine.by_id["c1"].task = Classification(3)
    messages = [Message(name, 1, method.send(state, client.spec)) for name, client in engine.by_id.items()]
    groups = [[message.client for message in group] for group in engine._groups(messages)]
    assert groups == [["c0", "c3"], ["c4", "c2"], ["c1"]]


def test_every_method_that_writes_its_own_loop_is_known():
    """A reminder: what the two engines share is `Method.train`; the rest is alone."""
    own = {name for name, kind in BUILT_IN.items() if kind.train is not Method.train}
    assert {"ditto", "fedhft"} <= own


def widths_seen(backbone):
    """A list that grows by (rows, tokens) whenever a first block runs, in clones too."""
    seen = []
    dense = backbone.backbone.encoder.layer[0].intermediate.dense
    dense.register_forward_pre_hook(lambda _, given: seen.append(tuple(given[0].shape[:2])))
    return seen


def test_the_local_engine_leaves_padding_out():
    backbone, method = classifier(), made("fedit", **LORA)
    seen = widths_seen(backbone)
    engine, state = built(method, backbone, Classification(3), [ClientResources()] * 5)
    rounds(method, engine, state, 1)
    assert any(rows == 1 and tokens > 12 for rows, tokens in seen)  # no row has more than 12


def test_a_cache_is_filled_with_rows_of_like_length_together():
    results, method = [], made("fedit", adapter=LORA["adapter"] | {"layers": [1]})
    for cache in (None, PrefixCache(1)):
        backbone = classifier()
        seen = widths_seen(backbone)
        engine, state = built(
            method, backbone, Classification(3), [ClientResources()] * 4 + [ClientResources(micro_batch=2)]
        )
        engine.cache = cache
        results.append(rounds(method, engine, state))
    assert largest_difference(results[1], results[0]) < 1e-6
    assert cache.stats.rows == cache.stats.computed == sum(EXAMPLES)
    found_out = 3  # runs that ask whether the model can be packed
    assert sorted(rows for rows, _ in seen[found_out:]) == [3, 4, 8, 9, 13]  # each client's rows at once

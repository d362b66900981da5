"""Made-up rounds of every method, the replies of honest clients, and what a hostile one sends in place of its own."""

from dataclasses import replace

import torch

from fedpeft.adapters import find_lora_pairs, get_frozen_delta_names, is_head
from fedpeft.aggregation import pack_rows, polar
from fedpeft.engines.base import Outcome
from fedpeft.federation.client import ClientSpec
from fedpeft.federation.federation import Federation
from fedpeft.federation.message import Message, Reply
from fedpeft.federation.method import FederationInfo
from fedpeft.federation.training_config import TrainingConfig
from helpers.federations import ScriptedEngine
from helpers.replies import ADDED, SHAPES, build_method, core_tensors, expert_tensors, lora_tensors, reft_tensors

CLIENTS, EXAMPLES = 5, 4  # and how many examples each has
HOSTILE = "c4"
OPTIONS = {"fedlease": {"experts": 1}}  # one cluster: of a cluster of two clients each decides half
REFT = ("fedreft", "fedavg_loreft")
EXPERTS = {
    "fedalt": (2, 2),
    "feddpa_t": (2, 2),
    "fedlease": (1, 1),
}  # how many experts a client holds, and the choices of its routers


def start_federation(name, answer, rounds=2, **options):
    """A federation of five clients after some honest rounds; from then on the last one sends `answer(reply)`."""
    method = build_method(name, **OPTIONS.get(name, {}), **options)
    specs = [ClientSpec(f"c{i}", EXAMPLES) for i in range(1 if method.pools_data else CLIENTS)]
    start = make_start(name)
    dimensions = {spec.id: {} if name in REFT or name in EXPERTS else SHAPES for spec in specs}
    state = method.start(FederationInfo(tuple(specs), {spec.id: start for spec in specs}, dimensions), 0)
    federation = Federation(method, None, state, specs, specs, TrainingConfig(), 0)

    def outcome_of(message):
        reply = make_honest_reply(federation, message)
        if message.client == specs[-1].id and message.round > rounds:
            reply = answer(reply)
        return [Outcome(message.client, reply, None if reply is not None else "it is gone", 0.1)]

    federation.engine = ScriptedEngine(outcome_of)
    for _ in range(rounds):
        assert not federation.step().quarantined
    return federation


def make_start(name):
    """What every client of a method starts from, with every B zero."""
    if name in REFT:
        return reft_tensors(99)
    if name == "fed_sb":
        return core_tensors(99)
    tensors = expert_tensors(99, *EXPERTS[name]) if name in EXPERTS else lora_tensors(99)
    return {n: 0 * t if "lora_B" in n or "expert_lora.B" in n else t for n, t in tensors.items()}


def make_honest_reply(federation, message: Message) -> Reply:
    """What training could have made of the message: steps that clients have in common, and a part of their own."""
    method, tensors = federation.method, {}
    noise = torch.Generator().manual_seed(1000 * message.round + int(message.client[1:]))
    scalars = {"examples": EXAMPLES, "loss": 0.5} | ({"cluster": 0} if "cluster" in method.reply_scalars else {})
    baseline = method.update_baseline(federation.state, message, Reply(message.client, message.round, {}, scalars))
    for name, (dtype, shape) in method.reply_layout(federation.state, message).items():
        common = torch.randn(shape, generator=torch.Generator().manual_seed(len(name)))
        step = 0.05 * (common + 0.5 * torch.randn(shape, generator=noise))
        if dtype == torch.uint8:
            d_out = next(d for module, (d, _) in SHAPES.items() if module in name)
            tensors[name] = pack_rows(torch.arange(d_out), d_out)
        elif name in baseline:
            moved = baseline[name] + step
            tensors[name] = polar(moved) if name.endswith("reft_R") else moved
        else:  # a fresh LoRA: A random, B from zero
            tensors[name] = torch.randn(shape, generator=noise) if "lora_A" in name else step
    return Reply(message.client, message.round, tensors, scalars)


def deploy(federation, client="joining"):
    """What a joining client is sent, in tensors that do not depend on how products are factored."""
    sent = federation.method.send(federation.state, ClientSpec(client, EXAMPLES))
    result = {name: t for name, t in sent.items() if is_head(name) or "reft_" in name or "/" in name}
    pairs = {module for module, _, _ in find_lora_pairs(sent)}
    for module in SHAPES:
        product = torch.zeros(SHAPES[module], dtype=torch.float64)
        a, b = f"{module}.lora_A.weight", f"{module}.lora_B.weight"
        if module in pairs and b in sent and a in sent:
            product = 2.0 * sent[b].double() @ sent[a].double()
        elif a in sent or b in sent:
            result |= {name: sent[name] for name in (a, b) if name in sent}
        name_a, name_b = get_frozen_delta_names(module)
        for prefix in (ADDED, ""):
            if prefix + name_a in sent:
                product = product + sent[prefix + name_b].double() @ sent[prefix + name_a].double()
        result[module] = product
    return result


def distance(a, b) -> float:
    """The Euclidean distance of two dicts of tensors."""
    return float(torch.stack([(a[name].double() - b[name].double()).norm() for name in a]).norm())


def edit_tensors(reply, edit):
    """The reply with every floating-point tensor edited; `edit(name, tensor)`."""
    tensors = {n: edit(n, t) if t.is_floating_point() else t for n, t in reply.tensors.items()}
    return replace(reply, tensors=tensors)


def edit_first(reply, edit):
    """The reply with its first tensor edited; one that has none gets a tensor that nobody asked for."""
    tensors = dict(reply.tensors) or {"surplus": torch.zeros(2)}
    first = next(iter(tensors))
    return replace(reply, tensors=tensors | {first: edit(tensors[first])})


def with_scalars(reply, **scalars):
    return replace(reply, scalars={**reply.scalars, **scalars})


def without_first(reply):
    return replace(reply, tensors=dict(list(reply.tensors.items())[1:]) or {"surplus": torch.zeros(1)})


MALFORMED = {
    "tensors null": lambda r: replace(r, tensors=None),
    "tensors a list": lambda r: replace(r, tensors=[]),
    "a tensor less": without_first,
    "a tensor more": lambda r: replace(r, tensors={**r.tensors, "extra": torch.zeros(1)}),
    "a name that is no text": lambda r: replace(r, tensors={**r.tensors, 7: torch.zeros(1)}),
    "a list for a tensor": lambda r: edit_first(r, lambda t: t.tolist()),
    "another shape": lambda r: edit_first(r, lambda t: t[None]),
    "a scalar tensor": lambda r: edit_first(r, lambda t: torch.tensor(1.0)),
    "another dtype": lambda r: edit_first(r, lambda t: t.double()),
    "complex": lambda r: edit_first(r, lambda t: t.to(torch.complex64)),
    "meta": lambda r: edit_first(r, lambda t: t.to("meta")),
    "sparse": lambda r: edit_first(r, lambda t: t.to_sparse()),
    "nan": lambda r: edit_first(r, lambda t: t.float() * torch.nan),
    "infinite": lambda r: edit_first(r, lambda t: t.float() + torch.inf),
    "1e38": lambda r: edit_first(r, lambda t: t.float() + 1e38),
    "scalars null": lambda r: replace(r, scalars=None),
    "scalars a list": lambda r: replace(r, scalars=[]),
    "scalars a number": lambda r: replace(r, scalars=3),
    "no scalars": lambda r: replace(r, scalars={}),
    "no examples": lambda r: replace(r, scalars={"loss": 0.5}),
    "more examples": lambda r: with_scalars(r, examples=10**6),
    "examples as text": lambda r: with_scalars(r, examples="4"),
    "examples null": lambda r: with_scalars(r, examples=None),
    "examples of a tensor": lambda r: with_scalars(r, examples=torch.tensor(4)),
    "loss nan": lambda r: with_scalars(r, loss=float("nan")),
    "loss as text": lambda r: with_scalars(r, loss="low"),
    "loss 1e308": lambda r: with_scalars(r, loss=1e308),
    "loss nested": lambda r: with_scalars(r, loss={"a": [1]}),
    "a key of the log": lambda r: with_scalars(r, quarantined="c0"),
    "5 MB of text": lambda r: with_scalars(r, loss="x" * 5_000_000),
    "100,000 scalars": lambda r: with_scalars(r, **{f"s{i}": 1 for i in range(100_000)}),
    "a cluster of none": lambda r: with_scalars(r, cluster=99),
    "a cluster below": lambda r: with_scalars(r, cluster=-99),
    "a cluster nan": lambda r: with_scalars(r, cluster=float("nan")),
    "a cluster of a dict": lambda r: with_scalars(r, cluster={}),
    "a cluster of text": lambda r: with_scalars(r, cluster="x"),
    "a cluster null": lambda r: with_scalars(r, cluster=None),
    "a cluster true": lambda r: with_scalars(r, cluster=True),
    "another client": lambda r: replace(r, client="c0"),
    "a client null": lambda r: replace(r, client=None),
    "a client of 9,999 letters": lambda r: replace(r, client="c" * 9999),
    "another round": lambda r: replace(r, round=r.round + 1),
    "a round nan": lambda r: replace(r, round=float("nan")),
    "a text": lambda r: "hello",
    "a dict": lambda r: r.__dict__,
    "nothing": lambda r: None,
}

"""What every aggregation must pass: each client changes the result, order does not, examples are weights."""

import pytest
from helpers.replies import (
    HEAD,
    JOINING,
    SHAPES,
    build_method,
    get_delta,
    get_product,
    largest_difference,
    lora_tensors,
    make_lora_replies,
    make_reft_replies,
    make_reply,
    reft_tensors,
    start_lora,
    start_reft,
)

from fedpeft.adapters import find_interventions
from fedpeft.errors import UserError
from fedpeft.federation.client import ClientSpec
from fedpeft.federation.method import FederationInfo
from fedpeft.methods import list_built_in

LORA = {
    "fedit": {}, "fedavg_ft": {}, "ffa_lora": {}, "fedsa_lora": {}, "rolora": {}, "fedex_lora": {}, "lora_fair": {},
    "hetlora": {}, "flora": {}, "flexlora": {}, "ditto": {}, "ifca": {"clusters": 1},
}  # fmt: skip
STAYS = {"ffa_lora": "lora_A", "fedsa_lora": "lora_B", "rolora": "lora_A"}  # which factor stays at the clients
BY_FACTORS = ("ffa_lora", "fedsa_lora", "rolora", "ifca")  # others are compared by products: factors may be turned
REFT = [
    ("fedavg_loreft", {}),
    ("fedavg_loreft", {"retract": False}),
    ("fedreft", {"abm": "median"}),
    ("fedreft", {"abm": "mean"}),
    ("fedreft", {"abm": "median", "align": True}),
]
lora = pytest.mark.parametrize(("name", "options"), LORA.items())
reft = pytest.mark.parametrize(("name", "options"), REFT)


def travels(name, tensor):
    return STAYS.get(name, "-") not in tensor and (name != "fedsa_lora" or tensor != HEAD)


def aggregate_lora(name, options, replies):
    """What the next message comes to, by module and for the head."""
    method = build_method(name, **options)
    state, specs = start_lora(method)
    sent = [
        make_reply(
            reply.client,
            {n: t for n, t in reply.tensors.items() if travels(name, n)},
            reply.scalars["examples"],
            cluster=0,
        )
        for reply in replies
    ]
    message = method.send(method.aggregate(state, sent), specs[0])
    if name in BY_FACTORS:
        return message
    products = {m: get_delta(message, m) for m in SHAPES}
    for module in SHAPES:
        if f"{module}.lora_B.weight" in message:
            products[module] = products[module] + get_product(message, module)
    return products | {HEAD: message[HEAD]}


def aggregate_reft(name, options, replies, receiver=JOINING):
    method = build_method(name, **options)
    state, _ = start_reft(method, len(replies))
    return method.send(method.aggregate(state, replies), receiver)


def test_every_method_that_aggregates_is_in_these_lists():
    elsewhere = {"local", "zero_shot", "centralised"}  # nothing to aggregate
    elsewhere |= {"fedhft", "fed_sb", "fedalt", "feddpa_t", "fedlease"}  # files of their own say it
    assert {*LORA, *(name for name, _ in REFT), *elsewhere} == set(list_built_in())


@lora
def test_each_lora_client_changes_the_result_and_order_does_not(name, options):
    replies = make_lora_replies()
    whole = aggregate_lora(name, options, replies)
    assert largest_difference(whole, aggregate_lora(name, options, replies[::-1])) < 1e-5
    for i in range(1, len(replies)):  # client 0 receives
        assert largest_difference(whole, aggregate_lora(name, options, replies[:i] + replies[i + 1 :])) > 1e-3


@lora
def test_a_lora_client_of_three_times_the_examples_is_three_clients(name, options):
    other = make_reply("c0", lora_tensors(0), 1)
    heavy = aggregate_lora(name, options, [other, make_reply("c1", lora_tensors(1), 3)])
    copies = [other, *(make_reply(f"c{i}", lora_tensors(1), 1) for i in (1, 2, 3))]
    several = aggregate_lora(name, options, copies)
    if name == "hetlora":  # its weights are norms of the products; the head's are examples
        heavy, several = {HEAD: heavy[HEAD]}, {HEAD: several[HEAD]}
    assert largest_difference(heavy, several) < 1e-4


@reft
def test_each_reft_client_changes_the_result_and_order_does_not(name, options):
    replies = make_reft_replies([4] * 5)
    whole = aggregate_reft(name, options, replies)
    for i in range(len(replies)):
        assert largest_difference(whole, aggregate_reft(name, options, replies[:i] + replies[i + 1 :])) > 1e-3
        changed = [*replies[:i], make_reply(f"c{i}", reft_tensors(i + 50), 4), *replies[i + 1 :]]
        assert largest_difference(whole, aggregate_reft(name, options, changed)) > 1e-3
    for receiver in (JOINING, ClientSpec("c2", 1)):
        forwards, backwards = (aggregate_reft(name, options, r, receiver) for r in (replies, replies[::-1]))
        assert largest_difference(forwards, backwards) < 1e-6


@reft
def test_copies_of_one_reft_client_give_that_client(name, options):
    result = aggregate_reft(name, options, [make_reply(f"c{i}", reft_tensors(3), 2) for i in range(4)])
    if not options.get("align"):
        assert largest_difference(result, reft_tensors(3)) < 1e-5
        return
    for r, w, b in find_interventions(result):  # the same interventions in the gauge of reference
        parts = {name: (tensors[r].mT @ tensors[w], tensors[r].mT @ tensors[b][..., None])
                 for name, tensors in (("result", result), ("client", reft_tensors(3)))}  # fmt: skip
        for got, expected in zip(parts["result"], parts["client"], strict=True):
            assert float((got - expected).abs().max()) < 1e-5


@pytest.mark.parametrize("name", ["fedit", "ffa_lora", "rolora", "fedex_lora", "lora_fair", "ditto", "ifca"])
def test_methods_that_need_one_rank_say_so_before_training(name):
    with pytest.raises(UserError, match="levels: lowest"):
        start_lora(build_method(name), (3, 3, 2, 3))


@pytest.mark.parametrize("name", ["fedreft", "fedavg_loreft"])
def test_reft_methods_refuse_unlike_clients_too(name):
    """No rule makes one median of orthonormal R's of different rank, so unlike ranks are not trained as alike."""
    smaller = {n: t[:, :1] if "reft_" in n else t for n, t in reft_tensors(0).items()}
    for other in (smaller, {n: t for n, t in reft_tensors(0).items() if "layer.0" not in n}):
        specs = (ClientSpec("c0", 1), ClientSpec("c1", 1))
        info = FederationInfo(specs, {"c0": reft_tensors(0), "c1": other})
        with pytest.raises(UserError, match="levels: lowest"):
            build_method(name).start(info, 0)

"""Every LoRA method against a dense float64 oracle, on modules that are not square and ranks that are not alike."""

import pytest
import torch

from fedpeft.adapters import find_lora_pairs, get_frozen_delta_names, is_head
from fedpeft.federation.client import ClientSpec
from fedpeft.federation.message import Message, Reply
from fedpeft.federation.method import FederationInfo
from fedpeft.methods import find_method
from fedpeft.methods.common.cumulative_delta import ADDED
from fedpeft.resources import ClientResources

SHAPES = {"m.layer.0.q": (7, 24), "m.layer.1.up": (24, 9)}  # (d_out, d_in)
SCALE = 2.0  # alpha 16, r 8
EXAMPLES = [1, 2, 3, 4]


def lora(seed: int, rank: int = 3) -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    tensors = {}
    for module, (d_out, d_in) in SHAPES.items():
        tensors[f"{module}.lora_A.weight"] = torch.randn(rank, d_in, generator=draw)
        tensors[f"{module}.lora_B.weight"] = torch.randn(d_out, rank, generator=draw)
    tensors["m.classifier.weight"] = torch.randn(3, 24, generator=draw)
    return tensors


def dense(tensors, module: str) -> torch.Tensor:
    """s B A of one module in float64."""
    return SCALE * tensors[f"{module}.lora_B.weight"].double() @ tensors[f"{module}.lora_A.weight"].double()


def delta(tensors, module: str) -> torch.Tensor:
    """What a message merges into one module, marked as added or not, in float64; 0 where nothing."""
    a, b = get_frozen_delta_names(module)
    for prefix in (ADDED, ""):
        if prefix + a in tensors:
            return tensors[prefix + b].double() @ tensors[prefix + a].double()
    return torch.zeros(SHAPES[module], dtype=torch.float64)


def build(name, **options):
    kind = find_method(name)
    return kind(kind.Options(**options))


def started(method, ranks=(3, 3, 3, 3)):
    specs = tuple(
        ClientSpec(f"c{i}", n, ClientResources(rank=r)) for i, (n, r) in enumerate(zip(EXAMPLES, ranks, strict=True))
    )
    initial = {spec.id: lora(99, r) for spec, r in zip(specs, ranks, strict=True)}
    dimensions = {spec.id: SHAPES for spec in specs}
    return method.start(FederationInfo(specs, initial, dimensions), 0), specs


def replies(ranks=(3, 3, 3, 3), round_=1, names=lambda name: True, base=0):
    return [
        Reply(f"c{i}", round_, {n: t for n, t in lora(base + i, r).items() if names(n)}, {"examples": n_k, "loss": 0.0})
        for i, (n_k, r) in enumerate(zip(EXAMPLES, ranks, strict=True))
    ]


def mean_product(given, module):
    total = sum(reply.scalars["examples"] for reply in given)
    return sum(reply.scalars["examples"] / total * dense(reply.tensors, module) for reply in given)


def close(a, b, tolerance=1e-5):
    return torch.allclose(a.double(), b.double(), atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("module", SHAPES)
def test_ffa_is_the_exact_mean_of_products(module):
    method = build("ffa_lora")
    state, specs = started(method)
    common = state.tensors[f"{module}.lora_A.weight"]
    given = replies(names=lambda n: "lora_A" not in n)
    sent = method.send(method.aggregate(state, given), specs[0])
    assert not any("lora_A" in name for name in sent)
    for reply in given:
        reply.tensors[f"{module}.lora_A.weight"] = common
    assert close(dense(sent | {f"{module}.lora_A.weight": common}, module), mean_product(given, module))


def test_fedsa_shares_only_a():
    method = build("fedsa_lora")
    state, specs = started(method)
    given = replies(names=lambda n: "lora_A" in n)
    sent = method.send(method.aggregate(state, given), specs[0])
    assert sent.keys() == {f"{m}.lora_A.weight" for m in SHAPES}
    for name, tensor in sent.items():
        assert close(tensor, sum(n / 10 * r.tensors[name].double() for n, r in zip(EXAMPLES, given, strict=True)))


def test_rolora_alternates_and_sends_what_a_client_lacks():
    method = build("rolora")
    state, specs = started(method)
    held = {spec.id: dict(method.send(state, spec)) for spec in specs}  # what each client knows
    drawn = {1: [0, 1, 2, 3], 2: [0, 1], 3: [0, 2], 4: [1, 2, 3], 5: [0, 3]}
    for round_, clients in drawn.items():
        for spec in specs:
            held[spec.id] |= method.send(state, spec) if specs.index(spec) in clients else {}
        message = Message("c0", round_, {})
        turn = method.reply_layout(state, message).keys()
        assert ("m.layer.0.q.lora_B.weight" in turn) == (round_ % 2 == 1)
        given = [
            r for i, r in enumerate(replies(round_=round_, names=turn.__contains__, base=10 * round_)) if i in clients
        ]
        for reply in given:
            held[reply.client] |= reply.tensors
        state = method.aggregate(state, given)
        for spec in specs:  # whoever asks now would know everything
            view = held[spec.id] | method.send(state, spec)
            assert all(torch.equal(view[name], state.tensors[name]) for name in state.tensors)
    assert len(method.send(state, specs[0])) < len(state.tensors)  # it trained in the last round


@pytest.mark.parametrize("module", SHAPES)
def test_fedex_is_exact_and_a_client_that_missed_rounds_is_sent_everything(module):
    method = build("fedex_lora")
    state, specs = started(method)
    exact = torch.zeros(SHAPES[module], dtype=torch.float64)
    for round_ in (1, 2, 3):
        given = replies(round_=round_, base=10 * round_)[: 3 if round_ == 3 else 4]
        # W0 + what was merged + s B A must be the mean of what the clients had: merged before + their own products
        target = exact + mean_product(given, module)
        state = method.aggregate(state, given)
        exact = exact + delta(method.send(state, specs[0]), module)
        sent = method.send(state, specs[0])
        assert close(exact + dense(sent, module), target, 1e-4)
    missed = method.send(state, specs[3])
    assert close(delta(missed, module), exact, 1e-4)
    assert not any(name.startswith(ADDED) for name in missed)


@pytest.mark.parametrize("module", SHAPES)
def test_flora_stacks_exactly_at_any_rank(module):
    ranks = (1, 2, 4, 3)
    method = build("flora")
    state, specs = started(method, ranks)
    total = torch.zeros(SHAPES[module], dtype=torch.float64)
    for round_ in (1, 2, 3, 4):
        given = replies(ranks, round_, base=10 * round_)
        state = method.aggregate(state, given)
        total = total + mean_product(given, module)
    newcomer = method.send(state, ClientSpec("new", 1))
    assert close(delta(newcomer, module), total, 1e-4)
    assert close(delta(method.send(state, specs[1]), module), mean_product(given, module), 1e-5)
    assert newcomer[get_frozen_delta_names(module)[0]].shape[0] <= min(SHAPES[module])


@pytest.mark.parametrize("module", SHAPES)
def test_flexlora_is_the_truncated_svd_of_the_mean_product(module):
    ranks = (1, 2, 4, 3)
    method = build("flexlora")
    state, specs = started(method, ranks)
    given = replies(ranks)
    state = method.aggregate(state, given)
    u, s, v = torch.linalg.svd(mean_product(given, module), full_matrices=False)
    for spec, rank in zip(specs, ranks, strict=True):
        sent = method.send(state, spec)
        assert sent[f"{module}.lora_A.weight"].shape[0] == rank
        assert close(dense(sent, module), (u[:, :rank] * s[:rank]) @ v[:rank], 1e-4)


@pytest.mark.parametrize("module", SHAPES)
def test_hetlora_pads_weights_by_the_norm_of_the_product_and_cuts(module):
    ranks = (1, 2, 4, 3)
    method = build("hetlora")
    state, specs = started(method, ranks)
    given = replies(ranks)
    state = method.aggregate(state, given)
    norms = torch.tensor([float(dense(r.tensors, module).norm()) for r in given], dtype=torch.float64)
    a = torch.zeros(4, SHAPES[module][1], dtype=torch.float64)
    for reply, weight, rank in zip(given, norms / norms.sum(), ranks, strict=True):
        a[:rank] += weight * reply.tensors[f"{module}.lora_A.weight"].double()
    for spec, rank in zip(specs, ranks, strict=True):
        assert close(method.send(state, spec)[f"{module}.lora_A.weight"], a[:rank])


@pytest.mark.parametrize("name", ["hetlora", "flexlora"])
def test_rows_that_nobody_of_a_round_has_stay_alive(name):
    """Clients of small rank alone must not wipe out what the others can still learn in."""
    ranks = (1, 2, 4, 3)
    method = build(name)
    state, specs = started(method, ranks)
    sent = method.send(method.aggregate(state, replies(ranks)[:1]), specs[2])
    for module in SHAPES:
        assert (sent[f"{module}.lora_A.weight"] != 0).any(1).all()
    again = [Reply("c2", 2, sent, {"examples": 3, "loss": 0.0})]
    after = method.send(method.aggregate(method.aggregate(state, replies(ranks)[:1]), again), specs[2])
    assert after["m.layer.0.q.lora_A.weight"].shape[0] == 4


def test_hetlora_gives_up_rows_that_come_back_as_zeros():
    method = build("hetlora")
    state, specs = started(method)
    given = replies()
    name = "m.layer.0.q.lora_{}.weight"
    given[1].tensors[name.format("A")][2] = 0
    given[1].tensors[name.format("B")][:, 2] = 0
    state = method.aggregate(state, given)
    assert method.send(state, specs[1])[name.format("A")].shape[0] == 2
    assert method.send(state, specs[0])[name.format("A")].shape[0] == 3


@pytest.mark.parametrize("module", SHAPES)
def test_lora_fair_is_nearer_to_the_mean_product_than_fedit(module):
    given = replies()
    distance = {}
    for name in ("fedit", "lora_fair"):
        method = build(name)
        state, specs = started(method)
        sent = method.send(method.aggregate(state, given), specs[0])
        distance[name] = float((dense(sent, module) - mean_product(given, module)).norm())
    assert distance["lora_fair"] < 0.95 * distance["fedit"]


def test_ifca_averages_within_the_cluster_chosen():
    method = build("ifca", clusters=2)
    state, _ = started(method)
    given = replies()
    for i, reply in enumerate(given):
        reply.scalars["cluster"] = i % 2
    after = method.aggregate(state, given)
    for j in (0, 1):
        own = given[j::2]
        name = "m.classifier.weight"
        total = sum(r.scalars["examples"] for r in own)
        expected = sum(r.scalars["examples"] / total * r.tensors[name].double() for r in own)
        assert close(after.models[j][name], expected)
    nobody = [Reply(r.client, 1, r.tensors, {**r.scalars, "cluster": 0}) for r in given]
    assert torch.equal(method.aggregate(state, nobody).models[1][name], state.models[1][name])


def test_with_one_cluster_ifca_is_fedit():
    given = replies()
    for reply in given:
        reply.scalars["cluster"] = 0
    sent = []
    for name, options in (("ifca", {"clusters": 1}), ("fedit", {})):
        method = build(name, **options)
        state, specs = started(method)
        sent.append(method.send(method.aggregate(state, given), specs[0]))
    assert all(torch.equal(sent[0][f"0/{name}"], sent[1][name]) for name in sent[1])


@pytest.mark.parametrize("rule", ["adam", "yogi"])
def test_server_optimisers_follow_their_equations(rule):
    method = build("fedit", server=rule, server_lr=0.1)
    state, _ = started(method)
    name = "m.classifier.weight"
    x, m, v = state.tensors[name].double(), 0.0, 1e-6  # v starts at tau^2
    for round_ in (1, 2, 3):
        given = replies(round_=round_, base=10 * round_)
        target = sum(n / 10 * r.tensors[name].double() for n, r in zip(EXAMPLES, given, strict=True))
        step = target - x
        m = 0.9 * m + 0.1 * step
        v = 0.99 * v + 0.01 * step**2 if rule == "adam" else v - 0.01 * step**2 * torch.sign(v - step**2)
        x = x + 0.1 * m / (v.sqrt() + 1e-3)
        state = method.aggregate(state, given)
    assert close(state.tensors[name], x)


@pytest.mark.parametrize("name", ["fedit", "ffa_lora", "rolora", "fedex_lora", "lora_fair", "ditto", "ifca"])
def test_methods_that_need_one_rank_say_so_before_training(name):
    from fedpeft.errors import UserError

    with pytest.raises(UserError, match="levels: lowest"):
        started(build(name), (3, 3, 2, 3))


AGGREGATING = {
    "fedit": {}, "ffa_lora": {}, "fedsa_lora": {}, "rolora": {}, "fedex_lora": {}, "lora_fair": {}, "hetlora": {},
    "flora": {}, "flexlora": {}, "ditto": {}, "ifca": {"clusters": 1},
}  # fmt: skip


def meaning(name, sent):
    """What a message comes to, by module and for the head: products, because factors may be turned."""
    heads = {n: t.double() for n, t in sent.items() if is_head(n)}
    if name in ("ffa_lora", "fedsa_lora", "rolora", "ifca"):
        return {n: t.double() for n, t in sent.items()}
    pairs = {m: dense(sent, m) for m, _, _ in find_lora_pairs(sent) if f"{m}.lora_B.weight" in sent}
    return heads | {m: pairs.get(m, 0) + delta(sent, m) for m in SHAPES}


def after_one_round(name, options, given):
    method = build(name, **options)
    state, specs = started(method)
    wanted = {"ffa_lora": "lora_A", "fedsa_lora": "lora_B", "rolora": "lora_A"}.get(name)
    cut = [
        Reply(
            r.client,
            1,
            {n: t for n, t in r.tensors.items() if wanted is None or wanted not in n},
            {**r.scalars, "cluster": 0},
        )
        for r in given
    ]
    if name == "fedsa_lora":
        cut = [Reply(r.client, 1, {n: t for n, t in r.tensors.items() if "lora_A" in n}, r.scalars) for r in cut]
    return meaning(name, method.send(method.aggregate(state, cut), specs[0]))


def apart(a, b):
    return max(float((a[key] - b[key]).abs().max()) for key in a)


@pytest.mark.parametrize(("name", "options"), AGGREGATING.items())
def test_each_client_changes_the_result_and_order_does_not(name, options):
    given = replies()
    whole = after_one_round(name, options, given)
    assert apart(whole, after_one_round(name, options, given[::-1])) < 1e-5
    for i in range(1, len(given)):  # client 0 asks
        assert apart(whole, after_one_round(name, options, given[:i] + given[i + 1 :])) > 1e-3


@pytest.mark.parametrize(("name", "options"), AGGREGATING.items())
def test_weights_are_copies(name, options):
    """A client of weight 3 is three clients of weight 1 with the same tensors."""
    one = Reply("c0", 1, lora(0), {"examples": 1, "loss": 0.0})
    heavy = [one, Reply("c1", 1, lora(1), {"examples": 3, "loss": 0.0})]
    copies = [one, *(Reply(f"c{i}", 1, lora(1), {"examples": 1, "loss": 0.0}) for i in (1, 2, 3))]
    if name == "hetlora":  # weights are norms, not rows: there the head alone follows rows
        pytest.skip("HetLoRA weighs by the norm of the product")
    assert apart(after_one_round(name, options, heavy), after_one_round(name, options, copies)) < 1e-4

"""FedHFT's server against the equations of its docstring, dense and in float64, on modules that are not square."""

import pytest
import torch
from methods.test_lora_family import SCALE, SHAPES, apart, close

from fedpeft.adapters import get_frozen_delta_names
from fedpeft.aggregation import pack_rows
from fedpeft.federation.client import ClientSpec
from fedpeft.federation.message import Message, Reply
from fedpeft.federation.method import FederationInfo, get_layout
from fedpeft.methods.fedhft import FedHft, FedHftState
from fedpeft.methods.flexlora import FlexLora
from fedpeft.resources import ClientResources

RANKS, DENSITIES, EXAMPLES = (2, 3, 1, 3), (1.0, 0.5, 0.3, 0.5), (1, 2, 3, 4)


def build(**options):
    return FedHft(FedHft.Options(server_rank=None, **options))


def started(method, ranks=RANKS, densities=DENSITIES, examples=EXAMPLES):
    draw = torch.Generator().manual_seed(5)
    specs, initial = [], {}
    for i, (rank, density, n) in enumerate(zip(ranks, densities, examples, strict=True)):
        spec = ClientSpec(f"c{i}", n, ClientResources(rank=rank, density=density))
        specs.append(spec)
        initial[spec.id] = {"m.classifier.weight": torch.zeros(3, 24)}
        for module, (d_out, d_in) in SHAPES.items():
            initial[spec.id][f"{module}.lora_A.weight"] = torch.randn(rank, d_in, generator=draw)
            initial[spec.id][f"{module}.lora_B.weight"] = torch.zeros(d_out, rank)
    info = FederationInfo(tuple(specs), initial, {spec.id: SHAPES for spec in specs})
    return method.start(info, 0), specs


def reply_of(state: FedHftState, spec: ClientSpec, seed: int, round_: int = 1) -> tuple[Reply, dict]:
    """A reply as the client would make it, and its masked dense updates in float64."""
    draw = torch.Generator().manual_seed(seed)
    tensors = {"m.classifier.weight": torch.randn(3, 24, generator=draw)}
    updates = {}
    for module, size in state.modules[spec.id].items():
        rows = torch.randperm(size["d_out"], generator=draw)[: size["rows"]].sort().values
        b, a = (
            torch.randn(size["rows"], size["rank"], generator=draw),
            torch.randn(size["rank"], size["d_in"], generator=draw),
        )
        tensors |= {
            f"{module}.lora_A.weight": a,
            f"{module}.lora_masked_B": b,
            f"{module}.lora_row_bitmap": pack_rows(rows, size["d_out"]),
        }
        update = torch.zeros(size["d_out"], size["d_in"], dtype=torch.float64)
        update[rows] = SCALE * b.double() @ a.double()
        covered = torch.zeros(size["d_out"], dtype=torch.float64)
        covered[rows] = 1
        updates[module] = update, covered
    return Reply(spec.id, round_, tensors, {"examples": spec.examples, "loss": 0.0}), updates


def replies_of(state, specs, base=0, round_=1):
    made = [reply_of(state, spec, base + i, round_) for i, spec in enumerate(specs)]
    return [reply for reply, _ in made], [updates for _, updates in made]


def overlap(updates, weights, module, count=False):
    """g[d] = sum_k w_k M_k[d] Delta_k[d] / sum_k w_k M_k[d], rows nobody covers 0."""
    total = sum(w * u[module][0] for w, u in zip(weights, updates, strict=True))
    below = sum((1.0 if count else w) * u[module][1] for w, u in zip(weights, updates, strict=True))
    return torch.where(below[:, None] > 0, total / below.clamp_min(1e-30)[:, None], 0.0)


def delta(tensors, module):
    a, b = get_frozen_delta_names(module)
    return (
        tensors[b].double() @ tensors[a].double() if a in tensors else torch.zeros(SHAPES[module], dtype=torch.float64)
    )


def top(matrix, rank):
    u, s, v = torch.linalg.svd(matrix, full_matrices=False)
    return (u[:, :rank] * s[:rank]) @ v[:rank]


def with_shares(state: FedHftState, shares: torch.Tensor) -> FedHftState:
    """The state as if a clustering had given these responsibilities (clients, clusters)."""
    count = shares.shape[1]
    by_client = dict(zip(sorted(state.modules), shares.double(), strict=True))
    return FedHftState(state.modules, state.heads * count, state.updates * count, state.seed, by_client)


@pytest.mark.parametrize("module", SHAPES)
def test_with_one_cluster_every_client_gets_its_rank_of_the_overlap_mean(module):
    method = build(warmup=100)
    state, specs = started(method)
    total = torch.zeros(SHAPES[module], dtype=torch.float64)
    for round_ in (1, 2, 3):
        given, updates = replies_of(state, specs, 10 * round_, round_)
        state = method.aggregate(state, given)
        total = total + overlap(updates, EXAMPLES, module)
        for spec, rank in zip(specs, RANKS, strict=True):
            assert close(delta(method.send(state, spec), module), top(total, rank), 1e-4)


@pytest.mark.parametrize("normalize", ["responsibility", "count"])
@pytest.mark.parametrize("module", SHAPES)
def test_two_clusters_follow_the_equations(module, normalize):
    method = build(warmup=100, normalize=normalize)
    shares = torch.tensor([[0.9, 0.1], [0.5, 0.5], [0.2, 0.8], [0.0, 1.0]], dtype=torch.float64)
    state, specs = started(method)
    state = with_shares(state, shares)
    given, updates = replies_of(state, specs)
    after = method.aggregate(state, given)
    weights = torch.tensor(EXAMPLES, dtype=torch.float64) / 10
    if normalize == "count":
        weights = 4 * weights  # the published rule has w_k = 1: here the mean of the weights is
    for j in (0, 1):
        w = weights * shares[:, j]
        expected = overlap(updates, w.tolist(), module, count=normalize == "count")
        b, a = after.updates[j][module]
        assert close(b.double() @ a.double(), expected, 1e-4)
        head = sum(x * r.tensors["m.classifier.weight"].double() for x, r in zip(w, given, strict=True))
        assert close(after.heads[j]["m.classifier.weight"], head / (w.sum() if normalize == "responsibility" else 4))
    dense = [u[module][0].double() @ u[module][1].double() for u in after.updates]
    for spec, share, rank in zip(specs, shares, RANKS, strict=True):
        mixed = float(share[0]) * dense[0] + float(share[1]) * dense[1]
        assert close(delta(method.send(after, spec), module), top(mixed, rank), 1e-4)


def test_equal_shares_are_one_cluster():
    method = build(warmup=100)
    one, specs = started(method)
    three = with_shares(one, torch.full((4, 3), 1 / 3))
    for round_ in (1, 2):
        given, _ = replies_of(one, specs, 10 * round_, round_)
        one, three = method.aggregate(one, given), method.aggregate(three, given)
    for spec in specs:
        a, b = method.send(one, spec), method.send(three, spec)
        assert all(close(delta(a, m), delta(b, m), 1e-4) for m in SHAPES)
        assert close(a["m.classifier.weight"], b["m.classifier.weight"])


def test_disjoint_shares_are_separate_federations():
    method = build(warmup=100)
    start, specs = started(method)
    both = with_shares(start, torch.tensor([[1, 0], [0, 1], [1, 0], [0, 1]]))
    given, _ = replies_of(start, specs)
    both = method.aggregate(both, given)
    alone = [method.aggregate(start, given[j::2]) for j in (0, 1)]
    for i, spec in enumerate(specs):
        a, b = method.send(both, spec), method.send(alone[i % 2], spec)
        assert all(close(delta(a, m), delta(b, m), 1e-4) for m in SHAPES)
        assert close(a["m.classifier.weight"], b["m.classifier.weight"])
    assert apart(both.heads[0], both.heads[1]) > 0.1  # two clusters are two objects


def test_one_cluster_at_full_density_and_equal_ranks_is_flexlora():
    method = build(warmup=100)
    state, specs = started(method, (3,) * 4, (1.0,) * 4, (1,) * 4)
    given, _ = replies_of(state, specs)
    flex = FlexLora(FlexLora.Options())
    initial = {spec.id: plain(reply.tensors) for spec, reply in zip(specs, given, strict=True)}
    flexed = flex.start(FederationInfo(tuple(specs), initial), 0)
    flexed = flex.aggregate(flexed, [Reply(r.client, 1, plain(r.tensors), r.scalars) for r in given])
    mine, theirs = method.send(method.aggregate(state, given), specs[0]), flex.send(flexed, specs[0])
    for module in SHAPES:
        b, a = theirs[f"{module}.lora_B.weight"], theirs[f"{module}.lora_A.weight"]
        assert close(delta(mine, module), SCALE * b.double() @ a.double(), 1e-4)


def plain(tensors):
    """A full-density reply as an ordinary LoRA."""
    kept = {n.replace("lora_masked_B", "lora_B.weight"): t for n, t in tensors.items()}
    return {n: t for n, t in kept.items() if not n.endswith("bitmap")}


@pytest.mark.parametrize("shares", [None, [[0.9, 0.1], [0.5, 0.5], [0.2, 0.8], [0.1, 0.9]]])
def test_each_client_changes_the_result_and_order_does_not(shares):
    method = build(warmup=100)
    state, specs = started(method)
    if shares is not None:
        state = with_shares(state, torch.tensor(shares))
    given, _ = replies_of(state, specs)

    def sent(replies):
        message = method.send(method.aggregate(state, replies), specs[1])
        return {m: delta(message, m) for m in SHAPES} | {"head": message["m.classifier.weight"].double()}

    whole = sent(given)
    assert apart(whole, sent(given[::-1])) < 1e-5
    for i in range(4):
        assert apart(whole, sent(given[:i] + given[i + 1 :])) > 1e-3


def test_clients_are_clustered_after_the_warm_up_by_their_heads():
    method = build(warmup=2, clusters=2)
    state, specs = started(method)
    for round_ in (1, 2, 3):
        given, _ = replies_of(state, specs, 10 * round_, round_)
        for i, reply in enumerate(given):  # two groups whose heads oppose one another
            reply.tensors["m.classifier.weight"].mul_(0.1).add_(1.0 if i % 2 else -1.0)
        state = method.aggregate(state, given)
        assert len(state.updates) == (1 if round_ < 2 else 2)
    order = torch.stack([state.shares[spec.id] for spec in specs])
    assert torch.allclose(order.sum(1), torch.ones(4, dtype=torch.float64))
    assert order[0, 0].round() == order[2, 0].round() != order[1, 0].round() == order[3, 0].round()
    assert float(order.min()) >= 0.02 - 1e-9
    heads = [method.send(state, spec)["m.classifier.weight"].mean() for spec in specs]
    assert heads[0] < 0 < heads[1] and heads[2] < 0 < heads[3]


def test_a_client_that_was_not_drawn_keeps_its_share_and_a_newcomer_gets_the_mean_of_shares():
    method = build(warmup=1, clusters=2)
    state, specs = started(method)
    given, _ = replies_of(state, specs)
    state = method.aggregate(state, given)
    later, _ = replies_of(state, specs[:2], 20, 2)
    state = method.aggregate(state, later)
    assert set(state.shares) == {spec.id for spec in specs}
    assert set(method.send(state, ClientSpec("new", 1))) >= {
        "m.classifier.weight",
        *get_frozen_delta_names("m.layer.0.q"),
    }


def test_a_reply_looks_as_expected_and_a_wrong_bitmap_is_refused():
    method = build()
    state, specs = started(method)
    reply, _ = reply_of(state, specs[1], 3)
    assert get_layout(reply.tensors) == method.reply_layout(state, Message("c1", 1, {}))
    assert method.rejection_reason(state, reply) is None
    bitmap = reply.tensors["m.layer.0.q.lora_row_bitmap"]
    bitmap[0] = bitmap[0] ^ 1  # one row more or less
    assert "bitmap" in method.rejection_reason(state, reply)


def test_no_zero_row_travels():
    method = build()
    state, _ = started(method)
    expected = method.reply_layout(state, Message("c2", 1, {}))
    assert expected["m.layer.1.up.lora_masked_B"][1] == (8, 1)  # 0.3 of 24 rows, rank 1
    assert expected["m.layer.1.up.lora_row_bitmap"][1] == (3,)

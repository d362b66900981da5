"""FedHFT's server against the equations of its docstring, dense and in float64, on modules that are not square."""

import pytest
import torch
from helpers.masked_replies import (
    RANKS,
    average_overlap,
    build_fedhft,
    make_masked_replies,
    make_masked_reply,
    start_fedhft,
    with_responsibilities,
)
from helpers.replies import (
    EXAMPLES,
    HEAD,
    JOINING,
    SCALE,
    SHAPES,
    get_delta,
    is_close,
    largest_difference,
    truncate_dense,
)

from fedpeft.adapters import get_frozen_delta_names
from fedpeft.federation.message import Message, Reply
from fedpeft.federation.method import FederationInfo, get_layout
from fedpeft.methods.flexlora import FlexLora

UNEVEN = torch.tensor([[0.9, 0.1], [0.5, 0.5], [0.2, 0.8], [0.0, 1.0]], dtype=torch.float64)


def dense_update(factors):
    b, a = factors
    return b.double() @ a.double()


@pytest.mark.parametrize("module", SHAPES)
def test_one_cluster_adds_up_the_overlap_means_of_the_rounds(module):
    method = build_fedhft(warmup=100)
    state, specs = start_fedhft(method)
    total = torch.zeros(SHAPES[module], dtype=torch.float64)
    for round_ in (1, 2, 3):
        replies, updates = make_masked_replies(state, specs, 10 * round_, round_)
        state = method.aggregate(state, replies)
        total = total + average_overlap(updates, EXAMPLES, module)
        for spec, rank in zip(specs, RANKS, strict=True):
            sent = method.send(state, spec)
            assert is_close(get_delta(sent, module), truncate_dense(total, rank), 1e-4)
            assert sent[get_frozen_delta_names(module)[0]].shape[0] == rank


@pytest.mark.parametrize("normalize", ["responsibility", "count"])
@pytest.mark.parametrize("module", SHAPES)
def test_two_clusters_follow_the_equations(module, normalize):
    method = build_fedhft(warmup=100, normalize=normalize)
    state, specs = start_fedhft(method)
    state = with_responsibilities(state, UNEVEN)
    replies, updates = make_masked_replies(state, specs)
    after = method.aggregate(state, replies)
    weights = torch.tensor(EXAMPLES, dtype=torch.float64) / 10
    if normalize == "count":
        weights = 4 * weights  # the published rule has w_k = 1: here the mean of the weights is
    for j in (0, 1):
        w = weights * UNEVEN[:, j]
        expected = average_overlap(updates, w.tolist(), module, by_count=normalize == "count")
        assert is_close(dense_update(after.updates[j][module]), expected, 1e-4)
        head = sum(x * reply.tensors[HEAD].double() for x, reply in zip(w, replies, strict=True))
        assert is_close(after.heads[j][HEAD], head / (w.sum() if normalize == "responsibility" else 4))
    dense = [dense_update(updates[module]) for updates in after.updates]
    for spec, (p, q), rank in zip(specs, UNEVEN.tolist(), RANKS, strict=True):
        sent = method.send(after, spec)
        assert is_close(get_delta(sent, module), truncate_dense(p * dense[0] + q * dense[1], rank), 1e-4)
        assert is_close(sent[HEAD], p * after.heads[0][HEAD].double() + q * after.heads[1][HEAD].double())


@pytest.mark.parametrize(("limit", "rank"), [(None, 7), (4, 4), (99, 7)])
def test_the_server_keeps_a_clusters_update_at_its_rank(limit, rank):
    method = build_fedhft(warmup=100, server_rank=limit)
    state, specs = start_fedhft(method)
    replies, updates = make_masked_replies(state, specs)
    after = method.aggregate(state, replies)
    factors = after.updates[0]["m.layer.0.q"]
    expected = truncate_dense(average_overlap(updates, EXAMPLES, "m.layer.0.q"), rank)
    assert factors[1].shape[0] == rank and is_close(dense_update(factors), expected, 1e-4)
    alone = method.aggregate(state, replies[:1])
    assert alone.updates[0]["m.layer.0.q"][1].shape[0] == RANKS[0]  # below the limit nothing is done


def test_clients_that_adapt_other_modules_are_averaged_where_they_do():
    method = build_fedhft(warmup=100)
    state, specs = start_fedhft(method)
    for client in ("c0", "c2"):
        del state.modules[client]["m.layer.1.up"]
    replies, updates = make_masked_replies(state, specs)
    after = method.aggregate(state, replies)
    up = average_overlap([updates[1], updates[3]], [2, 4], "m.layer.1.up")
    assert is_close(dense_update(after.updates[0]["m.layer.1.up"]), up, 1e-4)
    q = average_overlap(updates, EXAMPLES, "m.layer.0.q")
    assert is_close(dense_update(after.updates[0]["m.layer.0.q"]), q, 1e-4)
    assert list(after.updates[0]) == sorted(SHAPES)
    assert get_frozen_delta_names("m.layer.1.up")[0] not in method.send(after, specs[0])


def test_a_cluster_without_responsibility_in_a_round_stays():
    method = build_fedhft(warmup=100)
    state, specs = start_fedhft(method)
    state = with_responsibilities(state, torch.tensor([[1, 0], [1, 0], [0, 1], [0, 1]]))
    first = method.aggregate(state, make_masked_replies(state, specs)[0])
    after = method.aggregate(first, make_masked_replies(state, specs[:2], 30, 2)[0])
    assert after.heads[1] is first.heads[1] and after.heads[0] is not first.heads[0]
    for module in SHAPES:
        assert is_close(dense_update(after.updates[1][module]), dense_update(first.updates[1][module]), 1e-4)


def test_equal_responsibilities_are_one_cluster():
    method = build_fedhft(warmup=100)
    one, specs = start_fedhft(method)
    three = with_responsibilities(one, torch.full((4, 3), 1 / 3))
    for round_ in (1, 2):
        replies, _ = make_masked_replies(one, specs, 10 * round_, round_)
        one, three = method.aggregate(one, replies), method.aggregate(three, replies)
    for spec in specs:
        a, b = method.send(one, spec), method.send(three, spec)
        assert all(is_close(get_delta(a, m), get_delta(b, m), 1e-4) for m in SHAPES)
        assert is_close(a[HEAD], b[HEAD])


def test_disjoint_responsibilities_are_separate_federations():
    method = build_fedhft(warmup=100)
    start, specs = start_fedhft(method)
    both = with_responsibilities(start, torch.tensor([[1, 0], [0, 1], [1, 0], [0, 1]]))
    replies, _ = make_masked_replies(start, specs)
    both = method.aggregate(both, replies)
    alone = [method.aggregate(start, replies[j::2]) for j in (0, 1)]
    for i, spec in enumerate(specs):
        a, b = method.send(both, spec), method.send(alone[i % 2], spec)
        assert all(is_close(get_delta(a, m), get_delta(b, m), 1e-4) for m in SHAPES)
        assert is_close(a[HEAD], b[HEAD])
    assert largest_difference(both.heads[0], both.heads[1]) > 0.1  # two clusters are two objects


def test_one_cluster_at_full_density_and_equal_ranks_is_flexlora():
    method = build_fedhft(warmup=100)
    state, specs = start_fedhft(method, (3,) * 4, (1.0,) * 4, (1,) * 4)
    replies, _ = make_masked_replies(state, specs)
    flex = FlexLora(FlexLora.Options())
    initial = {spec.id: as_plain_lora(reply.tensors) for spec, reply in zip(specs, replies, strict=True)}
    flexed = flex.start(FederationInfo(tuple(specs), initial), 0)
    flexed = flex.aggregate(flexed, [Reply(r.client, 1, as_plain_lora(r.tensors), r.scalars) for r in replies])
    mine, theirs = method.send(method.aggregate(state, replies), specs[0]), flex.send(flexed, specs[0])
    for module in SHAPES:
        b, a = theirs[f"{module}.lora_B.weight"], theirs[f"{module}.lora_A.weight"]
        assert is_close(get_delta(mine, module), SCALE * b.double() @ a.double(), 1e-4)


def as_plain_lora(tensors):
    """A reply of full density as an ordinary LoRA."""
    kept = {n.replace("lora_masked_B", "lora_B.weight"): t for n, t in tensors.items()}
    return {n: t for n, t in kept.items() if not n.endswith("bitmap")}


@pytest.mark.parametrize("responsibilities", [None, [[0.9, 0.1], [0.5, 0.5], [0.2, 0.8], [0.1, 0.9]]])
def test_each_client_changes_the_result_and_order_does_not(responsibilities):
    method = build_fedhft(warmup=100)
    state, specs = start_fedhft(method)
    if responsibilities is not None:
        state = with_responsibilities(state, torch.tensor(responsibilities))
    replies, _ = make_masked_replies(state, specs)

    def sent_after(some):
        message = method.send(method.aggregate(state, some), specs[1])
        return {m: get_delta(message, m) for m in SHAPES} | {"head": message[HEAD].double()}

    whole = sent_after(replies)
    assert largest_difference(whole, sent_after(replies[::-1])) < 1e-5
    for i in range(4):
        assert largest_difference(whole, sent_after(replies[:i] + replies[i + 1 :])) > 1e-3


def test_before_the_first_round_the_head_alone_is_sent():
    method = build_fedhft()
    state, specs = start_fedhft(method)
    assert method.send(state, specs[0]).keys() == method.send(state, JOINING).keys() == {HEAD}
    assert not method.send(state, specs[0])[HEAD].any() and method.uses_client_state is False


def test_a_joining_client_is_sent_the_mixture_of_mean_responsibilities_at_the_methods_rank():
    method = build_fedhft(warmup=100, adapter={"r": 2, "alpha": 4})
    state, specs = start_fedhft(method)
    state = with_responsibilities(state, UNEVEN)
    after = method.aggregate(state, make_masked_replies(state, specs)[0])
    sent, (p, q) = method.send(after, JOINING), UNEVEN.mean(0).tolist()
    for module in SHAPES:
        mixed = p * dense_update(after.updates[0][module]) + q * dense_update(after.updates[1][module])
        assert is_close(get_delta(sent, module), truncate_dense(mixed, 2), 1e-4)


def test_a_reply_looks_as_expected_and_a_wrong_bitmap_is_refused():
    method = build_fedhft()
    state, specs = start_fedhft(method)
    reply, _ = make_masked_reply(state.modules["c1"], specs[1], 3)
    assert get_layout(reply.tensors) == method.reply_layout(state, Message("c1", 1, {}))
    assert method.rejection_reason(state, reply) is None
    bitmap = reply.tensors["m.layer.0.q.lora_row_bitmap"]
    bitmap[0] = bitmap[0] ^ 1  # one row more or less
    assert "bitmap" in method.rejection_reason(state, reply)


def test_no_zero_row_travels():
    method = build_fedhft()
    state, _ = start_fedhft(method)
    expected = method.reply_layout(state, Message("c2", 1, {}))
    assert expected["m.layer.1.up.lora_masked_B"][1] == (8, 1)  # 0.3 of 24 rows, rank 1
    assert expected["m.layer.1.up.lora_row_bitmap"][1] == (3,)


def test_the_log_has_each_clients_responsibilities_and_its_largest_cluster():
    method = build_fedhft(clusters=2)
    state, specs = start_fedhft(method)
    assert method.describe_clients(state) == {}  # before the first clustering there is one
    known = method.describe_clients(with_responsibilities(state, UNEVEN))
    assert known[specs[0].id] == {"cluster": 0, "responsibility_0": 0.9, "responsibility_1": 0.1}
    assert known[specs[3].id] == {"cluster": 1, "responsibility_0": 0.0, "responsibility_1": 1.0}

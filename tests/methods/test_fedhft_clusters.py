"""When and by what FedHFT clusters its clients, what becomes of absent ones, and how a client joins."""

import pytest
import torch
from helpers.masked_replies import build_fedhft, make_masked_replies, make_masked_reply, start_fedhft
from helpers.replies import HEAD, are_equal, get_delta, is_close, truncate_dense

from fedpeft.adapters import get_frozen_delta_names
from fedpeft.federation.client import ClientSpec
from fedpeft.methods import fedhft
from fedpeft.methods.common.client_features import sketch_update
from fedpeft.methods.fedhft import FedHftOptions


def oppose_heads(replies):
    """Two groups, of even and of odd clients, whose heads oppose one another."""
    for i, reply in enumerate(replies):
        reply.tensors[HEAD].mul_(0.1).add_(1.0 if i % 2 else -1.0)
    return replies


def run_rounds(method, count, clients=4, **start):
    state, specs = start_fedhft(method, **start)
    for round_ in range(1, count + 1):
        replies, _ = make_masked_replies(state, specs[:clients], 10 * round_, round_)
        state = method.aggregate(state, oppose_heads(replies))
    return state, specs


@pytest.fixture
def fits(monkeypatch):
    """The arguments of every clustering."""
    calls, real = [], fedhft.fit_responsibilities

    def watch(features, count, previous, **options):
        calls.append((features, count, previous, options))
        return real(features, count, previous, **options)

    monkeypatch.setattr(fedhft, "fit_responsibilities", watch)
    return calls


@pytest.mark.parametrize("warmup", [1, 2])
def test_clients_are_clustered_from_the_end_of_the_warm_up_on(warmup):
    method = build_fedhft(warmup=warmup, clusters=2)
    for rounds in (1, 2, 3):
        state, specs = run_rounds(method, rounds)
        is_clustered = rounds >= warmup
        assert len(state.updates) == len(state.heads) == (2 if is_clustered else 1)
        assert bool(state.shares) == is_clustered
    order = torch.stack([state.shares[spec.id] for spec in specs])
    assert torch.allclose(order.sum(1), torch.ones(4, dtype=torch.float64))
    assert order[0, 0].round() == order[2, 0].round() != order[1, 0].round() == order[3, 0].round()
    assert float(order.min()) >= 0.02 - 1e-9
    heads = [method.send(state, spec)[HEAD].mean() for spec in specs]
    assert heads[0] < 0 < heads[1] and heads[2] < 0 < heads[3]


def test_all_clusters_start_from_the_one_before_them():
    method = build_fedhft(warmup=1, clusters=3)
    state, _ = run_rounds(method, 1)
    assert len(state.updates) == 3 and state.updates[0] is state.updates[2] and state.heads[0] is state.heads[2]


def test_a_clustering_starts_from_the_last_responsibilities(fits):
    state, specs = run_rounds(build_fedhft(warmup=1, clusters=2, floor=0.05), 2)
    (_, _, first, options), (features, count, second, _) = fits
    assert first is None and second.shape == (4, 2) and count == 2
    assert options == {"floor": 0.05, "seed": 0, "maximum": 6}
    assert torch.equal(features, torch.stack([state.features[spec.id] for spec in specs]))


def test_the_number_of_clusters_is_found_once(fits):
    state, _ = run_rounds(build_fedhft(warmup=1, clusters="auto"), 3)
    assert [count for _, count, _, _ in fits] == ["auto", len(state.heads), len(state.heads)]
    assert len(state.heads) == len(state.updates) == state.shares["c0"].shape[0]


@pytest.mark.parametrize("has_head", [True, False])
@pytest.mark.parametrize("feature", ["head", "update"])
def test_the_feature_is_the_head_or_a_sketch_of_the_update(feature, has_head):
    method = build_fedhft(feature=feature)
    state, specs = start_fedhft(method)
    replies, _ = make_masked_replies(state, specs)
    if not has_head:  # a decoder has none
        state = type(state)(state.modules, ({},), state.updates, 3)
        for reply in replies:
            del reply.tensors[HEAD]
    after = method.aggregate(state, replies)
    for reply in replies:
        if feature == "head" and has_head:
            expected = reply.tensors[HEAD].flatten()
        else:
            expected = sketch_update(reply, state.modules, 2.0, state.seed)
        assert torch.equal(after.features[reply.client], expected)


def test_a_client_that_was_not_drawn_keeps_its_feature_its_cluster_and_its_mixture_grows():
    method = build_fedhft(warmup=1, clusters=2)
    state, specs = run_rounds(method, 1)
    replies, _ = make_masked_replies(state, specs[:2], 20, 2)
    later = method.aggregate(state, oppose_heads(replies))
    assert set(later.shares) == set(later.features) == set(later.mixtures) == {spec.id for spec in specs}
    for client in ("c2", "c3"):
        assert later.features[client] is state.features[client]
        assert later.shares[client].argmax() == later.shares[f"c{int(client[1]) - 2}"].argmax()
        assert not are_equal(later.mixtures[client], state.mixtures[client])


def test_a_client_without_a_cluster_yet_counts_with_the_mean_of_the_others():
    method = build_fedhft(warmup=1, clusters=2)
    state, _ = run_rounds(method, 1, clients=3)
    assert set(state.shares) == {"c0", "c1", "c2"}
    mean = torch.stack(list(state.shares.values())).mean(0)
    assert torch.equal(state.get_responsibilities("c3"), mean)
    start, _ = start_fedhft(method)
    assert start.get_responsibilities("c3").tolist() == [1.0]


@pytest.mark.parametrize("warmup", [1, 100])
def test_a_client_joins_and_nobody_elses_message_changes(warmup):
    method = build_fedhft(warmup=warmup, clusters=2)
    state, specs = run_rounds(method, 2)
    size = {m: {**size, "rank": 2, "rows": 3} for m, size in state.modules["c0"].items()}
    joining = ClientSpec("joining", 5)
    reply, _ = make_masked_reply(size, joining, 77, 3)
    reply.tensors[HEAD].mul_(0.1).add_(1.0)  # as the odd clients
    after = method.add_client(state, reply)
    assert after.modules["joining"] == size and torch.equal(after.features["joining"], reply.tensors[HEAD].flatten())
    assert all(are_equal(method.send(after, spec), method.send(state, spec)) for spec in specs)
    assert all(torch.equal(after.shares[client], own) for client, own in state.shares.items())
    assert ("joining" in after.shares) == (warmup == 1)
    if warmup == 1:
        assert after.shares["joining"].argmax() == state.shares["c1"].argmax() != state.shares["c0"].argmax()
    sent, own = method.send(after, joining), after.get_responsibilities("joining").tolist()
    for module in size:
        mixed = sum(p * u[module][0].double() @ u[module][1].double() for p, u in zip(own, after.updates, strict=True))
        assert is_close(get_delta(sent, module), truncate_dense(mixed, 2), 1e-4)
        assert sent[get_frozen_delta_names(module)[0]].shape[0] == 2


@pytest.mark.parametrize(
    ("clusters", "floor", "is_refused"),
    [(2, 0.4, False), (3, 0.34, True), (4, 0.25, True), (4, 0.24, False), ("auto", 0.17, True), ("auto", 0.16, False)],
)
def test_floors_that_leave_nothing_to_divide_are_refused(clusters, floor, is_refused):
    if is_refused:
        with pytest.raises(ValueError, match="clusters x floor must be below 1, here"):
            FedHftOptions(clusters=clusters, floor=floor)
    else:
        FedHftOptions(clusters=clusters, floor=floor)


def test_a_clients_newest_features_replace_those_of_earlier_rounds():
    method = build_fedhft(warmup=1, clusters=2)
    (first, specs), (second, _) = (run_rounds(method, count) for count in (1, 2))
    for spec in specs:
        assert not torch.equal(first.features[spec.id], second.features[spec.id])

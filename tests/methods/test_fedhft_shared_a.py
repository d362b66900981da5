"""FedHFT whose clients share the A of a round: what trains and travels, and that the server's sum is exact."""

import pytest
import torch
from helpers.local_clients import make_classifier, make_clients, train_client
from helpers.masked_replies import average_overlap, build_fedhft, make_masked_reply, start_fedhft
from helpers.replies import EXAMPLES, SCALE, SHAPES, is_close

from fedpeft.adapters import find_lora_pairs
from fedpeft.aggregation import unpack_rows
from fedpeft.federation.client import ClientSpec
from fedpeft.federation.message import Message, Reply, wire_size
from fedpeft.federation.method import get_layout
from fedpeft.methods.common.shared_a import draw_shared_a, drop_a
from fedpeft.methods.fedhft import FedHft


@pytest.fixture(scope="module")
def plain():
    return make_classifier()


def run_client(plain, density, **options):
    method = FedHft(FedHft.Options(**{"lr": 1e-2, "adapter": {"r": 2}, "fresh_a": "shared", **options}))
    clients, state = make_clients(method, plain, densities=(density, 1.0, 1.0))
    client, model = clients[0]
    return train_client(method, state, client, model, 1), client, method, state


@pytest.mark.parametrize("masks", ["after", "before"])
def test_a_stays_as_the_seed_gives_it_and_does_not_travel(plain, masks):
    reply, client, method, state = run_client(plain, 0.3, masks=masks)
    trained = client.local.trained
    for module, a, b in find_lora_pairs(trained):
        assert torch.equal(trained[a], draw_shared_a(client.seed, 1, module, *trained[a].shape))
        assert trained[b].any()
        assert a not in reply.tensors
    message = Message(client.spec.id, 1, method.send(state, client.spec))
    assert get_layout(reply.tensors) == method.reply_layout(state, message)


def test_the_uplink_falls_below_what_the_density_leaves_of_b(plain):
    shared, own = (run_client(plain, 0.3, fresh_a=kind)[0] for kind in ("shared", "own"))
    missing = sum(t.numel() for name, t in own.tensors.items() if name.endswith("lora_A.weight"))
    assert missing > 0
    assert wire_size(own) - wire_size(shared) >= 4 * missing


def make_replies(state, specs, round_):
    """Replies without A, and (update, covered rows) by module of each client, dense in float64."""
    replies, updates = [], []
    for i, spec in enumerate(specs):
        reply, _ = make_masked_reply(state.modules[spec.id], spec, 10 * round_ + i, round_)
        replies.append(Reply(reply.client, round_, {n: reply.tensors[n] for n in drop_a(reply.tensors)}, reply.scalars))
        updates.append({m: make_dense(reply, m, size, state.seed) for m, size in state.modules[spec.id].items()})
    return replies, updates


def make_dense(reply, module, size, seed):
    rows = unpack_rows(reply.tensors[f"{module}.lora_row_bitmap"], size["d_out"])
    update, covered = torch.zeros(SHAPES[module], dtype=torch.float64), torch.zeros(size["d_out"], dtype=torch.float64)
    a = draw_shared_a(seed, reply.round, module, size["rank"], size["d_in"])
    update[rows] = SCALE * reply.tensors[f"{module}.lora_masked_B"].double() @ a.double()
    covered[rows] = 1
    return update, covered


def test_the_server_adds_up_the_overlap_means_in_the_rank_of_the_largest_client():
    method = build_fedhft(warmup=100, fresh_a="shared")
    state, specs = start_fedhft(method)
    total = dict.fromkeys(SHAPES, 0.0)
    for round_ in (1, 2):
        replies, updates = make_replies(state, specs, round_)
        state = method.aggregate(state, replies)
        for module in SHAPES:
            total[module] = total[module] + average_overlap(updates, EXAMPLES, module)
            b, a = state.updates[0][module]
            assert a.shape[0] <= 3 * round_  # the largest client's rank, each round
            assert is_close(b.double() @ a.double(), total[module], 1e-4)


def test_clients_are_clustered_by_updates_and_a_joining_one_is_added():
    method = build_fedhft(warmup=1, fresh_a="shared", feature="update")
    state, specs = start_fedhft(method)
    replies, _ = make_replies(state, specs, 1)
    state = method.aggregate(state, replies)
    assert len(state.updates) == 2
    joining = Reply("joining", 2, replies[1].tensors, replies[1].scalars)
    after = method.add_client(state, joining)
    assert {size["rank"] for size in after.modules["joining"].values()} == {3}
    assert method.send(after, ClientSpec("joining", 1)).keys() == method.send(state, specs[1]).keys()


def test_how_far_a_reply_goes_is_told_by_b_alone():
    method = build_fedhft(fresh_a="shared")
    state, specs = start_fedhft(method)
    (reply, *_), _ = make_replies(state, specs, 1)
    norm, count = method.measure_adapter(reply)
    parts = [t for name, t in reply.tensors.items() if name.endswith("lora_masked_B")]
    assert count == sum(part.numel() for part in parts)
    assert norm == pytest.approx(float(torch.cat([part.flatten() for part in parts]).norm()), rel=1e-5)

"""FedAvg + LoReFT: the mean of the interventions, its R's put back on the manifold unless that is switched off."""

import pytest
from helpers.replies import (
    HEAD,
    are_equal,
    build_method,
    is_close,
    make_opposite_replies,
    make_reft_replies,
    make_reply,
    mean_tensor,
    reft_tensors,
    start_reft,
)

from fedpeft.aggregation import polar


@pytest.mark.parametrize(
    ("options", "retracts"),
    [({}, True), ({"retract": False}, False), ({"adapter": {"kind": "loreft", "variant": "noreft"}}, False)],
)
@pytest.mark.parametrize("server", ["mean", "adam"])
def test_every_r_is_retracted_after_the_step_of_the_server(options, retracts, server):
    method, plain = (build_method(name, **o) for name, o in (
        ("fedavg_loreft", {"server": server, **options}), ("fedavg_loreft", {"server": server, "retract": False})
    ))  # fmt: skip
    replies = make_reft_replies([1, 2, 3, 4])
    state, _ = start_reft(method)
    after, unretracted = (m.aggregate(state, replies).tensors for m in (method, plain))
    for name, tensor in unretracted.items():
        assert is_close(after[name], polar(tensor) if retracts and name.endswith("reft_R") else tensor), name
        if server == "mean":
            assert is_close(tensor, mean_tensor(replies, name))
    if retracts:
        assert not is_close(after["m.layer.0.reft_R"], unretracted["m.layer.0.reft_R"], 1e-2)


def test_moments_of_the_servers_optimiser_survive_the_retraction():
    method = build_method("fedavg_loreft", server="yogi")
    state, _ = start_reft(method)
    assert method.aggregate(state, make_reft_replies([1, 1])).moments["m"].keys() == reft_tensors(0).keys()


@pytest.mark.parametrize(("variant", "is_refused"), [("loreft", True), ("noreft", False), ("direft", False)])
def test_a_reply_whose_rows_are_not_orthonormal_is_refused_where_they_should_be(variant, is_refused):
    method = build_method("fedavg_loreft", adapter={"kind": "loreft", "variant": variant})
    state, _ = start_reft(method)
    tensors = reft_tensors(0)
    assert method.rejection_reason(state, make_reply("c0", tensors)) is None
    tensors["m.layer.1.reft_R"] = 2 * tensors["m.layer.1.reft_R"]
    reason = method.rejection_reason(state, make_reply("c0", tensors))
    assert reason == ("m.layer.1.reft_R: its rows are not orthonormal" if is_refused else None)


def test_opposite_rows_leave_the_last_ones():
    method = build_method("fedavg_loreft")
    state, _ = start_reft(method)
    replies = make_opposite_replies()
    after = method.aggregate(state, replies).tensors
    assert are_equal({n: t for n, t in after.items() if n.endswith("reft_R")},
                     {n: t for n, t in state.tensors.items() if n.endswith("reft_R")})  # fmt: skip
    assert is_close(after[HEAD], mean_tensor(replies, HEAD))


def test_the_head_is_averaged_with_them():
    method, replies = build_method("fedavg_loreft"), make_reft_replies([3, 1])
    state, _ = start_reft(method)
    assert is_close(method.aggregate(state, replies).tensors[HEAD], mean_tensor(replies, HEAD))
    assert method.uses_client_state is False

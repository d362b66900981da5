"""Methods without a server: nothing travels, and the state never changes."""

from helpers.replies import build_method, lora_tensors, make_client, make_reply

from fedpeft.federation.client import ClientSpec
from fedpeft.federation.message import Message
from fedpeft.methods.common.isolated import Isolated, IsolatedOptions, NoState
from fedpeft.methods.local import Local
from fedpeft.methods.zero_shot import ZeroShot


def test_nothing_travels_either_way_and_nothing_is_kept():
    method = Isolated(IsolatedOptions())
    state, client = method.start(None, 0), make_client(trained=lora_tensors(0))
    message = Message("c0", 1, method.send(state, ClientSpec("c0", 1)))
    assert message.tensors == {} == method.reply(None, message, client) == method.reply_layout(state, message)
    assert method.aggregate(state, [make_reply("c0", {})]) is state == NoState()


def test_local_and_zero_shot_are_such_methods():
    for name, kind in (("local", Local), ("zero_shot", ZeroShot)):
        method = build_method(name, adapter={"kind": "loreft", "r": 2})
        assert type(method) is kind and isinstance(method, Isolated) and method.options.adapter.r == 2

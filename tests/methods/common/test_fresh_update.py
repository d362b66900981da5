"""How far the products of a fresh LoRA go, and how they are cut down."""

import torch
from helpers.masked_replies import build_fedhft, make_masked_replies, start_fedhft
from helpers.replies import HEAD, SCALE, SHAPES, build_method, get_product, make_lora_replies, make_reply, start_lora

from fedpeft.federation.message import Message
from fedpeft.methods.common.fresh_update import measure_products, shrink_products


def test_products_are_measured_together_however_they_are_factored():
    draw = torch.Generator().manual_seed(0)
    pairs = [(torch.randn(5, 2, generator=draw), torch.randn(2, 7, generator=draw)) for _ in range(3)]
    dense = torch.cat([(b.double() @ a.double()).flatten() for b, a in pairs])
    norm, count = measure_products(iter(pairs))
    assert abs(norm - float(dense.norm())) < 1e-5 * norm and count == 3 * 10
    turned, _ = measure_products((b * 100, a / 100) for b, a in pairs)
    assert abs(turned - norm) < 1e-5 * norm


def test_the_bs_and_the_heads_change_are_shrunk_and_a_is_not():
    tensors = {"m.lora_A.weight": torch.ones(2, 3), "m.lora_B.weight": torch.ones(4, 2), "m.out.weight": torch.ones(2)}
    baseline = {"m.out.weight": torch.zeros(2), "m.merged_A": torch.ones(1)}
    shrunk = shrink_products(tensors, baseline, ["m.lora_B.weight"], 0.25, 0.5)
    assert [float(t.flatten()[0]) for t in shrunk.values()] == [1.0, 0.25, 0.5]


def test_flora_and_fedhft_go_as_far_as_their_products():
    flora, fedhft = build_method("flora"), build_fedhft()
    state, specs = start_lora(flora)
    reply = make_lora_replies()[0]
    dense = torch.cat([get_product(reply.tensors, module).flatten() / SCALE for module in SHAPES])
    assert abs(flora.measure_adapter(reply)[0] - float(dense.norm())) < 1e-4
    message = Message("c0", 1, flora.send(state, specs[0]))
    shrunk = make_reply("c0", flora.shrink_update(reply, flora.update_baseline(state, message, reply), 0.5, 1.0))
    assert abs(flora.measure_adapter(shrunk)[0] - float(dense.norm()) / 2) < 1e-4

    state, specs = start_fedhft(fedhft)
    replies, updates = make_masked_replies(state, specs)
    dense = torch.cat([update.flatten() / SCALE for update, _ in updates[1].values()])
    assert abs(fedhft.measure_adapter(replies[1])[0] - float(dense.norm())) < 1e-4
    half = make_reply("c1", fedhft.shrink_update(replies[1], {HEAD: torch.zeros(3, 24)}, 0.5, 0.5))
    assert abs(fedhft.measure_adapter(half)[0] - float(dense.norm()) / 2) < 1e-4
    assert torch.equal(half.tensors[HEAD], replies[1].tensors[HEAD] / 2)

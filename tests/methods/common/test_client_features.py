"""Features of clients: the head, or a sketch of the update."""

import torch
from helpers.replies import HEAD, SHAPES, TensorModel, lora_tensors, make_reply

from fedpeft.aggregation import sketch_matrices
from fedpeft.methods.common.client_features import flatten_head, sketch_update
from fedpeft.methods.common.masked_upload import make_masked_upload

ROWS = {"m.layer.0.q": torch.tensor([0, 2, 6]), "m.layer.1.up": torch.tensor([1, 8, 9, 23])}
SIZES = {
    module: {"d_out": d_out, "d_in": d_in, "rank": 3, "rows": len(ROWS[module])}
    for module, (d_out, d_in) in SHAPES.items()
}


def make_upload(client, trained):
    return make_reply(client, make_masked_upload(TensorModel(trained), ROWS, trained))


def test_the_head_is_flattened_in_order_of_name():
    tensors = lora_tensors(0) | {"m.classifier.bias": torch.tensor([7.0, 8, 9])}
    assert torch.equal(
        flatten_head(make_reply("c0", tensors)), torch.cat([torch.tensor([7.0, 8, 9]), tensors[HEAD].flatten()])
    )


def test_a_sketch_is_of_the_masked_products_module_by_module():
    trained = lora_tensors(0)
    feature = sketch_update(make_upload("c0", trained), {"c0": SIZES}, 2.0, seed=5)
    parts = feature.split(16)
    assert len(feature) == 32
    for module, part in zip(sorted(SHAPES), parts, strict=True):
        b = torch.zeros(SHAPES[module][0], 3, dtype=torch.float64)
        b[ROWS[module]] = 2.0 * trained[f"{module}.lora_B.weight"][ROWS[module]].double()
        left, right = sketch_matrices(*SHAPES[module], 4, 5)
        expected = left.double() @ b @ trained[f"{module}.lora_A.weight"].double() @ right.double()
        torch.testing.assert_close(part.double(), expected.flatten(), rtol=1e-5, atol=1e-5)


def test_a_sketch_does_not_depend_on_how_the_product_is_factored():
    trained, turned = lora_tensors(0), lora_tensors(0)
    turn = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(0))).Q
    for module in SHAPES:
        turned[f"{module}.lora_A.weight"] = turn @ trained[f"{module}.lora_A.weight"]
        turned[f"{module}.lora_B.weight"] = trained[f"{module}.lora_B.weight"] @ turn.T
    one, other = (sketch_update(make_upload("c0", t), {"c0": SIZES}, 2.0, 5) for t in (trained, turned))
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_modules_that_a_client_does_not_adapt_are_zeros_in_its_place():
    clients = {"c0": {"m.layer.1.up": SIZES["m.layer.1.up"]}, "c1": SIZES}
    feature = sketch_update(make_upload("c0", lora_tensors(0)), clients, 2.0, 5)
    assert not feature[:16].any() and torch.equal(
        feature[16:], sketch_update(make_upload("c1", lora_tensors(0)), clients, 2.0, 5)[16:]
    )

"""Masked LoRA on the wire: what travels comes back, and what is wrong is named."""

import pytest
import torch
from helpers.replies import HEAD, SHAPES, TensorModel, lora_tensors, make_reply

from fedpeft.aggregation import pack_rows
from fedpeft.federation.client import ClientSpec
from fedpeft.federation.method import FederationInfo, get_layout
from fedpeft.methods.common.masked_upload import (
    find_replies_with,
    find_wrong_bitmap,
    get_upload_names,
    make_masked_upload,
    make_upload_layout,
    merge_modules,
    read_client_modules,
    read_masked_update,
    read_reply_modules,
)
from fedpeft.resources import ClientResources

ROWS = {"m.layer.0.q": torch.tensor([0, 2, 6]), "m.layer.1.up": torch.tensor([1, 8, 9, 23])}


def upload(rank=3, rows=ROWS):
    return make_masked_upload(TensorModel(lora_tensors(0, rank)), rows, lora_tensors(0, rank))


def sizes_of(rank=3, rows=ROWS):
    return {
        module: {"d_out": d_out, "d_in": d_in, "rank": rank, "rows": len(rows[module])}
        for module, (d_out, d_in) in SHAPES.items()
    }


def test_sizes_follow_from_density_and_rank():
    specs = tuple(ClientSpec(f"c{i}", 1, ClientResources(density=d)) for i, d in enumerate((1.0, 0.3)))
    initial = {"c0": lora_tensors(0, 2), "c1": lora_tensors(0, 4)}
    modules = read_client_modules(FederationInfo(specs, initial, {spec.id: SHAPES for spec in specs}))
    assert modules["c0"]["m.layer.0.q"] == {"d_out": 7, "d_in": 24, "rank": 2, "rows": 7}
    assert modules["c1"]["m.layer.0.q"] == {"d_out": 7, "d_in": 24, "rank": 4, "rows": 3}
    assert modules["c1"]["m.layer.1.up"] == {"d_out": 24, "d_in": 9, "rank": 4, "rows": 8}


def test_the_chosen_rows_travel_and_come_back_with_the_scale():
    tensors = upload()
    assert get_layout(tensors) == make_upload_layout(sizes_of())
    reply = make_reply("c0", tensors)
    for module, size in sizes_of().items():
        update = read_masked_update(reply, module, size, 2.0)
        assert torch.equal(update.rows, ROWS[module])
        assert torch.equal(update.B, 2.0 * lora_tensors(0)[f"{module}.lora_B.weight"][ROWS[module]])
        assert torch.equal(update.A, lora_tensors(0)[f"{module}.lora_A.weight"])


def test_a_module_that_trained_masked_rows_sends_all_that_its_b_holds():
    trained = lora_tensors(0)
    name = "m.layer.0.q.lora_B.weight"
    trained[name] = trained[name][ROWS["m.layer.0.q"]]
    tensors = make_masked_upload(TensorModel(trained, {"m.layer.0.q": ROWS["m.layer.0.q"]}), ROWS, trained)
    assert all(torch.equal(tensors[name], tensor) for name, tensor in upload().items())


def test_the_layout_of_bitmaps_is_a_byte_for_eight_rows():
    layout = make_upload_layout(sizes_of())
    a, b, bitmap = get_upload_names("m.layer.1.up")
    assert layout[a] == (torch.float32, (3, 9)) and layout[b] == (torch.float32, (4, 3))
    assert layout[bitmap] == (torch.uint8, (3,)) and layout[get_upload_names("m.layer.0.q")[2]][1] == (1,)


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ([1, 8, 9], "m.layer.1.up: a bitmap of 3 rows came with 4 rows"),
        ([1, 2, 3, 8, 9], "m.layer.1.up: a bitmap of 5 rows came with 4 rows"),
        ([1, 2, 3, 4], None),
    ],
)
def test_a_bitmap_of_another_number_of_rows_is_named(rows, reason):
    reply = make_reply("c0", upload())
    reply.tensors["m.layer.1.up.lora_row_bitmap"] = pack_rows(torch.tensor(rows), 24)
    assert find_wrong_bitmap(reply, sizes_of()) == reason


def test_a_bitmap_with_rows_past_the_last_is_named():
    reply = make_reply("c0", upload())
    reply.tensors["m.layer.0.q.lora_row_bitmap"] = torch.tensor([0b10000011], dtype=torch.uint8)
    assert find_wrong_bitmap(reply, sizes_of()).startswith("m.layer.0.q: A bitmap of 7 rows has none past the last")


def test_modules_of_unlike_clients():
    lower, upper = ({name: t for name, t in upload().items() if part not in name} for part in (".up.", ".q."))
    replies = [make_reply("c0", lower), make_reply("c1", upper), make_reply("c2", upload())]
    assert find_replies_with(replies, "m.layer.0.q") == [0, 2]
    assert find_replies_with(replies, "m.layer.1.up") == [1, 2]
    known = {"c0": {"m.layer.0.q": sizes_of()["m.layer.0.q"]}, "c1": {"m.layer.1.up": sizes_of()["m.layer.1.up"]}}
    assert merge_modules(known) == sizes_of()
    rows = {"m.layer.0.q": torch.tensor([4]), "m.layer.1.up": torch.tensor([1, 2])}
    joining = make_reply("joining", upload(2, rows) | {HEAD: lora_tensors(0)[HEAD]})
    assert read_reply_modules(joining, known) == sizes_of(2, rows)
    del joining.tensors["m.layer.0.q.lora_A.weight"]
    assert read_reply_modules(joining, known).keys() == {"m.layer.1.up"}

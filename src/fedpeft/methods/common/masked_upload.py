"""Masked LoRA on the wire: how the chosen rows of B are named and checked, and what the server reads back [ours].

Per module travel A (r, d_in), the chosen rows of B (m, r), and a bitmap of which rows those are (ceil(d_out / 8),).
Where everyone knows A (see `shared_a`), it does not travel.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from fedpeft.adapters import AdaptedModel, find_lora_pairs
from fedpeft.aggregation import MaskedUpdate, pack_rows, top_rows, unpack_rows
from fedpeft.federation.message import Reply, Tensors
from fedpeft.federation.method import FederationInfo, Layout

ModuleSizes = dict[str, dict[str, int]]  # by module: d_out, d_in, rank, and rows: how many of B travel


def read_client_modules(info: FederationInfo) -> dict[str, ModuleSizes]:
    """The size of every module that a client adapts, and how many rows its density leaves, by client."""
    return {
        spec.id: {
            module: {
                "d_out": d_out,
                "d_in": d_in,
                "rank": info.initial[spec.id][f"{module}.lora_A.weight"].shape[0],
                "rows": len(top_rows(torch.zeros(d_out), spec.resources.density)),
            }
            for module, (d_out, d_in) in info.dimensions[spec.id].items()
        }
        for spec in info.clients
    }


def read_reply_modules(reply: Reply, known: Mapping[str, ModuleSizes], with_a: bool = True) -> ModuleSizes:
    """The sizes of the modules in a reply: the layers' from the known clients, rank and rows from the reply."""
    sizes: ModuleSizes = {}
    for module, size in merge_modules(known).items():
        a, b, _ = get_upload_names(module)
        if (a if with_a else b) in reply.tensors:
            rows, rank = reply.tensors[b].shape
            sizes[module] = size | {"rank": rank, "rows": rows}
    return sizes


def merge_modules(clients: Mapping[str, ModuleSizes]) -> ModuleSizes:
    """Every module that some client adapts, with the sizes that the last such client has of it."""
    return {module: size for sizes in clients.values() for module, size in sizes.items()}


def get_upload_names(module: str) -> tuple[str, str, str]:
    """The names of A, of the rows of B, and of the bitmap."""
    return f"{module}.lora_A.weight", f"{module}.lora_masked_B", f"{module}.lora_row_bitmap"


def make_upload_layout(modules: ModuleSizes, with_a: bool = True) -> Layout:
    """The layout of a masked LoRA's tensors."""
    result: Layout = {}
    for module, size in modules.items():
        shapes = (size["rank"], size["d_in"]), (size["rows"], size["rank"]), (-(-size["d_out"] // 8),)
        dtypes = torch.float32, torch.float32, torch.uint8
        layout = {n: (d, torch.Size(s)) for n, d, s in zip(get_upload_names(module), dtypes, shapes, strict=True)}
        result |= layout if with_a else _drop_first(layout)
    return result


def make_masked_upload(
    model: AdaptedModel, rows: Mapping[str, Tensor], trained: Tensors, with_a: bool = True
) -> Tensors:
    """The masked LoRA as it travels; `rows` (m,) by module are rows of the whole B, only such as were trained."""
    masked, dimensions = model.get_rows(), model.get_dimensions()
    tensors: Tensors = {}
    for module, a, b in find_lora_pairs(trained):
        chosen = rows[module]
        part = trained[b] if module in masked else trained[b][chosen]  # a masked module's B holds its rows only
        values = trained[a], part, pack_rows(chosen, dimensions[module][0])
        named = dict(zip(get_upload_names(module), values, strict=True))
        tensors |= named if with_a else _drop_first(named)
    return tensors


def read_masked_update(reply: Reply, module: str, size: Mapping[str, int], scale: float) -> MaskedUpdate:
    """One module of a reply, with the scale in B."""
    a, b, bitmap = (reply.tensors[name] for name in get_upload_names(module))
    return MaskedUpdate(unpack_rows(bitmap, size["d_out"]), scale * b, a)


def _drop_first(named: dict[str, Any]) -> dict[str, Any]:
    """All but A, the first of a module's names."""
    return dict(list(named.items())[1:])


def find_uploaded_modules(reply: Reply) -> list[str]:
    """The modules of a reply, in its order."""
    _, end, _ = get_upload_names("")  # the end of a name
    return [name.removesuffix(end) for name in reply.tensors if name.endswith(end)]


def find_replies_with(replies: Sequence[Reply], module: str) -> list[int]:
    """The indices of the replies whose clients adapt a module."""
    return [i for i, reply in enumerate(replies) if get_upload_names(module)[1] in reply.tensors]


def find_wrong_bitmap(reply: Reply, modules: ModuleSizes) -> str | None:
    """A message on the first wrong bitmap of a reply whose layout is right, or None."""
    for module, size in modules.items():
        bitmap = reply.tensors[get_upload_names(module)[2]]
        try:
            count = len(unpack_rows(bitmap, size["d_out"]))
        except ValueError as error:
            return f"{module}: {error}"
        if count != size["rows"]:
            return f"{module}: a bitmap of {count} rows came with {size['rows']} rows"
    return None

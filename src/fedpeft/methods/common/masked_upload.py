"""Masked LoRA on the wire: which rows of B a client sends, how they are named, and what the server reads back [ours].

Per module travel A (r, d_in), the chosen rows of B (m, r), and a bitmap of which rows those are (ceil(d_out / 8),).
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from fedpeft.adapters import AdaptedModel, find_lora_pairs, get_frozen_delta_names
from fedpeft.aggregation import MaskedUpdate, pack_rows, row_energy, top_rows, unpack_rows
from fedpeft.federation.client import Client
from fedpeft.federation.message import Message, Reply, Tensors
from fedpeft.federation.method import FederationInfo, Layout

Modules = dict[str, dict[str, int]]  # by module: d_out, d_in, rank, and rows: how many of B travel
Importance = dict[str, Tensor]  # by module, (d_out,)


def read_client_modules(info: FederationInfo) -> dict[str, Modules]:
    """By client: the size of every module it adapts, and how many rows its density leaves."""
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


def upload_names(module: str) -> tuple[str, str, str]:
    """A, the rows of B, the bitmap."""
    return f"{module}.lora_A.weight", f"{module}.lora_masked_B", f"{module}.lora_row_bitmap"


def read_sizes(reply: Reply, module: str) -> dict[str, int]:
    """The rank and the rows of one module, as a reply has them."""
    a, b, _ = upload_names(module)
    return {"rank": reply.tensors[a].shape[0], "rows": reply.tensors[b].shape[0]}


def make_upload_layout(modules: Modules) -> Layout:
    """What the tensors of a masked LoRA must look like."""
    result: Layout = {}
    for module, size in modules.items():
        shapes = (size["rank"], size["d_in"]), (size["rows"], size["rank"]), (-(-size["d_out"] // 8),)
        kinds = torch.float32, torch.float32, torch.uint8
        result |= {n: (k, torch.Size(s)) for n, k, s in zip(upload_names(module), kinds, shapes, strict=True)}
    return result


def make_masked_upload(model: AdaptedModel, rows: Mapping[str, Tensor], trained: Tensors) -> Tensors:
    """The masked LoRA as it travels; `rows` (m,) by module are rows of the whole B, those trained at most."""
    held, sizes = model.get_rows(), model.get_dimensions()
    tensors: Tensors = {}
    for module, a, b in find_lora_pairs(trained):
        chosen = rows[module]
        part = trained[b] if module in held else trained[b][chosen]  # a B of masked rows holds no others
        values = trained[a], part, pack_rows(chosen, sizes[module][0])
        tensors |= dict(zip(upload_names(module), values, strict=True))
    return tensors


def read_masked_update(reply: Reply, module: str, size: Mapping[str, int], scale: float) -> MaskedUpdate:
    """One module of a reply, scale included in B."""
    a, b, bitmap = (reply.tensors[name] for name in upload_names(module))
    return MaskedUpdate(unpack_rows(bitmap, size["d_out"]), scale * b, a)


def find_wrong_bitmap(reply: Reply, modules: Modules) -> str | None:
    """What is wrong with the bitmaps of a reply whose layout is right."""
    for module, size in modules.items():
        bitmap = reply.tensors[upload_names(module)[2]]
        try:
            count = len(unpack_rows(bitmap, size["d_out"]))
        except ValueError as error:
            return f"{module}: {error}"
        if count != size["rows"]:
            return f"{module}: a bitmap of {count} rows came with {size['rows']} rows"
    return None


class RowGradients:
    """The mean squared gradient of every row of B over the steps of a local training: empirical Fisher information."""

    def __init__(self, model: AdaptedModel) -> None:
        self._b = {module: model.parameters([b])[0] for module, _, b in find_lora_pairs(model.names)}
        self._sums = {module: torch.zeros(len(b), device=b.device) for module, b in self._b.items()}

    def observe(self) -> None:
        """Adds one step's gradients, which must be complete."""
        for module, b in self._b.items():
            if b.grad is not None:
                self._sums[module] += b.grad.float().square().sum(1)  # (rows,)

    def importance(self) -> Importance:
        """(rows,) by module; only its order matters, so it is not divided by the number of steps."""
        return {module: total.cpu() for module, total in self._sums.items()}


def row_energies(trained: Tensors) -> Importance:
    """The energy of every row of B A, (rows,) by module."""
    return {module: row_energy((trained[b], trained[a])).cpu() for module, a, b in find_lora_pairs(trained)}


def rows_after(importance: Importance, density: float) -> dict[str, Tensor]:
    """The rows that matter most, (m,) by module."""
    return {module: top_rows(values, density) for module, values in importance.items()}


def rows_trained(model: AdaptedModel) -> dict[str, Tensor]:
    """The rows that this slot trains, (m,) by module: all of them where nothing is masked."""
    return {module: torch.arange(d_out) for module, (d_out, _) in model.get_dimensions().items()} | model.get_rows()


def rows_before(model: AdaptedModel, message: Message, client: Client) -> dict[str, Tensor]:
    """Rows to train: half by the energy of the mixture received, the others drawn anew in every round."""
    draw = client.generator("rows", message.round)
    chosen = {}
    for module in model.get_rows():  # none where the density is 1
        d_out, _ = model.get_dimensions()[module]
        count = len(top_rows(torch.zeros(d_out), client.spec.resources.density))
        name_a, name_b = get_frozen_delta_names(module)
        rank = torch.rand(d_out, generator=draw)  # in [0, 1): what is not chosen by energy is drawn
        if name_a in message.tensors:
            energy = row_energy((message.tensors[name_b], message.tensors[name_a]))
            rank[top_rows(energy, (count // 2) / d_out) if count > 1 else []] = 2.0
        chosen[module] = top_rows(rank, client.spec.resources.density)
    return chosen

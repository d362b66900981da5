"""What clients are clustered by: one feature vector for each reply."""

from collections.abc import Mapping

import torch
from torch import Tensor

from fedpeft.adapters import take_head
from fedpeft.aggregation import sketch, sketch_matrices
from fedpeft.federation.message import Reply
from fedpeft.methods.common.masked_upload import ModuleSizes, merge_modules, read_masked_update

SKETCH_SIZE = 4  # [choice] side of the sketch of one module's update


def flatten_head(reply: Reply) -> Tensor:
    """The head's tensors in one vector, in order of name."""
    return torch.cat([tensor.flatten() for _, tensor in sorted(take_head(reply.tensors).items())])


def sketch_update(reply: Reply, clients: Mapping[str, ModuleSizes], scale: float, seed: int) -> Tensor:
    """A sketch of every module that some client adapts, in one vector; zeros where this one does not adapt it.

    Sketches depend on the product B A only: raw A and B of clients with fresh random starts cannot be compared.
    """
    own, sketches = clients[reply.client], []
    for module in sorted(merge_modules(clients)):
        if module in own:
            rows, b, a = read_masked_update(reply, module, own[module], scale)
            left, right = sketch_matrices(own[module]["d_out"], own[module]["d_in"], SKETCH_SIZE, seed)
            sketches.append(sketch((b, a), left[:, rows], right))
        else:
            sketches.append(torch.zeros(SKETCH_SIZE * SKETCH_SIZE))
    return torch.cat(sketches)

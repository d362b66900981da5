"""The screen: what is malformed never reaches an aggregation rule, and the reason is on record."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor

from fedpeft.federation.message import Reply, Tensors
from fedpeft.federation.method import Layout


def screen(
    replies: Sequence[Reply],
    examples: Mapping[str, int],
    expected: Callable[[Reply], Layout],
    rejection_reason: Callable[[Reply], str | None],
    reference: Callable[[Reply], Tensors],
    norm_limit: float | None,
) -> tuple[list[Reply], dict[str, str]]:
    """Splits replies into usable ones and `{client: reason}`.

    Checked: keys, shapes, dtypes, finite values, the number of examples that the server knows, the method's own
    `objection`, and (from three usable replies on, where `norm_limit` is given) an update norm, the distance to the
    method's `reference`, at most that many times the median of the other clients' norms.
    """
    norms: dict[str, float] = {}
    quarantined = {}
    for reply in replies:
        reason = _malformed(reply, expected(reply), examples[reply.client])
        if reason is None:
            norms[reply.client] = update_norm(reply.tensors, reference(reply))
            reason = _not_finite(reply, norms[reply.client]) or rejection_reason(reply)
        if reason:
            quarantined[reply.client] = reason
            norms.pop(reply.client, None)
    usable = [reply for reply in replies if reply.client in norms]
    if norm_limit is None or len(usable) < 3:
        return usable, quarantined
    for (client, norm), others in zip(norms.items(), medians_of_others(list(norms.values())), strict=True):
        if others > 0 and norm > norm_limit * others:
            quarantined[client] = f"update norm {norm:.3g} is {norm / others:.3g}x the others' median {others:.3g}"
    return [reply for reply in usable if reply.client not in quarantined], quarantined


def _malformed(reply: Reply, expected: Layout, known: int) -> str | None:
    if expected.keys() != reply.tensors.keys():
        missing, surplus = expected.keys() - reply.tensors.keys(), reply.tensors.keys() - expected.keys()
        return f"keys differ: missing {sorted(missing)[:3]}, unexpected {sorted(surplus)[:3]}"
    for name, tensor in reply.tensors.items():
        dtype, shape = expected[name]
        if tensor.shape != shape or tensor.dtype != dtype:
            return f"{name}: expected {tuple(shape)} {dtype}, received {tuple(tensor.shape)} {tensor.dtype}"
    examples = reply.scalars.get("examples")
    if examples != known:
        return f"number of examples is {known}, received {examples!r}"
    return None


def _not_finite(reply: Reply, norm: float) -> str | None:
    if math.isfinite(norm):  # then every value is: one pass over the tensors serves both checks
        return None
    return next(
        (f"{name}: not finite" for name, t in reply.tensors.items() if not is_finite([t])), "its norm is not finite"
    )


def update_norm(after: Tensors, before: Tensors) -> float:
    """Euclidean norm of the change; what was not sent (a fresh LoRA, say) counts from zero."""
    changes = [
        tensor - before[name] if name in before else tensor
        for name, tensor in after.items()
        if tensor.is_floating_point()
    ]
    return _norm(changes)


def is_finite(tensors: Iterable[Tensor]) -> bool:
    """Whether every value is finite. A few calls for all tensors: this runs for every client and round."""
    return math.isfinite(_norm([tensor for tensor in tensors if tensor.is_floating_point()]))


def medians_of_others(values: Sequence[float]) -> list[float]:
    """For each of at least two values the median of all the others."""
    order = sorted(range(len(values)), key=values.__getitem__)
    ordered = [values[i] for i in order]
    others = [0.0] * len(values)
    low, high = (len(values) - 2) // 2, (len(values) - 1) // 2  # of the others' middle ones
    for place, i in enumerate(order):
        others[i] = (ordered[low + (low >= place)] + ordered[high + (high >= place)]) / 2
    return others


def _norm(tensors: list[Tensor]) -> float:
    if not tensors:
        return 0.0
    norm = math.hypot(*torch.stack(torch._foreach_norm(tensors)).tolist())
    if math.isfinite(norm):
        return norm
    # The square of a large finite float32 is not one; twice as slow, so only here.
    return math.hypot(*torch.stack(torch._foreach_norm(tensors, 2, torch.float64)).tolist())

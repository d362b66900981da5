"""The screen: what is malformed never reaches an aggregation rule, and the reason is on record."""

from collections.abc import Callable, Mapping, Sequence
from statistics import median

import torch

from fedpeft.federation.message import Reply, Tensors
from fedpeft.federation.method import Layout


def screen(
    replies: Sequence[Reply],
    examples: Mapping[str, int],
    expected: Mapping[str, Layout],
    objection: Callable[[Reply], str | None],
    reference: Callable[[Reply], Tensors],
    norm_limit: float | None,
) -> tuple[list[Reply], dict[str, str]]:
    """Splits replies into usable ones and `{client: reason}`.

    Checked: keys, shapes, dtypes, finite values, the number of examples that the server knows, the method's own
    `objection`, and (from three usable replies on, where `norm_limit` is given) an update norm, the distance to the
    method's `reference`, at most that many times the median of the other clients' norms.
    """
    usable, quarantined = [], {}
    for reply in replies:
        reason = _malformed(reply, expected[reply.client], examples[reply.client]) or objection(reply)
        if reason:
            quarantined[reply.client] = reason
        else:
            usable.append(reply)
    if norm_limit is None or len(usable) < 3:
        return usable, quarantined
    norms = {reply.client: update_norm(reply.tensors, reference(reply)) for reply in usable}
    for client, norm in norms.items():
        others = median(value for name, value in norms.items() if name != client)
        if others > 0 and norm > norm_limit * others:
            quarantined[client] = f"update norm {norm:.3g} is {norm / others:.0f}x the others' median {others:.3g}"
    return [reply for reply in usable if reply.client not in quarantined], quarantined


def _malformed(reply: Reply, expected: Layout, known: int) -> str | None:
    missing, surplus = expected.keys() - reply.tensors.keys(), reply.tensors.keys() - expected.keys()
    if missing or surplus:
        return f"keys differ: missing {sorted(missing)[:3]}, unexpected {sorted(surplus)[:3]}"
    for name, tensor in reply.tensors.items():
        dtype, shape = expected[name]
        if tensor.shape != shape or tensor.dtype != dtype:
            return f"{name}: expected {tuple(shape)} {dtype}, received {tuple(tensor.shape)} {tensor.dtype}"
        if not torch.isfinite(tensor).all():
            return f"{name}: not finite"
    examples = reply.scalars.get("examples")
    if examples != known:
        return f"number of examples is {known}, received {examples!r}"
    return None


def update_norm(after: Tensors, before: Tensors) -> float:
    """Euclidean norm of the change in float64; what was not sent (a fresh LoRA, say) counts from zero."""
    squares = [
        (tensor.double() - before[name].double() if name in before else tensor.double()).square().sum()
        for name, tensor in after.items()
        if tensor.is_floating_point()
    ]
    return float(torch.stack(squares).sum().sqrt()) if squares else 0.0

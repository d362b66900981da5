"""The screen: what is malformed reaches no aggregation rule, and no update outweighs the others by its size."""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from fedpeft.federation.influence import (
    CLIP_ABOVE,
    LARGEST_CHANGE,
    PARTS,
    Change,
    compare_changes,
    is_finite,
    measure_change,
)
from fedpeft.federation.message import Message, Reply
from fedpeft.federation.method import Layout, Method, get_layout
from fedpeft.federation.reasons import describe_error

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Screened:
    """A round's replies after the screen, in the order in which they came."""

    usable: list[Reply]
    quarantined: dict[str, str] = field(default_factory=dict)  # the reason, by client
    clipped: dict[str, float] = field(default_factory=dict)  # what is left of the update of a usable reply, by client


def screen(
    method: Method[Any],
    state: Any,
    messages: Mapping[str, Message],
    replies: Sequence[Reply],
    examples: Mapping[str, int],
    norm_limit: float | None,
) -> Screened:
    """Splits the replies to `messages` (by client) into usable ones and those left out, with the reason.

    Checked: names, shapes, dtypes, finite values, the number of examples that the server knows, the scalars that the
    method declares and its own `rejection_reason`. Where `norm_limit` is given, from three usable replies on: the
    change of the adapter and that of the head go at most that many times as far as the others' median (see
    `influence.compare_changes`), and are cut down to `CLIP_ABOVE` times it. Whatever a method raises over a reply costs
    that reply.
    """
    changes: dict[str, Change] = {}
    quarantined = {}
    for reply in replies:
        try:
            examined = _examine(method, state, messages[reply.client], reply, examples[reply.client])
        except Exception as error:  # the boundary between one reply and the run, whatever the method does with it
            log.exception("client %s, round %d: its reply cannot be read", reply.client, reply.round)
            examined = f"its reply cannot be read: {describe_error(error)}"
        if isinstance(examined, str):
            quarantined[reply.client] = examined
        else:
            changes[reply.client] = examined
    usable = [reply for reply in replies if reply.client in changes]
    if norm_limit is None or len(usable) < 3:
        return Screened(usable, quarantined)
    screened = Screened([], quarantined)
    ratios, medians = compare_changes(list(changes.values()), [examples[client] for client in changes])
    for reply, own, others in zip(usable, zip(*ratios, strict=True), zip(*medians, strict=True), strict=True):
        if max(own) > norm_limit:
            part = own.index(max(own))
            norm = changes[reply.client].norms[part]
            quarantined[reply.client] = (
                f"its {PARTS[part]}'s update has norm {norm:.3g}, {max(own):.3g}x what the others' median "
                f"{others[part]:.3g} allows"
            )
        elif max(own) > CLIP_ABOVE:
            factors = [min(1.0, CLIP_ABOVE / ratio) if ratio else 1.0 for ratio in own]
            baseline = method.update_baseline(state, messages[reply.client], reply)
            screened.clipped[reply.client] = min(factors)
            screened.usable.append(replace(reply, tensors=method.shrink_update(reply, baseline, *factors)))
        else:
            screened.usable.append(reply)
    return screened


def _examine(method: Method[Any], state: Any, message: Message, reply: Reply, known: int) -> Change | str:
    """How far a reply goes, or the reason to leave it out."""
    reason = _find_malformed(reply, method.reply_layout(state, message), known) or _find_undeclared(method, reply)
    if reason is not None:
        return reason
    reason = method.rejection_reason(state, reply)
    if reason is not None:
        return reason
    change = measure_change(reply.tensors, method.update_baseline(state, message, reply))
    distance = math.hypot(*change.norms)
    if not math.isfinite(distance):  # then some value is not: one pass over the tensors serves both checks
        wrong = (name for name, tensor in reply.tensors.items() if not is_finite([tensor]))
        return f"{next(wrong, 'its update')}: not finite"
    if distance > LARGEST_CHANGE:
        return f"its update has norm {distance:.3g}, above {LARGEST_CHANGE:.0e}, where no training goes"
    adapter = method.measure_adapter(reply)
    if adapter is None:
        return change
    norm, size = adapter
    return Change((norm, change.norms[1]), (size, change.sizes[1]))


def _find_malformed(reply: Reply, expected: Layout, known: int) -> str | None:
    if get_layout(reply.tensors) != expected:
        missing, surplus = expected.keys() - reply.tensors.keys(), reply.tensors.keys() - expected.keys()
        if missing or surplus:
            return f"keys differ: missing {sorted(missing)[:3]}, unexpected {sorted(surplus)[:3]}"
        for name, tensor in reply.tensors.items():
            dtype, shape = expected[name]
            if tensor.shape != shape or tensor.dtype != dtype:
                return f"{name}: expected {tuple(shape)} {dtype}, received {tuple(tensor.shape)} {tensor.dtype}"
    examples = reply.scalars.get("examples")
    if examples != known:
        return f"number of examples is {known}, received {examples!r}"
    return None


def _find_undeclared(method: Method[Any], reply: Reply) -> str | None:
    """The first scalar that the method does not declare, or not of this type."""
    for name, value in reply.scalars.items():
        expected = method.reply_scalars.get(name)
        if expected is None:
            return f"scalar {name!r} is not among those of the method: {', '.join(method.reply_scalars)}"
        if type(value) is not expected and not (expected is float and type(value) is int):
            return f"scalar {name!r}: expected {expected.__name__}, received {value!r}"
    return None

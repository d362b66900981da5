"""Aggregation that may fail, and which client's reply it fails on."""

import logging
from collections.abc import Sequence
from typing import Any

from fedpeft.federation.influence import is_finite
from fedpeft.federation.message import Reply
from fedpeft.federation.method import Method
from fedpeft.federation.reasons import describe_error
from fedpeft.federation.state_tree import iterate_tensors

log = logging.getLogger(__name__)


def try_aggregate(method: Method[Any], state: Any, replies: Sequence[Reply]) -> Any:
    """The state after these replies, or the exception with which it could not be made."""
    try:
        after = method.aggregate(state, replies)
    except Exception as error:  # the boundary between a method and the run: `find_blame` finds out whose fault it is
        log.exception("round %d: aggregation failed", replies[0].round)
        return error
    if not is_finite(iterate_tensors(after)):
        return ValueError("the aggregate is not finite")
    return after


def find_blame(method: Method[Any], state: Any, replies: Sequence[Reply], error: Exception) -> dict[str, str]:
    """The reasons to leave out those clients whose replies fail alone, or one without which the others succeed.

    Empty where it is no one reply's fault: the method's own, or several clients' together.
    """
    single_states = {reply.client: try_aggregate(method, state, [reply]) for reply in replies}
    failing = {client: after for client, after in single_states.items() if isinstance(after, Exception)}
    if 0 < len(failing) < len(replies):
        return {client: f"its reply cannot be aggregated: {describe_error(e)}" for client, e in failing.items()}
    for reply in replies if not failing and len(replies) > 2 else ():
        others = [other for other in replies if other is not reply]
        if not isinstance(try_aggregate(method, state, others), Exception):
            return {reply.client: f"the others' replies cannot be aggregated with it: {describe_error(error)}"}
    return {}

"""Where a step's time goes, by classes of operations, from torch's profiler."""

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from torch.profiler import ProfilerActivity, profile

PRODUCTS = ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm")
CLASSES = {  # by how an operation's name begins; the first that fits
    "attention": ("aten::_scaled_dot_product", "aten::scaled_dot_product"),
    "layer norm": ("aten::native_layer_norm", "aten::layer_norm"),
    "gelu": ("aten::gelu",),
    "optimiser, retraction": ("aten::linalg_qr", "aten::geqrf", "aten::orgqr", "aten::linalg_householder"),
    "other operations": ("aten::",),
}
BETWEEN = "python and dispatch"
TOP = 4


def shares(work: Callable[[], float], rank: int) -> dict[str, dict[str, float]]:
    """Parts of the wall time of `work`, which returns its seconds: by class, and the largest other operations by name.

    Seconds of an operation are its own, without those of operations that it calls. `python and dispatch` is the rest:
    Python, autograd's engine, the profiler itself. Products with a side of at most `rank` are the adapter's.
    """
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as profiled:
        wall = work()
    spent: Counter[str] = Counter()
    others: Counter[str] = Counter()
    for event in profiled.events():
        if event.name.startswith("aten::"):
            kind = _kind(event, rank)
            spent[kind] += event.self_cpu_time_total / 1e6
            if kind == "other operations":
                others[event.name.removeprefix("aten::")] += event.self_cpu_time_total / 1e6
    found = {kind: seconds / wall for kind, seconds in spent.most_common()}
    found[BETWEEN] = 1 - sum(found.values())
    return {"classes": found, "largest_others": {name: seconds / wall for name, seconds in others.most_common(TOP)}}


def _kind(event: Any, rank: int) -> str:
    if any(above.name.startswith("Optimizer.") for above in _above(event)):
        return "optimiser, retraction"
    if event.name in PRODUCTS:
        sides = [side for shape in event.input_shapes if len(shape) > 1 for side in shape[-2:]]
        return "adapter's and head's products" if min(sides) <= rank else "matrix products"
    return next(kind for kind, begins in CLASSES.items() if event.name.startswith(begins))


def _above(event: Any) -> Iterator[Any]:
    while event is not None:
        yield event
        event = event.cpu_parent

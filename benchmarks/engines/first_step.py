"""One `fedpeft` command that ends with its first training step, and tells where the time until there went.

python benchmarks/engines/first_step.py BEGAN ARGUMENTS... (BEGAN: seconds since 1970; then as `fedpeft` takes them)
"""

import sys
import time

ENTERED = time.time()

import json  # noqa: E402
import os  # noqa: E402
import threading  # noqa: E402
from collections.abc import Callable  # noqa: E402
from functools import wraps  # noqa: E402
from typing import Any  # noqa: E402

spent: dict[str, float] = {}


def timed(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(function)
    def inside(*args: Any, **kwargs: Any) -> Any:
        began = time.time()
        try:
            return function(*args, **kwargs)
        finally:
            spent[name] = time.time() - began

    return inside


class FirstStep:
    """In place of a task's losses: the second call of one thread ends the process."""

    def __init__(self, losses: Callable[..., Any], began: float) -> None:
        self.losses, self.began = losses, began
        self.first: dict[int, float] = {}
        self.cpu = 0.0
        self.ending = threading.Lock()

    def __call__(self, *args: Any) -> Any:
        now, thread = time.time(), threading.get_ident()
        if thread not in self.first:
            self.cpu = self.cpu or time.process_time()
            self.first[thread] = now
            return self.losses(*args)
        self.ending.acquire()  # never given back: one thread tells
        start = min(self.first.values())
        rest = start - self.began - sum(spent.values())
        found = spent | {"rest": rest, "to_first_step": start - self.began, "to_first_step_cpu": self.cpu}
        found["first_step"] = now - self.first[thread]
        print("\n" + json.dumps(found), flush=True)
        os._exit(0)


def main() -> None:
    began = float(sys.argv.pop(1))
    spent["interpreter"] = ENTERED - began
    from fedpeft.cli import main as run_command
    from fedpeft.cli.app import gc_paused

    with gc_paused():  # as the command imports them
        from fedpeft.runs import build, runner  # noqa: F401
        from fedpeft.tasks.kinds.classification import Classification

    spent["imports"] = time.time() - ENTERED
    build.load_task = timed("data", build.load_task)
    build.load_model = timed("model", build.load_model)
    build.assemble = timed("build", build.assemble)
    first = FirstStep(Classification.losses, began)
    setattr(Classification, "losses", lambda *args: first(*args))  # noqa: B010
    run_command()


if __name__ == "__main__":
    main()

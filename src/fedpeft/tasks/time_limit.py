"""A time limit for a program that somebody else wrote, such as a chat template."""

import ctypes
import threading
from collections.abc import Callable
from typing import TypeVar

Result = TypeVar("Result")


def call_within(seconds: float, function: Callable[[], Result]) -> Result:
    """What `function` returns or raises, from a thread of its own.

    Raises TimeoutError where it takes longer; its thread then ends at its next step in Python, as nothing else could
    end it without ending the process.
    """
    results: list[Result] = []
    errors: list[BaseException] = []

    def work() -> None:
        try:
            results.append(function())
        except BaseException as error:  # handed on to the caller's thread, if it still waits
            errors.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        # SystemExit, which no handler of Exception keeps.
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident or 0), ctypes.py_object(SystemExit))
        raise TimeoutError(f"it takes more than {seconds:g} s")
    if errors:
        raise errors[0]
    return results[0]

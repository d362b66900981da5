"""Puts the wall clock of a Python process, whose PYTHONPATH begins with this folder, FEDPEFT_TEST_CLOCK seconds off."""

import datetime
import os
import time

_SHIFT = float(os.environ.get("FEDPEFT_TEST_CLOCK", "0"))
_time, _time_ns = time.time, time.time_ns
time.time = lambda: _time() + _SHIFT
time.time_ns = lambda: _time_ns() + int(_SHIFT * 1e9)


class _Shifted(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return cls.fromtimestamp(time.time(), tz)

    @classmethod
    def utcnow(cls):
        return cls.now(datetime.UTC).replace(tzinfo=None)


datetime.datetime = _Shifted

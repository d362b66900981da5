"""What a run tells whoever watches it: one interface for the terminal's display, for trackers and users."""

from fedpeft.callbacks.base import RunCallback, RunInfo
from fedpeft.callbacks.group import CallbackGroup
from fedpeft.callbacks.trackers import make_trackers

__all__ = ["CallbackGroup", "RunCallback", "RunInfo", "make_trackers"]

"""What a run tells whoever watches it: one interface for the terminal's display, for trackers and users."""

from fedpeft.callbacks.base import RunCallback, RunInfo
from fedpeft.callbacks.group import CallbackGroup

__all__ = ["CallbackGroup", "RunCallback", "RunInfo"]

"""What a device can carry."""

from fedpeft.budgets.allotment import Allotment

__all__ = ["Allotment"]

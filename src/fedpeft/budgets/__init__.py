"""What a device can carry: a backbone's sizes, fitted models of memory and time, the largest choice that fits."""

from fedpeft.budgets.allotment import Allotment

__all__ = ["Allotment"]

"""Observers of runs that tests look at."""

from fedpeft.runs.observer import NullObserver


class Notes(NullObserver):
    """Keeps the notes."""

    def __init__(self):
        self.lines = []

    def noted(self, line):
        self.lines.append(line)

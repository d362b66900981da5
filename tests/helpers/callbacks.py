"""Callbacks that tests look at."""

from fedpeft.callbacks import RunCallback


class Notes(RunCallback):
    """Keeps the notes."""

    def __init__(self):
        self.lines = []

    def on_note(self, line):
        self.lines.append(line)

"""The one exception a user's mistake raises: it carries a single clear line and never shows a traceback."""


class UserError(Exception):
    """What is wrong, where, the value received, and what to do: one line, printed as is by the command line."""


class NoQuorum(UserError):
    """Too few clients replied usably in a round: most often a learning rate at which training diverges."""

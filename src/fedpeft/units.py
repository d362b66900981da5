"""Units that numbers are shown in."""

MIB = 2**20  # bytes

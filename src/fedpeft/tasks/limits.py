"""How much memory the rows of a source may take: a small file may decompress to more than any machine has."""

from fedpeft.errors import UserError

DEFAULT_MIB = 2048
CELL = 64  # bytes that one value of a row is counted with beside its text: about what Python needs for an object


class SizeLimit:
    """Counts what has been read of one source, all its files together."""

    def __init__(self, mib: int = DEFAULT_MIB) -> None:
        self.mib = mib
        self.remaining = mib * 2**20

    def add(self, size: int, where: object) -> None:
        """Counts `size` bytes. Raises UserError, which names `where`, when the limit is passed."""
        self.remaining -= size
        if self.remaining < 0:
            raise UserError(
                f"task.source: {where}: its rows would take more than {self.mib} MiB once decompressed; give fewer "
                "rows or, where the file is meant to be so large, raise task.max_mib"
            )

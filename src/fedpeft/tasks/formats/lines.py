"""The lines of a text file, also of a compressed one."""

import gzip
import re
from collections.abc import Iterator
from pathlib import Path

from fedpeft.errors import UserError
from fedpeft.tasks.limits import CELL, SizeLimit

_SEPARATORS = re.compile(rb"[,;\t\[{]")  # a line has at most one value more than these
_OTHER_FORMATS = {  # by how a file begins: what it is instead of text, and what to do
    b"\x1f\x8b": "compressed; let its name end in .gz",
    b"PK\x03\x04": "a zip archive or a spreadsheet; unpack it, or save the sheet as CSV",
    b"PAR1": "Parquet; let its name end in .parquet",
    b"\xff\xfe": "UTF-16; save it as UTF-8",
    b"\xfe\xff": "UTF-16; save it as UTF-8",
}


def read_lines(path: Path, limit: SizeLimit) -> Iterator[str]:
    """The lines, each with its "\\n".

    Never reads more than the limit has room for, be it one line without end. Raises UserError with the line's number
    for what is not UTF-8 and for null characters; OSError, EOFError and zlib.error where the file is damaged.
    """
    with gzip.open(path) if path.name.endswith(".gz") else path.open("rb") as file:
        number = 0
        while line := file.readline(limit.remaining + 1):
            number += 1
            limit.add(len(line) + CELL * (len(_SEPARATORS.findall(line)) + 1), path)
            if number == 1:
                _require_text(line, path)
                line = line.removeprefix(b"\xef\xbb\xbf")  # the byte order mark that spreadsheets write
            yield _decode(line, f"{path}:{number}")


def _require_text(first_line: bytes, path: Path) -> None:
    for start, format_and_remedy in _OTHER_FORMATS.items():
        if first_line.startswith(start):
            raise UserError(f"task.source: {path} is {format_and_remedy}")


def _decode(line: bytes, where: str) -> str:
    if b"\0" in line:
        raise UserError(f"task.source: {where}: holds a null character: no text, or not UTF-8; save it as UTF-8")
    try:
        return line.decode()
    except UnicodeDecodeError as error:
        raise UserError(f"task.source: {where}: not UTF-8 (byte {line[error.start]:#x}); save it as UTF-8") from error

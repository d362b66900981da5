"""Formats of a file of rows, one file each: what reads it, with the place of every row and within a limit of size."""

from typing import Any

Row = dict[str, Any]  # a row's columns by name, and "@where": the file and line that it came from

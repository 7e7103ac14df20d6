"""Stores Arrow tables consecutively in one file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa


def append(path: Path, table: pa.Table) -> int:
    """Appends a table to a file and returns the byte offset at which it starts."""
    with path.open("ab") as file:
        start = file.tell()
        with pa.ipc.new_stream(file, table.schema) as writer:
            writer.write_table(table)
    return start


def read_at(path: Path, start: int) -> pa.Table:
    """Reads the table that starts at a byte offset."""
    with pa.OSFile(str(path)) as file:
        file.seek(start)
        return pa.ipc.open_stream(file).read_all()


def read_each(path: Path) -> Iterator[pa.Table]:
    """Reads the tables of a file, one at a time."""
    size = path.stat().st_size
    with pa.OSFile(str(path)) as file:
        while file.tell() < size:
            yield pa.ipc.open_stream(file).read_all()

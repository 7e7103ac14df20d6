"""Computes dlt's row ids from primary keys and list positions, a column at a time.

dlt hashes what identifies a row and encodes the digest in base64: the primary key's values as JSON, or for a list item
its parent's id, its table and its index. Only the hash is computed row by row, as no library hashes a whole column.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from hashlib import shake_128
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from dlt.common.normalizers.json.helpers import get_row_hash
from dlt.common.normalizers.utils import DLT_ID_LENGTH_BYTES, generate_dlt_ids

# Characters that JSON escapes.
_TO_ESCAPE = r'["\\\x00-\x1f\x7f]'


def random_ids(rows: int) -> pa.Array:
    """Makes random ids, unique across loads."""
    return pa.array(generate_dlt_ids(rows), pa.string())


def key_ids(table: pa.Table, key: Sequence[str]) -> pa.Array:
    """Makes one id per row from the primary key's values as they land, so that a key keeps its id from load to load."""
    parts: list[Any] = []
    for name in sorted(key):
        text = _as_json(table[name].combine_chunks())
        if text is None:
            rows = table.select(list(key)).to_pylist()
            return pa.array([get_row_hash(row, list(key)) for row in rows], pa.string())
        parts += ["," if parts else "{", f'"{name}":', text]
    return _digests(pc.binary_join_element_wise(*parts, "}", ""))


def item_ids(parents: pa.Array, table: str, positions: pa.Array) -> pa.Array:
    """Makes one id per list item.

    Args:
        parents: For each item, the id of its parent row.
        table: Name of the items' table.
        positions: For each item, its index in its list.
    """
    return _digests(pc.binary_join_element_wise(parents, f"_{table}_", pc.cast(positions, pa.string()), ""))


def _as_json(array: pa.Array) -> pa.Array | None:
    """Writes integers and plain text as JSON; None if a value needs more than quotes."""
    if pa.types.is_int64(array.type):
        return pc.cast(array, pa.string())
    if pa.types.is_string(array.type) and not pc.any(pc.match_substring_regex(array, _TO_ESCAPE)).as_py():
        return pc.binary_join_element_wise('"', array, '"', "")
    return None


def _digests(texts: pa.Array) -> pa.Array:
    """Computes dlt's `digest128` of each text."""
    count, size = len(texts), DLT_ID_LENGTH_BYTES
    digests = b"".join([shake_128(text).digest(size) for text in pc.cast(texts, pa.binary()).to_pylist()])
    # base64 turns three bytes into four characters: padded digests are encoded together, then the padding is cut off.
    padded = np.zeros((count, -(-size // 3) * 3), np.uint8)
    padded[:, :size] = np.frombuffer(digests, np.uint8).reshape(count, size)
    length = -(-size * 4 // 3)
    encoded = np.frombuffer(base64.b64encode(padded.tobytes()), np.uint8)
    characters = encoded.reshape(count, padded.shape[1] * 4 // 3)[:, :length]
    offsets = np.arange(count + 1, dtype=np.int32) * np.int32(length)
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(np.ascontiguousarray(characters))]
    return pa.Array.from_buffers(pa.string(), count, buffers)

"""Cuts a body into slices for numpy to scan."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

Bytes = np.ndarray[Any, np.dtype[np.uint8]]

# Intermediate results of this size stay in the processor's cache and in memory that the process already has. For a whole body
# the kernel would map new pages for each of them, which takes several times as long as the computation.
_SIZE = 2**16


def slices(body: Bytes, overlap: int = 0) -> Iterator[tuple[int, Bytes]]:
    """Yields the start and the bytes of each slice of a body; all but the last have a length that is a multiple of eight.

    Args:
        body: The bytes to cut.
        overlap: Bytes of the next slice to append to each.
    """
    return ((start, body[start : start + _SIZE + overlap]) for start in range(0, len(body), _SIZE))

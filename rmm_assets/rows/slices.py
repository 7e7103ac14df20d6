"""Cuts a body into slices for numpy to look through."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

Bytes = np.ndarray[Any, np.dtype[np.uint8]]

# What numpy makes of a slice stays in the processor's cache and in memory that the process has already: for whole bodies, the
# kernel would hand out new pages for each intermediate result, which takes several times as long as the result itself.
_SIZE = 2**16


def slices(body: Bytes, overlap: int = 0) -> Iterator[tuple[int, Bytes]]:
    """Yields slices of a body, whose length is a multiple of eight but for the last one, and where they start.

    Args:
        overlap: How many bytes of the next slice are added to each.
    """
    return ((start, body[start : start + _SIZE + overlap]) for start in range(0, len(body), _SIZE))

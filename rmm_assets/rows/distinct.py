"""Converts a column one distinct value at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rmm_assets.rows.json_text import loads

Mask = np.ndarray[Any, np.dtype[np.bool_]]


def by_distinct(
    array: pa.Array, convert: Callable[[Any], Any], arrow: pa.DataType, *, unmix: bool = False
) -> tuple[pa.Array, Mask | None]:
    """Converts each distinct value once; returns the array and a mask of the values that do not fit, None if all do.

    A value does not fit if `convert` returns None or something that Arrow cannot store.
    """
    encoded = array.dictionary_encode()
    converted: list[Any] = []
    for value in encoded.dictionary.to_pylist():
        fitted = convert(loads(value) if unmix else value)
        if fitted is not None:
            try:
                pa.scalar(fitted, arrow)
            except (pa.ArrowException, OverflowError, ValueError, TypeError):
                fitted = None
        converted.append(fitted)
    values = pa.array(converted, arrow).take(encoded.indices)
    if values.null_count == array.null_count:
        return values, None
    misfit = pc.and_(values.is_null(), array.is_valid()).to_numpy(zero_copy_only=False)
    return values, misfit

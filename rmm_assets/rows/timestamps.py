"""Parses timestamps exactly as dlt does."""

from __future__ import annotations

import datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from dlt.common.schema.detections import is_iso_timestamp
from dlt.common.time import ensure_datetime_in_tz, get_context_timezone

from rmm_assets.rows.distinct import by_distinct
from rmm_assets.rows.stamps import EPOCH, FIRST, LAST, MICROS, MICROSECOND, Unit

TIMESTAMP = pa.timestamp("us", "UTC")
_DAY = 86_400_000_000
# The years 1 to 9999 less a day at either end, where an offset may lead out of the range and make dlt fail.
_EARLIEST = -62_135_596_800_000_000 + _DAY
_LATEST = 253_402_300_799_999_999 - _DAY
# The microseconds up to which doubles distinguish them, also as fractions of seconds: the year 2242.
_EXACT = 2**33 * 1_000_000
# Formats that Arrow and dlt parse alike. RE2's \d is ASCII.
_STAMP = r"^\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d(\.\d{1,9})?)?(Z|[+-]\d\d(:?\d\d)?)?$"
_ZONED = r"(Z|[+-]\d\d(:?\d\d)?)$"


def are_timestamps(array: pa.Array) -> bool:
    """Returns whether dlt would read each of these strings as a timestamp."""
    first = next((value.as_py() for value in array if value.is_valid), None)
    if first is None or _timestamp(first) is None:
        return False
    if fast_timestamps(array) is not None:
        return True
    return all(_timestamp(value) is not None for value in pc.unique(array).drop_null().to_pylist())


def read_timestamps(array: pa.Array) -> pa.Array:
    """Parses strings that pass `are_timestamps` as UTC timestamps in whole microseconds, as dlt does."""
    fast = fast_timestamps(array)
    if fast is not None:
        return fast
    return by_distinct(array, _timestamp, pa.int64())[0].cast(TIMESTAMP)


def _timestamp(text: str) -> int | None:
    """Returns the microseconds since 1970 of a string that dlt reads as a timestamp, else None."""
    if not is_iso_timestamp(str, text):
        return None
    try:
        return (ensure_datetime_in_tz(text) - EPOCH) // MICROSECOND
    except (ValueError, OverflowError):
        return None


def fast_timestamps(array: pa.Array) -> pa.Array | None:
    """Parses strings as timestamps with Arrow; None if dlt might read them differently."""
    if pc.all(pc.match_substring_regex(array, _STAMP)).as_py() is False:
        return None
    zoned = pc.match_substring_regex(array, _ZONED)
    naive = pc.any(zoned).as_py() is False
    if naive and get_context_timezone() is not datetime.UTC:
        return None
    for strings in (array, None):
        if strings is None:
            # dlt truncates to six digits; Arrow rejects more
            strings = pc.replace_substring_regex(array, r"(\.\d{6})\d+", r"\1")
        try:
            stamps = pc.cast(pc.cast(strings, pa.timestamp("us")) if naive else strings, TIMESTAMP)
        except pa.ArrowInvalid:
            continue
        extremes = pc.min_max(stamps.cast(pa.int64()))
        low, high = extremes["min"].as_py(), extremes["max"].as_py()
        return stamps if low is None or (low >= _EARLIEST and high <= _LATEST) else None
    return None


def from_numbers(array: pa.Array, unit: Unit) -> pa.Array | None:
    """Reads numbers of units since 1970 as timestamps; None if they have to be read one by one."""
    if not (pa.types.is_int64(array.type) or pa.types.is_float64(array.type)):
        return None
    factor, missing = MICROS[unit], array.is_null().to_numpy(zero_copy_only=False)
    values = array.fill_null(0).to_numpy(zero_copy_only=False)
    if not len(values) or not FIRST / factor < values.min() <= values.max() < LAST / factor:
        return None
    micros = values * factor
    if pa.types.is_float64(array.type):
        micros = np.rint(micros)
        # Then each value is the double that is nearest to a whole number of microseconds.
        if np.abs(micros).max() > _EXACT or (micros / factor != values).any():
            return None
    return pa.array(micros.astype(np.int64), pa.int64(), mask=missing).cast(TIMESTAMP)

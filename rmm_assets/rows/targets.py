"""Casts values without loss to the type that the connection declares for a column or that the table has."""

from __future__ import annotations

import datetime
import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from dlt.common.data_types.type_helpers import coerce_value, py_type_to_sc_type
from dlt.common.destination.capabilities import DestinationCapabilitiesContext
from dlt.common.libs.pyarrow import get_py_arrow_datatype
from dlt.common.schema.typing import TColumnType
from dlt.common.time import ensure_datetime_in_tz, parse_iso_like_datetime

from rmm_assets.rows.distinct import Mask, by_distinct
from rmm_assets.rows.json_text import exact_double, json_text, loads, plain_text
from rmm_assets.rows.stamps import EPOCH, MICROSECOND, Stamp
from rmm_assets.rows.timestamps import TIMESTAMP, fast_timestamps, from_numbers
from rmm_assets.rows.types import INT64, Kind, as_text, fits_double

# A year, a month or a week, which dlt reads as its first day.
_NO_DAY = re.compile(r"\d{4}(-\d\d|-?[Ww]\d\d)?", re.ASCII)
_DAY, _NO_TIME = datetime.timedelta(days=1), datetime.timedelta()
_PLAIN_INTEGER = r"^(0|-?[1-9]\d{0,17})$"


@dataclass(frozen=True)
class Target:
    """Describes the type that a column must have.

    Attributes:
        name: The column's name.
        data_type: dlt's name of the type.
        arrow: The Arrow type.
        hint: dlt's column schema.
        declared: Whether the connection declares the type: dlt's coercions apply ("12" becomes 12), and a value that does
            not fit rejects its row. Otherwise it is the table's type, and only values that it holds without loss fit.
        required: Whether a row without a value is rejected.
        stamp: How its timestamps are written, if the connection says so.
        digits: How many digits of a decimal are kept; None if all.
    """

    name: str
    data_type: str
    arrow: pa.DataType
    hint: Mapping[str, Any]
    declared: bool
    required: bool
    stamp: Stamp | None = None
    digits: int | None = None

    def __str__(self) -> str:
        longest = self.hint.get("precision") if self.data_type == "text" else None
        more = self.stamp or (longest and f"of at most {longest} characters")
        return f"{self.data_type} ({more})" if more else self.data_type


def target_of(
    name: str, hint: Mapping[str, Any], *, declared: bool, required: bool, stamp: Stamp | None = None,
    digits: int | None = None,
) -> Target:  # fmt: skip
    """Builds the target that a dlt column schema describes.

    Raises:
        ValueError: The data type is not one of dlt's.
    """
    return Target(name, str(hint["data_type"]), column_type(hint), hint, declared, required, stamp, digits)


def column_type(hint: Mapping[str, Any]) -> pa.DataType:
    """Returns the Arrow type of the values of a dlt column schema.

    Raises:
        ValueError: The data type is not one of dlt's.
    """
    if hint["data_type"] == "json":
        return pa.string()
    return get_py_arrow_datatype(
        cast(TColumnType, dict(hint)), DestinationCapabilitiesContext.generic_capabilities(), "UTC"
    )


def fit(array: pa.Array, kind: Kind, target: Target) -> tuple[pa.Array, Mask | None]:
    """Casts a column to its target type.

    Returns:
        The column, null where a value does not fit, and a mask of those rows; None if all fit.
    """
    data_type = target.data_type
    if data_type == "text":
        texts, longest = as_text(array, kind), target.hint.get("precision")
        if longest is None or not pc.any(too_long := pc.greater(pc.utf8_length(texts), longest)).as_py():
            return texts, None
        misfits = too_long.fill_null(False)
        return pc.if_else(misfits, None, texts), misfits.to_numpy(zero_copy_only=False)
    if data_type == "json" and kind == "json":
        return array, None
    if data_type == "bool" and kind == "bool":
        return array, None
    if target.arrow == pa.int64():
        if kind == "bigint":
            return array, None
        if kind == "text" and pc.all(pc.match_substring_regex(array, _PLAIN_INTEGER)).as_py():
            return pc.cast(array, pa.int64()), None
    if target.arrow == pa.float64():
        if kind == "double":
            return array, None
        if kind == "bigint" and fits_double(array):
            return pc.cast(array, pa.float64(), safe=False), None
    if target.stamp is not None and target.arrow == TIMESTAMP:
        moments = None if target.stamp.unit is None else from_numbers(array, target.stamp.unit)
        if moments is not None:
            return moments, None
        # As integers, which take a tenth of the time of timestamps.
        micros, misfit = by_distinct(array, target.stamp.micros, pa.int64(), unmix=kind in ("json", "mixed"))
        return micros.cast(TIMESTAMP), misfit
    if target.arrow == TIMESTAMP and target.stamp is None and kind == "text":
        stamps = fast_timestamps(array)
        if stamps is not None:
            return stamps, None
    return by_distinct(array, lambda value: fit_value(value, target), target.arrow, unmix=kind in ("json", "mixed"))


# The seconds from 1970 to the end of the year 9999.
_LAST_SECOND = 253_402_300_799


def fit_value(value: Any, target: Target) -> Any:
    """Casts one JSON value to a Python value that Arrow stores as the target's type; None if it does not fit."""
    data_type, declared = target.data_type, target.declared
    if data_type == "text":
        return plain_text(value)
    if data_type == "json":
        return _as_json(value) if declared else json_text(value)
    if isinstance(value, (list, dict)):
        return None
    try:
        if data_type == "bigint":
            return _as_integer(value, declared)
        if data_type == "double":
            return _as_double(value, declared)
        if data_type == "bool":
            return _as_bool(value, declared)
        if data_type == "timestamp":
            return _as_timestamp(value, target)
        if isinstance(value, bool):
            return None
        if data_type == "date":
            return _as_date(value)
        if isinstance(value, Decimal) or (data_type in ("decimal", "wei") and isinstance(value, float)):
            # the digits as received
            value = str(value) if isinstance(value, Decimal) else repr(value)
        found = coerce_value(data_type, py_type_to_sc_type(type(value)), value)  # type: ignore[arg-type]
        return None if target.digits is not None and _digits(found) > target.digits else found
    except (ValueError, TypeError, ArithmeticError, SyntaxError, OSError):
        return None


def _digits(value: Any) -> int:
    """Returns the number of digits of a decimal that are not zeros at its ends."""
    return len("".join(map(str, value.as_tuple().digits)).strip("0")) if isinstance(value, Decimal) else 0


def _as_json(value: Any) -> str:
    if isinstance(value, str):
        # dlt parses text as JSON; only a list or an object in a string is unpacked here
        try:
            inner = loads(value)
        except (ValueError, RecursionError):
            inner = None
        if isinstance(inner, (list, dict)):
            return json_text(inner)
    return json_text(value)


def _as_integer(value: Any, declared: bool) -> int | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, str):
        number = int(coerce_value("bigint", "text", value))
        if not declared and str(number) != value:
            return None
    else:
        number = int(value)
        if number != value:
            return None
    return number if INT64[0] <= number <= INT64[1] else None


def _as_double(value: Any, declared: bool) -> float | None:
    if isinstance(value, (bool, Decimal)):
        return None
    number = exact_double(value.strip()) if isinstance(value, str) else float(value)
    if number is None or not np.isfinite(number) or (isinstance(value, int) and int(number) != value):
        return None
    if isinstance(value, str) and not declared and plain_text(number) != value:
        return None
    return number


def _as_bool(value: Any, declared: bool) -> bool | None:
    if isinstance(value, bool):
        return value
    if not declared:
        return None
    if isinstance(value, str):
        return bool(coerce_value("bool", "text", value))
    return bool(value) if value in (0, 1) else None


def _as_date(value: Any) -> Any:
    """Casts to a date; None for a timestamp other than midnight, as its time would be lost."""
    if isinstance(value, str) and not _NO_DAY.fullmatch(value.strip()):
        moment = ensure_datetime_in_tz(coerce_value("timestamp", "text", value))
        return moment.date() if (moment - EPOCH) % _DAY == _NO_TIME else None
    return None


def _as_timestamp(value: Any, target: Target) -> Any:
    if target.stamp is not None:
        stated = target.stamp.micros(value)
        return None if stated is None else _in_unit(stated, target)
    if isinstance(value, bool) or (isinstance(value, str) and _NO_DAY.fullmatch(value.strip())):
        return None
    # undeclared: only text that dlt reads as a timestamp or a date; a number may mean anything
    if not target.declared and not (
        isinstance(value, str) and isinstance(parse_iso_like_datetime(value), datetime.date)
    ):
        return None
    if isinstance(value, int) and abs(value) > _LAST_SECOND:
        # dlt reads seconds since 1970 and refuses these: they are milliseconds or microseconds
        micros = value * 1_000 if abs(value) <= _LAST_SECOND * 1_000 else value
        if abs(micros) > _LAST_SECOND * 1_000_000:
            return None
    else:
        moment = ensure_datetime_in_tz(coerce_value("timestamp", py_type_to_sc_type(type(value)), value))
        micros = (moment - EPOCH) // MICROSECOND
    return _in_unit(micros, target)


def _in_unit(micros: int, target: Target) -> Any:
    unit: Literal["s", "ms", "us", "ns"] = target.arrow.unit
    divisor = {"s": 1_000_000, "ms": 1_000, "us": 1, "ns": 1}[unit]
    count = micros // divisor * (1_000 if unit == "ns" else 1)
    return pa.scalar(count, pa.int64()).cast(target.arrow).as_py() if unit != "ns" else pa.scalar(count, target.arrow)

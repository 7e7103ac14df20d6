"""Turns a column of JSON values into a column of one type: the type that was declared, or that fits all of them.

Types are dlt's. The rules of widening and of fitting stand here; which columns there are is the business of `columns`.
Every rule has a form for one value, which is the reference, and most have one for a whole column.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal, cast

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
from dlt.common.data_types.type_helpers import coerce_value, py_type_to_sc_type
from dlt.common.destination.capabilities import DestinationCapabilitiesContext
from dlt.common.libs.pyarrow import get_py_arrow_datatype
from dlt.common.schema.detections import is_iso_timestamp
from dlt.common.schema.typing import TColumnType
from dlt.common.time import ensure_datetime_in_tz, get_context_timezone, parse_iso_like_datetime

from rmm_assets.rows.decode import EXACT_DOUBLE, loads

# What JSON can say of a value. `huge` is a number that neither int64 nor a double holds, `wide` an integer that no
# double holds exactly, `stamp` text that dlt takes for a timestamp, `mixed` a column of several kinds as JSON text.
Kind = Literal["bool", "bigint", "wide", "huge", "double", "stamp", "text", "json", "mixed"]

TIMESTAMP = pa.timestamp("us", "UTC")
_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_MICROSECOND = datetime.timedelta(microseconds=1)
_DAY = 86_400_000_000
# The years 1 to 9999, less a day at either end: an offset may carry a value over it, where dlt gives up.
_EARLIEST = -62_135_596_800_000_000 + _DAY
_LATEST = 253_402_300_799_999_999 - _DAY
# Forms that Arrow and dlt read alike. RE2's \d is ASCII.
_STAMP = r"^\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d(\.\d{1,9})?)?(Z|[+-]\d\d(:?\d\d)?)?$"
_ZONED = r"(Z|[+-]\d\d(:?\d\d)?)$"
_PLAIN_INTEGER = r"^(0|-?[1-9]\d{0,17})$"

_INT64 = (-(2**63), 2**63 - 1)


@dataclass(frozen=True)
class Target:
    """What a column is to be.

    Attributes:
        data_type: dlt's name of the type.
        arrow: The type in Arrow.
        hint: dlt's column schema.
        declared: By the connection. dlt's coercions hold then ("12" is 12), and what does not fit rejects its row. Else
            the table has the type, and only a value that it holds without loss fits.
        required: Whether a row without a value is rejected.
    """

    name: str
    data_type: str
    arrow: pa.DataType
    hint: Mapping[str, Any]
    declared: bool
    required: bool


def target_of(name: str, hint: Mapping[str, Any], *, declared: bool, required: bool) -> Target:
    """The target that a dlt column schema describes.

    Raises:
        ValueError: Its data type is none of dlt's.
    """
    data_type = str(hint["data_type"])
    if data_type == "json":
        arrow = pa.string()
    else:
        arrow = get_py_arrow_datatype(
            cast(TColumnType, dict(hint)), DestinationCapabilitiesContext.generic_capabilities(), "UTC"
        )
    return Target(name, data_type, arrow, hint, declared, required)


def kind_of(value: Any) -> tuple[Kind, ...]:
    """The kinds of one JSON value that is not null."""
    if isinstance(value, bool):
        return ("bool",)
    if isinstance(value, int):
        if not _INT64[0] <= value <= _INT64[1]:
            return ("huge",)
        return ("bigint",) if int(float(value)) == value else ("bigint", "wide")
    if isinstance(value, float):
        return ("double",)
    if isinstance(value, str):
        return ("text",)
    return ("huge",) if isinstance(value, Decimal) else ("json",)


def json_text(value: Any) -> str:
    """Compact JSON of a value, with every digit."""
    try:
        return orjson.dumps(value).decode()
    except TypeError:
        pass  # an integer beyond 64 bits, a Decimal, or half of a surrogate pair
    if isinstance(value, dict):
        return "{" + ",".join(f"{json_text(key)}:{json_text(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(json_text, value)) + "]"
    return str(value) if isinstance(value, Decimal) else json.dumps(value, ensure_ascii=False)


def plain_text(value: Any) -> str:
    """A value as text: a string as it is, a number in its shortest form (1 for 1.0), anything else as JSON."""
    if isinstance(value, str):
        return value
    if isinstance(value, float):
        return str(int(value)) if abs(value) < EXACT_DOUBLE and value.is_integer() else repr(value)
    return json_text(value)


def fits_double(array: pa.Array) -> bool:
    """Whether a double holds each of these int64 exactly."""
    extremes = pc.min_max(array)
    low, high = extremes["min"].as_py(), extremes["max"].as_py()
    if low is None or (low >= -EXACT_DOUBLE and high <= EXACT_DOUBLE):
        return True
    return all(int(float(value)) == value for value in array.drop_null().to_pylist())


def widened(kinds: Iterable[Kind]) -> str:
    """The type that holds values of all these kinds without loss.

    Integers and floats are `double` where it holds every integer exactly; a column with a list or an object in it is
    `json`; everything else that is mixed is `text`.
    """
    found = set(kinds)
    if "json" in found:
        return "json"
    if found <= {"bigint", "wide"}:
        return "bigint"
    if found <= {"bigint", "double"}:
        return "double"
    if found == {"bool"}:
        return "bool"
    return "timestamp" if found == {"stamp"} else "text"


def arrow_type(data_type: str) -> pa.DataType:
    """The Arrow type of a column that `widened` named."""
    types = {"bigint": pa.int64(), "double": pa.float64(), "bool": pa.bool_(), "timestamp": TIMESTAMP}
    return types.get(data_type, pa.string())


def widen(array: pa.Array, kind: Kind, data_type: str) -> pa.Array:
    """A column of one kind as a type that `widened` named for it."""
    if data_type == "json":
        if kind in ("json", "mixed"):
            return array
        if kind in ("bigint", "bool"):
            return pc.cast(array, pa.string())
        return pa.array([None if v is None else json_text(v) for v in array.to_pylist()], pa.string())
    if data_type == "text":
        return as_text(array, kind)
    if data_type == "timestamp":
        return read_timestamps(array)
    if data_type == "double":
        if kind == "mixed":
            return pa.array([None if v is None else float(v) for v in _unmix(array)], pa.float64())
        return pc.cast(array, pa.float64(), safe=False)
    return array


def as_text(array: pa.Array, kind: Kind) -> pa.Array:
    """A column of one kind as text, each value as `plain_text` writes it."""
    if kind in ("text", "stamp", "json"):
        return array
    if kind in ("bigint", "bool"):
        return pc.cast(array, pa.string())
    values = _unmix(array) if kind == "mixed" else array.to_pylist()
    return pa.array([None if v is None else plain_text(v) for v in values], pa.string())


def _unmix(array: pa.Array) -> list[Any]:
    return [None if text is None else loads(text) for text in array.to_pylist()]


def to_python(array: pa.Array, kind: Kind) -> list[Any]:
    """The JSON values of a column."""
    return _unmix(array) if kind in ("json", "mixed") else list(array.to_pylist())


def are_timestamps(array: pa.Array) -> bool:
    """Whether dlt would take each of these strings for a timestamp."""
    first = next((value.as_py() for value in array if value.is_valid), None)
    if first is None or _timestamp(first) is None:
        return False
    if _fast_timestamps(array) is not None:
        return True
    return all(_timestamp(value) is not None for value in pc.unique(array).drop_null().to_pylist())


def read_timestamps(array: pa.Array) -> pa.Array:
    """Strings that `are_timestamps` as timestamps in UTC, in whole microseconds, as dlt reads them."""
    fast = _fast_timestamps(array)
    if fast is not None:
        return fast
    return _by_distinct(array, _timestamp, pa.int64())[0].cast(TIMESTAMP)


def _timestamp(text: str) -> int | None:
    """Microseconds since 1970 of a string that dlt takes for a timestamp, else None."""
    if not is_iso_timestamp(str, text):
        return None
    try:
        return (ensure_datetime_in_tz(text) - _EPOCH) // _MICROSECOND
    except (ValueError, OverflowError):
        return None


def _fast_timestamps(array: pa.Array) -> pa.Array | None:
    """The strings as timestamps where Arrow surely reads them as dlt does, else None."""
    if pc.all(pc.match_substring_regex(array, _STAMP)).as_py() is False:
        return None
    zoned = pc.match_substring_regex(array, _ZONED)
    naive = pc.any(zoned).as_py() is False
    if naive and get_context_timezone() is not datetime.UTC:
        return None
    for strings in (array, None):
        if strings is None:
            # dlt cuts after six digits, Arrow refuses more
            strings = pc.replace_substring_regex(array, r"(\.\d{6})\d+", r"\1")
        try:
            stamps = pc.cast(pc.cast(strings, pa.timestamp("us")) if naive else strings, TIMESTAMP)
        except pa.ArrowInvalid:
            continue
        extremes = pc.min_max(stamps.cast(pa.int64()))
        low, high = extremes["min"].as_py(), extremes["max"].as_py()
        return stamps if low is None or (low >= _EARLIEST and high <= _LATEST) else None
    return None


def fit(array: pa.Array, kind: Kind, target: Target) -> tuple[pa.Array, np.ndarray[Any, np.dtype[np.bool_]] | None]:
    """A column as its target type.

    Returns:
        The column, null where a value does not fit, and where that is, by row; None where all fit.
    """
    data_type = target.data_type
    if data_type == "text":
        return as_text(array, kind), None
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
    if target.arrow == TIMESTAMP and kind == "text":
        stamps = _fast_timestamps(array)
        if stamps is not None:
            return stamps, None
    return _by_distinct(array, lambda value: fit_value(value, target), target.arrow, unmix=kind in ("json", "mixed"))


def _by_distinct(
    array: pa.Array, convert: Callable[[Any], Any], arrow: pa.DataType, *, unmix: bool = False
) -> tuple[pa.Array, np.ndarray[Any, np.dtype[np.bool_]] | None]:
    """Convert each distinct value once; None from `convert`, or a value that Arrow cannot store, does not fit."""
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


def fit_value(value: Any, target: Target) -> Any:
    """One JSON value as the target's type, for Arrow to store; None where it does not fit."""
    data_type, declared = target.data_type, target.declared
    if data_type == "text":
        return plain_text(value)
    if data_type == "json":
        return _as_json(value)
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
        if isinstance(value, Decimal) or (data_type in ("decimal", "wei") and isinstance(value, float)):
            # the digits as they came
            value = str(value) if isinstance(value, Decimal) else repr(value)
        return coerce_value(data_type, py_type_to_sc_type(type(value)), value)  # type: ignore[arg-type]
    except (ValueError, TypeError, ArithmeticError, SyntaxError, OSError):
        return None


def _as_json(value: Any) -> str:
    if isinstance(value, str):
        # dlt reads text as JSON; a list or an object in a string is what the declaration means
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
    return number if _INT64[0] <= number <= _INT64[1] else None


def _as_double(value: Any, declared: bool) -> float | None:
    if isinstance(value, (bool, Decimal)):
        return None
    number = float(coerce_value("double", "text", value)) if isinstance(value, str) else float(value)
    if not np.isfinite(number) or (isinstance(value, int) and int(number) != value):
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


def _as_timestamp(value: Any, target: Target) -> Any:
    if isinstance(value, bool):
        return None
    # what dlt reads as a point in time, or a day; a number may be anything
    if not target.declared and not (
        isinstance(value, str) and isinstance(parse_iso_like_datetime(value), datetime.date)
    ):
        return None
    moment = ensure_datetime_in_tz(coerce_value("timestamp", py_type_to_sc_type(type(value)), value))
    micros = (moment - _EPOCH) // _MICROSECOND
    unit: Literal["s", "ms", "us", "ns"] = target.arrow.unit
    divisor = {"s": 1_000_000, "ms": 1_000, "us": 1, "ns": 1}[unit]
    count = micros // divisor * (1_000 if unit == "ns" else 1)
    return pa.scalar(count, pa.int64()).cast(target.arrow).as_py() if unit != "ns" else pa.scalar(count, target.arrow)

"""Flattens an API's rows into columns by dlt's naming and compares their values with a table's."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Set
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal, InvalidOperation
from functools import cache
from typing import Any
from zoneinfo import ZoneInfo

from rmm_assets.audit.documents import pack, parse, shortest
from rmm_assets.config.names import normalized_column
from rmm_assets.config.table_hints import Column

_OWN = ("_dlt_", "_absent_since", "_content_hash")
_EMPTY_KEY = "_empty"
_MOMENT = re.compile(r"(\d{4}-\d\d-\d\d)[T ](\d\d:\d\d(?::\d\d)?)(?:[.,](\d+))?\s*(Z|z|[+-]\d\d(?::?\d\d)?)?")
_DAY = re.compile(r"\d{4}-\d\d-\d\d")
_DIGITS_OF_A_DOUBLE = 17
_LAST_SECOND = 253_402_300_799
# dlt's name of a column for values of another type than the first ones: `name__v_text`.
_VARIANT = re.compile(r"(.+)__v_[a-z]+")
# The suffix that distinguishes columns of fields with the same normalized name: `a_b_5c2cd3`.
_HASHED = re.compile(r"_[0-9a-f]{6}(?=__|$)")


def is_own(column: str) -> bool:
    """Returns whether a column is dlt's or this project's rather than the API's."""
    return column.startswith(_OWN)


def flatten(row: Mapping[str, Any], columns: Set[str], whole: Set[str]) -> dict[str, list[Any]]:
    """Returns a row's values by column; several if the names of several fields give the same column.

    Args:
        row: The row as received.
        columns: The table's columns.
        whole: Columns that store objects whole.
    """
    found: dict[str, list[Any]] = {}
    for name, value in _flat(row, "", columns, whole):
        found.setdefault(name, []).append(value)
    return found


def _flat(row: Mapping[str, Any], above: str, columns: Set[str], whole: Set[str]) -> Iterator[tuple[str, Any]]:
    for key, value in row.items():
        name = _column(above, key)
        if not isinstance(value, Mapping) or name in whole or (not value and name in columns):
            yield name, value
        elif (
            name in columns
            and _says_something(value)
            and not any(other.startswith(f"{name}__") and _base(other) is None for other in columns)
        ):
            yield name, value  # nested more deeply than the table's columns
        else:
            yield from _flat(value, name, columns, whole)


def _says_something(value: Any) -> bool:
    """Returns whether an object contains anything but nulls, for which dlt creates no columns."""
    if isinstance(value, Mapping):
        return any(_says_something(inner) for inner in value.values())
    return value is not None


@cache
def _column(above: str, key: str) -> str:
    own = normalized_column(key) if key.strip() else _EMPTY_KEY
    return normalized_column(f"{above}__{own}") if above else own


def variants(column: str, columns: Set[str]) -> list[str]:
    """Returns the columns that may hold a field's values: its own, those for other types, those for equal names."""
    return [name for name in columns if column in (name, _base(name), told_apart(name))]


def told_apart(column: str) -> str | None:
    """Returns the name that a column would have without a field of the same name; None if it has that name."""
    name = _base(column) or column
    plain = _HASHED.sub("", name)
    return plain if plain != name else None


def _base(variant: str) -> str | None:
    match = _VARIANT.fullmatch(variant)
    return match[1] if match else None


def stated_moment(value: Any, column: Column) -> datetime | None:
    """Returns a value as a timestamp, as the file says that the column's are written; None if it is not written so."""
    if column.unit is not None:
        number = number_of(value)
        if number is None or isinstance(value, bool):
            return None
        micros = (number * {"s": 1_000_000, "ms": 1_000, "us": 1}[column.unit]).to_integral_value()
        try:
            return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=int(micros))
        except OverflowError:
            return None
    try:
        text = str(value).strip()
        moment = datetime.strptime(text, column.format) if column.format else datetime.fromisoformat(text)  # noqa: DTZ007
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=ZoneInfo(column.timezone) if isinstance(column.timezone, str) else UTC)
        return moment.astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def agrees(sent: Any, held: Any, *, json: bool | None) -> bool | None:
    """Returns whether a value in the table equals the API's; None if that cannot be determined.

    Args:
        sent: The API's value, not null.
        held: The table's value, not null.
        json: Whether the column is JSON; None if the destination does not say.
    """
    if isinstance(held, bool):
        return _agrees_bool(sent, held)
    if isinstance(held, (int, Decimal, float)):
        return _agrees_number(sent, held)
    if isinstance(held, datetime):
        return _agrees_moment(sent, held)
    if isinstance(held, date):
        return _agrees_day(sent, held)
    if isinstance(held, str):
        return _agrees_text(sent, held, json=json)
    if isinstance(held, (dict, list)):  # a destination that parses its JSON columns
        return pack(sent) == pack(held) or (None if _has_float(held) else False)
    if isinstance(held, time) and isinstance(sent, str):
        return True if sent == held.isoformat() else None
    return None


def _agrees_bool(sent: Any, held: bool) -> bool | None:
    if isinstance(sent, bool):
        return sent is held
    if isinstance(sent, str) and sent.lower() in ("true", "false"):
        return (sent.lower() == "true") is held
    return None


def _agrees_number(sent: Any, held: int | Decimal | float) -> bool | None:
    number = number_of(sent)
    if number is None:
        return False
    if not isinstance(held, float):
        return Decimal(held) == number
    if not math.isfinite(held):
        return False
    if number == Decimal(held) or number == Decimal(repr(held)):
        return True
    if float(number) != held or number == number.to_integral_value():
        return False
    # More digits than a double prints: written out by the server, or more than a double holds.
    return True if len(number.as_tuple().digits) <= _DIGITS_OF_A_DOUBLE else None


def _agrees_moment(sent: Any, held: datetime) -> bool | None:
    moment = moment_of(sent)
    if moment is None:
        return None
    utc = held.astimezone(UTC) if held.tzinfo is not None else held.replace(tzinfo=UTC)
    if moment != utc:
        return False
    # Digits beyond microseconds are not stored and cannot be compared.
    fraction = match[3] if isinstance(sent, str) and (match := _MOMENT.fullmatch(sent.strip())) else None
    return None if (fraction or "")[6:].strip("0") else True


def _agrees_day(sent: Any, held: date) -> bool | None:
    if isinstance(sent, str) and _DAY.fullmatch(sent):
        return sent == held.isoformat()
    moment = moment_of(sent)
    return None if moment is None or moment.date() == held else False


def _agrees_text(sent: Any, held: str, *, json: bool | None) -> bool | None:
    if isinstance(sent, (dict, list)):
        return _same_json(sent, held)
    if isinstance(sent, str):
        if sent == held and json is not True:
            return True
        if json is False:
            return False
        return _same_json(sent, held) or sent == held or (None if json is None else False)
    if isinstance(sent, bool):
        return held.lower() == str(sent).lower()
    number = number_of(held)
    return number is not None and number == number_of(sent)


def _same_json(sent: Any, held: str) -> bool:
    try:
        return pack(sent) == pack(parse(held))
    except ValueError:
        return False


def _has_float(value: Any) -> bool:
    if isinstance(value, dict):
        return any(_has_float(inner) for inner in value.values())
    return any(_has_float(inner) for inner in value) if isinstance(value, list) else isinstance(value, float)


def number_of(value: Any) -> Decimal | None:
    """Returns a value as an exact number; None if it is not a number."""
    if isinstance(value, (bool, int, float, Decimal, str)):
        try:
            number = Decimal(value.strip()) if isinstance(value, str) else Decimal(value)
        except InvalidOperation:
            return None
        return number if number.is_finite() else None
    return None


def moment_of(value: Any) -> datetime | None:
    """Returns a value as a timestamp; None if it is not an unambiguous date and time."""
    if isinstance(value, datetime):
        return value
    if isinstance(value, str) and (match := _MOMENT.fullmatch(value.strip())):
        day, clock, fraction, zone = match.groups()
        zone = "+00:00" if zone in (None, "Z", "z") else zone
        seconds = f".{fraction[:6].ljust(6, '0')}" if fraction and clock.count(":") == 2 else ""
        try:
            return datetime.fromisoformat(f"{day}T{clock}{seconds}{zone}").astimezone(UTC)
        except (ValueError, OverflowError):
            return None
    if isinstance(value, str) and _DAY.fullmatch(value):
        try:
            return datetime.fromisoformat(value).replace(tzinfo=UTC)
        except ValueError:
            return None
    number = None if isinstance(value, (bool, str)) else number_of(value)
    if number is None:
        return None
    for unit in (1, 10**3, 10**6):  # s, ms or us since 1970, by what is no later than the year 9999
        if abs(number) <= _LAST_SECOND * unit:
            micros = number * 1_000_000 / unit
            try:
                whole, rest = divmod(int(micros), 1_000_000)
                return datetime.fromtimestamp(whole, UTC).replace(microsecond=rest)
            except (ValueError, OverflowError):
                return None
    return None


def comparable(value: Any, like: Any = None, *, json: bool = False) -> str | None:
    """Returns a value as text that is the same for equal values of the API and the table.

    Args:
        value: A value of the API or the table, not null.
        like: A value of the table's column, which shows how the column stores values.
        json: Whether the column is JSON.

    Returns:
        The text; None if the column stores the value in a form that cannot be compared.
    """
    if isinstance(like, (datetime, date, time, bytes)) and not isinstance(value, type(like)):
        return _as_time(value, like)
    if isinstance(value, datetime):
        return f"t{(value if value.tzinfo else value.replace(tzinfo=UTC)).astimezone(UTC).isoformat()}"
    if isinstance(value, (date, time)):
        return f"d{value.isoformat()}"
    if isinstance(value, float):
        value = Decimal(repr(value))
    if isinstance(value, str) and (json or isinstance(like, (dict, list))):
        try:
            return f"j{pack(parse(value))}"
        except ValueError:
            return f"j{pack(value)}"
    if isinstance(value, (dict, list)) or json:
        return f"j{pack(value)}"
    number = number_of(value) if isinstance(like, (int, float, Decimal)) or not isinstance(value, str) else None
    if number is not None and not isinstance(value, bool) and not isinstance(like, (str, bool)):
        if isinstance(like, float) and len(number.as_tuple().digits) <= _DIGITS_OF_A_DOUBLE:
            number = Decimal(repr(float(number)))
        return f"n{shortest(number)}"
    if isinstance(value, bool):
        return f"s{str(value).lower()}"
    if number is not None and number == number.to_integral_value() and abs(number) < 10**18:
        return f"s{int(number)}"
    return f"s{value}"


def _as_time(value: Any, like: Any) -> str | None:
    moment = moment_of(value)
    if isinstance(like, datetime):
        return comparable(moment) if moment is not None else None
    if isinstance(like, date) and isinstance(value, str) and _DAY.fullmatch(value):
        return f"d{value}"
    return f"d{value}" if isinstance(like, time) and isinstance(value, str) else None

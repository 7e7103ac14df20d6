"""Reads and writes JSON without losing a digit."""

from __future__ import annotations

import json
import re
from decimal import Context, Decimal
from typing import Any

import numpy as np
import orjson

# From here on a double no longer tells an integer from its neighbour.
EXACT_DOUBLE = 2**53

_EIGHT_TRUE = np.uint64(0x0101010101010101)
_NUMBER = re.compile(rb"[0-9.]+([eE][-+]?[0-9]+)?")


def loads(text: str) -> Any:
    """Reads JSON text as Python values, exact: `Decimal` where no double is the number that is written.

    Raises:
        ValueError: Not JSON. NaN and Infinity are not.
    """
    return json.loads(text, parse_float=_number, parse_constant=_refuse)


def _number(token: str) -> float | Decimal:
    value = exact_double(token)
    return Decimal(token) if value is None else value


def exact_double(token: str) -> float | None:
    """Reads a number as a double; None where none is the number that is written.

    0.1 is one, and so are 0.10000000000000001 and 0.10000000000000000555, as other languages write the same double: each is
    what that double is, rounded to so many digits. 0.1000000000000000001 is none.
    """
    value = float(token)
    # Any number of 15 digits comes back from a double as it was.
    if len(token) <= 16 and 1e-300 < abs(value) < 1e300:
        return value
    if not np.isfinite(value):
        return None
    written = Decimal(token)
    if written == Decimal(repr(value)):
        return value
    digits = len(written.as_tuple().digits)
    rounded = Context(prec=max(digits, 1)).create_decimal(Decimal(value))
    return value if value and digits >= 17 and rounded == written else None


def holds_inexact_number(text: bytes) -> bool:
    """Tells whether a body holds a decimal number with more digits than a double has."""
    raw = np.frombuffer(text, np.uint8)
    # A point, a slash, or a digit.
    digit = (raw - np.uint8(46)) <= 11
    # Each run of 17 fills one of these blocks of eight.
    blocks = digit[: len(digit) // 8 * 8].view(np.uint64)
    if not (blocks == _EIGHT_TRUE).any():
        return False
    runs = digit
    for step in (1, 2, 4, 8, 1):
        runs = runs[:-step] & runs[step:]
    end = 0
    for start in np.flatnonzero(runs).tolist():
        token = _NUMBER.match(text, start) if start >= end else None
        if token is None:
            continue
        end = token.end()
        # Within a string, a run of digits follows something else than these.
        if text[max(0, start - 64) : start].rstrip(b" \t\r\n-")[-1:] in (b"[", b":", b","):
            try:
                if b"." in token[0] and exact_double(token[0].decode()) is None:
                    return True
            except ValueError:
                return True
    return False


def _refuse(token: str) -> Any:
    raise ValueError


def json_text(value: Any) -> str:
    """Writes a value as compact JSON, with every digit."""
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
    """Writes a value as text: a string as it is, a number in its shortest form (1 for 1.0), anything else as JSON."""
    if isinstance(value, str):
        return value
    if isinstance(value, float):
        return str(int(value)) if abs(value) < EXACT_DOUBLE and value.is_integer() else repr(value)
    return json_text(value)


def utf8_text(row: Any) -> str:
    """Writes a value as JSON that can be stored: what is not Unicode stays escaped."""
    text = json_text(row)
    try:
        text.encode()
    except UnicodeEncodeError:
        return "".join(f"\\u{ord(c):04x}" if "\ud800" <= c <= "\udfff" else c for c in text)
    return text

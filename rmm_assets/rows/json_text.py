"""Reads and writes JSON without losing a digit."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import numpy as np
import orjson

# From here on a double no longer tells an integer from its neighbour.
EXACT_DOUBLE = 2**53


def loads(text: str) -> Any:
    """Reads JSON text as Python values, exact: `Decimal` where a double would be infinite.

    Raises:
        ValueError: Not JSON. NaN and Infinity are not.
    """
    return json.loads(text, parse_float=_number, parse_constant=_refuse)


def _number(token: str) -> float | Decimal:
    value = float(token)
    return value if np.isfinite(value) else Decimal(token)


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

"""Reads and writes JSON without losing digits."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from decimal import Context, Decimal
from typing import Any

import numpy as np
import orjson

from rmm_assets.rows.slices import Bytes, slices

# From here on, doubles no longer distinguish neighbouring integers.
EXACT_DOUBLE = 2**53

_Places = np.ndarray[Any, np.dtype[np.int64]]

_FOUR_TRUE = np.uint32(0x01010101)
_NUMBER = re.compile(rb"[0-9.]+([eE][-+]?[0-9]+)?")


def loads(text: str, pairs: Callable[[list[tuple[str, Any]]], Any] | None = None) -> Any:
    """Parses JSON exactly, with a `Decimal` for each number that no double represents.

    Args:
        text: The JSON text.
        pairs: Makes the value of an object from its keys and values; by default a dict.

    Raises:
        ValueError: The text is not JSON; NaN and Infinity are not.
    """
    return json.loads(text, parse_float=_number, parse_constant=_refuse, object_pairs_hook=pairs)


def _number(token: str) -> float | Decimal:
    value = exact_double(token)
    return Decimal(token) if value is None else value


def exact_double(token: str) -> float | None:
    """Parses a number as a double; None if no double represents it.

    0.1 is represented, and so are 0.10000000000000001 and 0.10000000000000000555, which other languages write for the same
    double: each is its exact value rounded to this many digits. 0.1000000000000000001 is not.
    """
    value = float(token)
    # Any number of 15 digits survives a round trip through a double.
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


def holds_inexact_number(body: bytes) -> bool:
    """Returns whether a body, an object or an array, contains a decimal number with more digits than a double holds."""
    end = 0
    for start, stop in _long_runs(np.frombuffer(body, np.uint8)):
        start = _number_start(body, start, end)
        token = _NUMBER.match(body, start)
        end = max(stop, token.end() if token else 0)
        if token is not None and b"." in token[0] and _is_value(body, start):
            try:
                if exact_double(token[0].decode()) is None:
                    return True
            except ValueError:
                return True
    return False


def _long_runs(body: Bytes) -> Iterator[tuple[int, int]]:
    """Yields runs of twelve digits in a body that have at least five more digits around them."""
    found = []
    for start, part in slices(body, overlap=8):
        four = _is_digit(part[: len(part) // 4 * 4]).view(np.uint32) == _FOUR_TRUE
        twelve = four[:-2] & four[1:-1] & four[2:]
        if twelve.any():
            found.append(start + 4 * np.flatnonzero(twelve))
    if found:
        # The first block of a run has at most three digits before it, so at least two after it.
        blocks = _before_digits(np.concatenate(found), body, (12, 13))
        before = np.maximum(blocks[:, None] - np.arange(1, 4), 0)
        behind = np.minimum(blocks[:, None] + np.arange(12, 17), len(body) - 1)
        around = [np.logical_and.accumulate(_is_digit(body[side]), axis=1).sum(axis=1) for side in (before, behind)]
        yield from ((block, block + 12) for block in blocks[around[0] + around[1] >= 5].tolist())


def holds_small_number(body: bytes) -> bool:
    """Returns whether a body, an object or an array, contains a number with an exponent of -100 or less."""
    raw = np.frombuffer(body, np.uint8)
    for start, part in slices(raw, overlap=2):
        # A digit, `e` or `E`, and a minus sign.
        exponents = ((part[1:-1] | np.uint8(32)) == ord("e")) & (part[2:] == ord("-")) & _is_digit(part[:-2])
        if not exponents.any():
            continue
        found = _before_digits(start + 1 + np.flatnonzero(exponents), raw, (2, 3, 4))
        # This leaves such numbers and parts of UUIDs.
        if any(_is_value(body, _number_start(body, place, 0)) for place in found.tolist()):
            return True
    return False


def _is_digit(raw: Bytes) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Marks points, slashes and digits, which one comparison finds; no number contains a slash."""
    return (raw - np.uint8(46)) <= 11


def _before_digits(places: _Places, body: Bytes, steps: tuple[int, ...]) -> _Places:
    """Returns the places that are followed by digits at these distances. Past the end, the closing bracket counts."""
    for step in steps:
        places = places[_is_digit(body[np.minimum(places + step, len(body) - 1)])]
    return places


def _number_start(body: bytes, place: int, lowest: int) -> int:
    while place > lowest and body[place - 1] in b"0123456789.":
        place -= 1
    return place


def _is_value(body: bytes, start: int) -> bool:
    """Returns whether the number at `start` is a value; digits inside a string follow another character than these."""
    return body[max(0, start - 64) : start].rstrip(b" \t\r\n-")[-1:] in (b"[", b":", b",")


def _refuse(token: str) -> Any:
    raise ValueError


def json_text(value: Any) -> str:
    """Writes a value as compact JSON with all its digits."""
    try:
        return orjson.dumps(value).decode()
    except TypeError:
        pass  # an integer beyond 64 bits, a Decimal, or an unpaired surrogate
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
    """Writes a value as JSON that can be encoded as UTF-8: unpaired surrogates stay escaped."""
    text = json_text(row)
    try:
        text.encode()
    except UnicodeEncodeError:
        return "".join(f"\\u{ord(c):04x}" if "\ud800" <= c <= "\udfff" else c for c in text)
    return text

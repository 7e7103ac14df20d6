"""Checks a body's brackets before a decoder recurses into it."""

from __future__ import annotations

import re

import numpy as np

from rmm_assets.rows.slices import slices

# Arrow's reader recurses: some 10,000 levels overflow an 8 MB stack, which kills the process. No row is this deep.
MAX_DEPTH = 500

_NOT_STRUCTURE = bytes(set(range(256)) - set(b'"[]{}'))
# JSON's white space.
_BLANKS = b" \t\r\n"
# A string, and whether it is a key; possessive quantifiers avoid backtracking.
_STRING = re.compile(rb'"([^"\\]*+(?:\\.[^"\\]*+)*+)"([ \t\r\n]*+:)?', re.DOTALL)
_QUOTE = ord('"')
# For each byte value, its change of the nesting level.
_STEPS = np.zeros(256, np.int8)
_STEPS[[ord("["), ord("{")]] = 1
_STEPS[[ord("]"), ord("}")]] = -1


def is_too_deep(text: bytes, most: int = MAX_DEPTH) -> bool:
    """Returns whether a body is nested more than `most` levels deep."""
    if _opening(text) <= most:
        return False
    return bool(_levels(text).max(initial=0) > most)


def has_more_keys(text: bytes, most: int) -> bool:
    """Returns whether a body has more than `most` distinct keys."""
    seen: set[bytes] = set()
    for match in _STRING.finditer(text):
        if match[2] is not None:
            seen.add(match[1])
            if len(seen) > most:
                return True
    return False


def _opening(text: bytes) -> int:
    # `{` and `[` differ in one bit.
    parts = slices(np.frombuffer(text, np.uint8))
    return sum(int(np.count_nonzero((part | np.uint8(32)) == ord("{"))) for _, part in parts)


def is_safe(text: bytes, first: bytes) -> bool:
    """Returns whether Arrow's reader can safely read a body: it begins and ends with brackets.

    A `null` before an object kills the process (pyarrow 20 to 26). Values behind the first are counted, so that a body with
    several is noticed.

    Args:
        text: The body.
        first: The brackets with which the body may begin.
    """
    begin, end = text[:64].lstrip(_BLANKS)[:1], text[-64:].rstrip(_BLANKS)[-1:]
    return bool(begin) and begin in first and end in (b"}", b"]")


def _levels(text: bytes) -> np.ndarray[tuple[int], np.dtype[np.int32]]:
    """Returns the nesting level after each bracket outside strings."""
    if b"\\" in text:
        text = text.replace(b"\\\\", b"").replace(b'\\"', b"")
    marks = np.frombuffer(text.translate(None, _NOT_STRUCTURE), np.uint8)
    quotes = marks == _QUOTE
    # Each quote toggles between outside and inside a string.
    steps = _STEPS[marks[~quotes & ~np.logical_xor.accumulate(quotes)]]
    return np.cumsum(steps, dtype=np.int32)

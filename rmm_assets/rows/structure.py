"""Looks at the brackets of a body before a decoder recurses into it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# Arrow's reader recurses: some 10,000 levels overflow an 8 MB stack, which kills the process. No row is this deep.
MAX_DEPTH = 500

_NOT_STRUCTURE = bytes(set(range(256)) - set(b'"[]{}'))
# What JSON calls white space.
_BLANKS = b" \t\r\n"
_QUOTE = ord('"')
# By byte: one level down, one level up, or neither.
_STEPS = np.zeros(256, np.int8)
_STEPS[[ord("["), ord("{")]] = 1
_STEPS[[ord("]"), ord("}")]] = -1


@dataclass(frozen=True)
class Structure:
    """Says what the brackets of a body show.

    Attributes:
        depth: Levels of nesting.
        first: The bracket that the body begins with; empty where it begins with something else.
        is_one_value: It is one object or one array. Arrow's reader takes any number of values one behind the other, and a
            `null` in the place of an object kills the process.
    """

    depth: int
    first: bytes
    is_one_value: bool


def structure_of(text: bytes) -> Structure:
    """Scans the brackets of a body; it need not be JSON."""
    levels = _levels(text)
    first, last = text[:64].lstrip(_BLANKS)[:1], text[-64:].rstrip(_BLANKS)[-1:]
    if not len(levels) or first not in (b"{", b"[") or last not in (b"}", b"]"):
        return Structure(int(levels.max(initial=0)), b"", False)
    whole = levels[-1] == 0 and np.count_nonzero(levels == 0) == 1
    return Structure(int(levels.max()), first, bool(whole))


def _levels(text: bytes) -> np.ndarray[tuple[int], np.dtype[np.int32]]:
    """Returns the level of nesting behind each bracket outside of strings."""
    if b"\\" in text:
        text = text.replace(b"\\\\", b"").replace(b'\\"', b"")
    marks = np.frombuffer(text.translate(None, _NOT_STRUCTURE), np.uint8)
    quotes = marks == _QUOTE
    # A quote flips between outside and inside of strings.
    steps = _STEPS[marks[~quotes & ~np.logical_xor.accumulate(quotes)]]
    return np.cumsum(steps, dtype=np.int32)

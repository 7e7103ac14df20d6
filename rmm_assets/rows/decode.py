"""Turns a response body into a page.

Two decoders read a body: Arrow is the fast one, Python's `json` the reference, exact for every number, every key, every
fault. Whatever Arrow does not read faithfully is read again by the reference, so that both give the same rows.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from rmm_assets.errors import BodyError
from rmm_assets.rows.arrow_decoder import decode_fast
from rmm_assets.rows.json_text import loads
from rmm_assets.rows.page import Page, value_at
from rmm_assets.rows.selector import keys_of, place_of, select
from rmm_assets.rows.type_memory import TypeMemory

__all__ = ["Hints", "Page", "loads", "read_page", "read_pages", "value_at"]

Hints = TypeMemory

# Arrow's reader recurses: some 10,000 levels overflow an 8 MB stack, which kills the process. No row is this deep.
MAX_DEPTH = 500

_BOM = b"\xef\xbb\xbf"
_NOT_STRUCTURE = bytes(set(range(256)) - set(b'"[]{}'))


def read_page(body: bytes, selector: str | None, memory: TypeMemory | None = None, *, exact: bool = False) -> Page:
    """Reads a body. Thread-safe; the GIL is released while Arrow decodes.

    Args:
        body: The response body, UTF-8 JSON with or without a byte order mark.
        selector: Where the rows are, as dlt's `data_selector`: None or `$` for the whole body, `data`, `result.items`,
            `data.items[*]`, or any JSONPath. A single object there is one row.
        memory: What earlier pages of the resource have shown; it learns from this one.
        exact: Use the reference decoder only.

    Raises:
        BodyError: The body is not JSON, does not have the selected key, or no objects stand there.
    """
    text = _text(body)
    _check_depth(text)
    path = keys_of(selector)
    if path is not None and not exact:
        pages = decode_fast([text], path, selector, memory or TypeMemory())
        if pages is not None:
            return pages[0]
    rows, envelope = select(_decode(text), selector)
    if rows and not any(isinstance(row, dict) for row in rows):
        raise BodyError("not_rows", f"{place_of(selector)} is a list without a single object in it, not rows")
    return Page(len(rows), envelope, len(text), None, text, selector, rows)


def read_pages(bodies: Sequence[bytes], selector: str | None, memory: TypeMemory) -> list[Page] | None:
    """Reads neighbouring bodies at once, in a third of the time that they take one by one.

    Returns:
        The pages that `read_page` would give; None where each body must be read by itself.
    """
    path = keys_of(selector)
    texts = [_text(body) for body in bodies]
    first, last = (b"{", b"}") if path else (b"[", b"]")
    # With these ends, no body's text can be taken for a part of its neighbour's.
    if path is None or any(t[:64].lstrip()[:1] != first or t[-64:].rstrip()[-1:] != last for t in texts):
        return None
    try:
        for text in texts:
            _check_depth(text)
    except BodyError:
        return None
    return decode_fast(texts, path, selector, memory)


def _text(body: bytes) -> bytes:
    return body[len(_BOM) :] if body.startswith(_BOM) else body


def _check_depth(text: bytes) -> None:
    """Refuses a body that is nested too deep to be decoded safely, before anything recurses into it."""
    if text.count(b"{") + text.count(b"[") <= MAX_DEPTH:
        return
    if b"\\" in text:
        text = text.replace(b"\\\\", b"").replace(b'\\"', b"")
    marks = np.frombuffer(text.translate(None, _NOT_STRUCTURE), np.uint8)
    outside = (np.cumsum(marks == ord('"'), dtype=np.int32) & 1) == 0
    steps = ((marks == ord("[")) | (marks == ord("{"))).astype(np.int8) - ((marks == ord("]")) | (marks == ord("}")))
    if np.cumsum(steps * outside, dtype=np.int32).max(initial=0) > MAX_DEPTH:
        raise BodyError("not_json", f"the body is nested more than {MAX_DEPTH} levels deep")


def _decode(text: bytes) -> Any:
    """Decodes a body as Python values: integers of any size, and numbers beyond a double as `Decimal`."""
    # Errors are raised anew: Python's own ones carry the whole body along.
    problem: str
    try:
        return loads(text.decode())
    except UnicodeDecodeError as error:
        problem = f"it is not UTF-8 text (byte {error.start})"
    except json.JSONDecodeError as error:
        problem = f"{error.msg.lower()} at character {error.pos} of {len(error.doc)}"
    except RecursionError:
        problem = "it is nested too deep"
    except ValueError:
        problem = "it holds a number that is none in JSON, or one of more than 4,300 digits"
    raise BodyError("not_json", f"the body is not JSON: {problem}")

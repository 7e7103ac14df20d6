"""Turns a response body into a page.

Two decoders read a body: Arrow is the fast one, Python's `json` the reference, exact for every number, every key, every
fault. Whatever Arrow does not read faithfully is read again by the reference, so that both give the same rows.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from rmm_assets.errors import BodyError
from rmm_assets.rows.arrow_decoder import decode_fast
from rmm_assets.rows.json_text import loads
from rmm_assets.rows.page import Page, value_at
from rmm_assets.rows.selector import keys_of, place_of, select
from rmm_assets.rows.structure import is_safe
from rmm_assets.rows.type_memory import TypeMemory

__all__ = ["Hints", "Page", "loads", "read_page", "read_pages", "value_at"]

Hints = TypeMemory

_BOM = b"\xef\xbb\xbf"


def read_page(body: bytes, selector: str | None, memory: TypeMemory | None = None, *, exact: bool = False) -> Page:
    """Reads a body. Thread-safe; the GIL is released while Arrow decodes.

    Args:
        body: The response body, UTF-8 JSON with or without a byte order mark.
        selector: Where the rows are, as dlt's `data_selector`: None or `$` for the whole body, `data`, `result.items`,
            `data.items[*]`, or any JSONPath. A single object there is one row.
        memory: What earlier pages of the resource have shown; it learns from this one.
        exact: Use the reference decoder only.

    Raises:
        BodyError: The body is not JSON, does not have the selected key, no objects stand there, or it exceeds a limit.
    """
    text = _text(body)
    memory = memory or TypeMemory()
    memory.check_body(text)
    path = keys_of(selector)
    if path is not None and not exact and is_safe(text, b"{" if path else b"[{"):
        pages = decode_fast([text], path, selector, memory)
        if pages is not None:
            memory.check_rows(pages[0].structs, ())
            return pages[0]
    rows, envelope, stood = select(_decode(text), selector)
    if rows and not any(isinstance(row, dict) for row in rows):
        raise BodyError("not_rows", f"{place_of(selector)} is a list without a single object in it, not rows")
    memory.check_rows(None, rows)
    return Page(len(rows), envelope, len(text), None, text, selector, rows, stood=stood)


def read_pages(bodies: Sequence[bytes], selector: str | None, memory: TypeMemory) -> list[Page] | None:
    """Reads neighbouring bodies at once, in a third of the time that they take one by one.

    Returns:
        The pages that `read_page` would give; None where each body must be read by itself.
    """
    path = keys_of(selector)
    texts = [_text(body) for body in bodies]
    # With these ends, no body's text can be taken for a part of its neighbour's.
    first = b"{" if path else b"["
    if path is None or not all(is_safe(text, first) for text in texts):
        return None
    try:
        for text in texts:
            memory.check_body(text)
        pages = decode_fast(texts, path, selector, memory)
        if pages:
            memory.check_rows(pages[0].structs, ())
    except BodyError:
        return None  # read by itself, the body at fault says what is wrong
    return pages


def _text(body: bytes) -> bytes:
    return body[len(_BOM) :] if body.startswith(_BOM) else body


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

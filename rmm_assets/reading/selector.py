"""Finds the rows in a response and recognizes values that only look like an empty list."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import orjson

from rmm_assets.errors import BodyError
from rmm_assets.reading.absent import ABSENT
from rmm_assets.reading.endpoint import Endpoint
from rmm_assets.reading.failures import ERRORS
from rmm_assets.reading.settings import EmptyAs
from rmm_assets.reading.signals import plain_name, words
from rmm_assets.rows.selector import keys_of, matches

# Lists next to the rows.
_NEVER_ROWS = ERRORS | words("warning warnings message messages notices link links")


def selector_of(endpoint: Endpoint, body: bytes) -> str:
    """Returns where the rows are: as the connection file says, else the only list of objects in the first response.

    Raises:
        BodyError: The response has no list or several.
    """
    if (known := endpoint.selector) is not None:
        return known
    try:
        document = orjson.loads(body)
    except ValueError:
        return "$"  # not JSON; reading the page raises the error
    if isinstance(document, list):
        selector = "$"
    else:
        paths = [path for path, value in _lists(document, ()) if not value or any(isinstance(i, dict) for i in value)]
        if len(paths) != 1:
            which = ", ".join(".".join(path) for path in paths) or "no list"
            raise BodyError(
                "no_selector", f"without a data_selector, the rows could be in {which}; write data_selector"
            )
        selector = ".".join(key if re.fullmatch(r"[A-Za-z_]\w*", key) else f"'{key}'" for key in paths[0])
    endpoint.learned.selector = selector
    return selector


def _lists(value: Any, above: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], list[Any]]]:
    """Yields every list in an object that may be the rows, so none within lists, with its path."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if isinstance(inner, list):
                if plain_name(key) not in _NEVER_ROWS:
                    yield (*above, key), inner
            else:
                yield from _lists(inner, (*above, key))


def stands_for_no_rows(body: bytes, selector: str) -> EmptyAs | None:
    """Returns how a body lacks a list at the selector; None if it may have one."""
    if not body.strip():
        return "empty_body"
    value = _at(body, selector)
    if value is ABSENT:
        return "missing"
    if value is None:
        return "null"
    return "object" if value == {} else None


def holds_object(body: bytes, selector: str) -> bool:
    """Returns whether there is an object in place of the list of rows."""
    return isinstance(_at(body, selector), dict)


def _at(body: bytes, selector: str) -> Any:
    """Returns the value at a selector that leads to one; an empty list for any other selector or a body that is not JSON."""
    try:
        value = orjson.loads(body)
    except ValueError:
        return []
    path = keys_of(selector)
    if path is None:
        found = matches(value, selector)
        missing = None if "null" in found.gaps else ABSENT
        return next(iter(found.values), missing) if found.is_one else []
    for key in path:
        if value is None:
            return None
        if not isinstance(value, dict) or key not in value:
            return ABSENT
        value = value[key]
    return value

"""Finds the rows in a response and recognizes values that only look like an empty list."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import orjson

from rmm_assets.errors import BodyError
from rmm_assets.reading.absent import ABSENT
from rmm_assets.reading.endpoint import Endpoint
from rmm_assets.reading.settings import EmptyAs

_PLAIN = re.compile(r"(?:\$\.)?([\w@-]+(?:\.[\w@-]+)*)(?:\[\*\])?", re.ASCII)


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
        lists = list(_lists(document, ()))
        filled = [path for path, value in lists if any(isinstance(item, dict) for item in value)]
        paths = filled or [path for path, value in lists if not value]
        if len(paths) != 1:
            which = ", ".join(".".join(path) for path in paths) or "no list"
            raise BodyError(
                "no_selector", f"without a data_selector, the rows could be in {which}; write data_selector"
            )
        selector = ".".join(key if re.fullmatch(r"[A-Za-z_]\w*", key) else f"'{key}'" for key in paths[0])
    endpoint.learned.selector = selector
    return selector


def _lists(value: Any, above: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], list[Any]]]:
    """Yields every list in an object except lists within lists, with its path."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if isinstance(inner, list):
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
    """Returns the value at a selector of keys; an empty list for any other selector or a body that is not JSON."""
    match = _PLAIN.fullmatch(selector)
    if match is None and selector not in ("$", "$[*]"):
        return []
    try:
        value = orjson.loads(body)
    except ValueError:
        return []
    for key in match[1].split(".") if match else ():
        if value is None:
            return None
        if not isinstance(value, dict) or key not in value:
            return ABSENT
        value = value[key]
    return value

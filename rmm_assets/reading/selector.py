"""Finds where the rows are, and tells an empty list from what only looks like one."""

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
    """Returns where the rows are: what the connection file says, else the only list of objects in the first answer.

    Raises:
        BodyError: there is no list in it, or there are several.
    """
    if (known := endpoint.selector) is not None:
        return known
    try:
        document = orjson.loads(body)
    except ValueError:
        return "$"  # no JSON: reading the page says so
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
    """Every list in an object, but for lists within lists."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if isinstance(inner, list):
                yield (*above, key), inner
            else:
                yield from _lists(inner, (*above, key))


def stands_for_no_rows(body: bytes, selector: str) -> EmptyAs | None:
    """Returns in which way a body holds no list at the selector; None where it may hold one."""
    if not body.strip():
        return "empty_body"
    value = _at(body, selector)
    if value is ABSENT:
        return "missing"
    if value is None:
        return "null"
    return "object" if value == {} else None


def holds_object(body: bytes, selector: str) -> bool:
    """Whether an object stands where the list of rows should be."""
    return isinstance(_at(body, selector), dict)


def _at(body: bytes, selector: str) -> Any:
    """What stands at a plain selector; any list for one that says more than keys, or for a body that is not JSON."""
    match = _PLAIN.fullmatch(selector)
    if match is None and selector not in ("$", "$[*]"):
        return []
    try:
        value = orjson.loads(body.removeprefix(b"\xef\xbb\xbf"))
    except ValueError:
        return []
    for key in match[1].split(".") if match else ():
        if value is None:
            return None
        if not isinstance(value, dict) or key not in value:
            return ABSENT
        value = value[key]
    return value

"""Finds the rows in a decoded body by dlt's `data_selector`."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any, Literal, NamedTuple

from dlt.common import jsonpath

from rmm_assets.errors import BodyError

_SEGMENT = r"[A-Za-z_@][\w@-]*"
_DOTTED = re.compile(rf"(?:\$\.)?({_SEGMENT}(?:\.{_SEGMENT})*)(?:\[\*\])?", re.ASCII)


# JSON types of a selected value that can be read as rows.
SelectedType = Literal["list", "object", "null"]


class Selected(NamedTuple):
    """Holds the selected rows, the document without them and the JSON type of the selected value."""

    rows: list[Any]
    envelope: Any
    selected_type: SelectedType


@lru_cache(maxsize=256)
def keys_of(selector: str | None) -> tuple[str, ...] | None:
    """Splits a selector into keys: empty for the whole body; None for a JSONPath that is more than a path of keys."""
    if selector in (None, "", "$", "$[*]"):
        return ()
    assert selector is not None
    match = _DOTTED.fullmatch(selector)
    return tuple(match[1].split(".")) if match else None


@lru_cache(maxsize=256)
def _compiled(selector: str) -> Any:
    return jsonpath.compile_path(selector)


def select(document: Any, selector: str | None) -> Selected:
    """Takes the selected rows out of a document.

    Raises:
        BodyError: The selector matches nothing, or a value that cannot be rows.
    """
    path = keys_of(selector)
    if path is None:
        values = [match.value for match in _compiled(selector or "$").find(document)]
        if not values and "?" not in (selector or ""):
            raise BodyError("no_selector", f"{selector!r} matches nothing in the body")
        value = values[0] if len(values) == 1 else values
        return _selected(value, selector, document)
    value, envelope = document, None
    around: dict[str, Any] = {}
    for depth, name in enumerate(path):
        if not isinstance(value, dict) or name not in value:
            raise BodyError("no_selector", f"the body has no {'.'.join(path[: depth + 1])!r}, where the rows should be")
        rest = {key: item for key, item in value.items() if key != name}
        if depth:
            around[path[depth - 1]] = rest
        else:
            envelope = rest
        around, value = rest, value[name]
    return _selected(value, selector, envelope)


def _selected(value: Any, selector: str | None, envelope: Any) -> Selected:
    if value is None and keys_of(selector) != ():
        return Selected([], envelope, "null")
    if isinstance(value, dict):
        return Selected([value], envelope, "object")
    if not isinstance(value, list):
        raise BodyError("not_rows", f"{place_of(selector)} is neither a list nor an object")
    return Selected(value, envelope, "list")


def place_of(selector: str | None) -> str:
    """Names the selected value in messages."""
    return "the body" if keys_of(selector) == () else f"the value at {selector!r}"

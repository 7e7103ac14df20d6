"""Finds the rows in a decoded body by dlt's `data_selector`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from itertools import takewhile
from typing import Any, Literal, NamedTuple

from dlt.common import jsonpath
from jsonpath_ng import Child, Fields, Index, Root, Slice
from jsonpath_ng.ext.filter import Filter

from rmm_assets.errors import BodyError

_QUOTED = r"""'[^'\\]+'|"[^"\\]+\""""
_NAME = rf"(?:(?a:[A-Za-z_@][\w@-]*)|{_QUOTED})"
# `data.items`, `$.data`, `$['data']`, `data.'my items'`, each with `[*]` or without.
_KEYS = re.compile(
    rf"(?P<keys>(?:{_NAME}|\$\.{_NAME}|\$?\[(?:{_QUOTED})\])(?:\.{_NAME}|\[(?:{_QUOTED})\])*)(?:\[\*\])?"
)
_KEY = re.compile(rf"{_QUOTED}|[\w@-]+")


# JSON types of a selected value that can be read as rows.
SelectedType = Literal["list", "object", "null"]
# What stands where a list should be.
Gap = Literal["null", "missing", "object"]


class Selected(NamedTuple):
    """Holds the selected rows, the document without them and the JSON type of the selected value.

    Attributes:
        gaps: What stands in place of some of the lists to which a JSONPath leads; the others are not affected.
    """

    rows: list[Any]
    envelope: Any
    selected_type: SelectedType
    gaps: frozenset[Gap] = frozenset()


class Matches(NamedTuple):
    """Holds the values at a JSONPath.

    Attributes:
        gaps: What the path found in place of objects or lists that would have led to more values.
        is_one: Whether the path leads to one value, as without a wildcard.
    """

    values: list[Any]
    gaps: frozenset[Gap]
    is_one: bool


@lru_cache(maxsize=256)
def keys_of(selector: str | None) -> tuple[str, ...] | None:
    """Splits a selector into keys: empty for the whole body; None for a JSONPath that is more than a path of keys."""
    if selector in (None, "", "$", "$[*]"):
        return ()
    assert selector is not None
    match = _KEYS.fullmatch(selector)
    return tuple(key.strip("'\"") for key in _KEY.findall(match["keys"])) if match else None


@lru_cache(maxsize=256)
def lead_of(selector: str | None) -> tuple[str | int, ...]:
    """Returns the keys and indices that lead to the rows, up to the first list of which more than one element is selected."""
    keys = keys_of(selector)
    return _lead(_steps(_compiled(str(selector)))) if keys is None else keys


def place_in(document: Any, selector: str | None) -> tuple[str | int, ...]:
    """Returns the keys that lead to what a JSONPath finds first, up to a list, such as `$..devices`; empty for other selectors."""
    if selector is None or keys_of(selector) is not None:
        return ()
    found = next((_steps(match.full_path) for match in _compiled(selector).find(document)), ())
    return _lead(takewhile(lambda step: isinstance(step, Fields), found))


def _lead(steps: Iterable[Any]) -> tuple[str | int, ...]:
    found = (step for step in takewhile(_is_one, steps) if not isinstance(step, Root))
    return tuple(step.fields[0] if isinstance(step, Fields) else step.indices[0] for step in found)


def _steps(path: Any) -> Iterator[Any]:
    if isinstance(path, Child):
        yield from _steps(path.left)
        yield from _steps(path.right)
    else:
        yield path


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
        assert selector is not None
        values, gaps, is_one = matches(document, selector)
        if is_one and "null" in gaps:
            return Selected([], document, "null")
        if is_one and not values:
            raise BodyError("no_selector", f"{selector!r} matches nothing in the body")
        if is_one:
            return _selected(values[0], selector, document)
        if not any(isinstance(value, list) for value in values):
            return Selected(values, document, "list", gaps)
        # The path ends at lists, which need no `[*]`.
        for value in values:
            if value is None or value == {}:
                gaps |= {"null" if value is None else "object"}
            elif not isinstance(value, list):
                raise BodyError("not_rows", f"{selector!r} leads to lists and to other values")
        return Selected([row for value in values for row in value or ()], document, "list", gaps)
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


def matches(document: Any, selector: str) -> Matches:
    """Finds the values at a JSONPath, and what stands where more of them should be.

    Raises:
        BodyError: An object stands where `[*]` needs a list.
    """
    path = _compiled(selector)
    values, gaps = _matches(document, path, maps="*" in selector.replace("[*]", ""))
    return Matches(values, frozenset(gaps), _is_one(path))


def _matches(document: Any, path: Any, *, maps: bool) -> tuple[list[Any], set[Gap]]:
    """See `matches`; with `maps`, a wildcard may stand for the keys of an object."""
    if isinstance(path, Root):
        return [document], set()
    nested = isinstance(path, Child)
    outer, gaps = _matches(document, path.left, maps=maps) if nested else ([document], set[Gap]())
    step, found = path.right if nested else path, []
    needs_lists = str(step) in ("*", "[*]") and not maps
    for value in outer:
        if needs_lists and value and isinstance(value, dict):
            raise BodyError("not_rows", "there is an object where [*] in the data_selector needs a list")
        values = [match.value for match in step.find(value)]
        found += values
        if not values and (gap := _gap(value, step)) is not None:
            gaps.add(gap)
    return found, gaps


def _gap(value: Any, step: Any) -> Gap | None:
    """Returns what a value is in which a step of a path found nothing; None if it is a list without a match."""
    if value is None:
        return "null"
    if value == {} and not isinstance(step, Fields):
        return "object"
    return None if value == [] or (isinstance(value, list) and isinstance(step, (Filter, Slice))) else "missing"


def _is_one(path: Any) -> bool:
    if isinstance(path, Child):
        return _is_one(path.left) and _is_one(path.right)
    if isinstance(path, Fields):
        return len(path.fields) == 1 and path.fields != ("*",)
    return isinstance(path, (Root, Index)) and len(getattr(path, "indices", (0,))) == 1


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

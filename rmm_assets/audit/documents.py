"""Reads and writes JSON with the standard library, preserving all digits of numbers, and looks up paths in it."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Collection, Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any

from defusedxml import ElementTree
from dlt.common import jsonpath

MISSING: Any = object()
"""Returned by `look_up` for a missing value; a null is None."""

# Lists that are never the rows.
_BESIDE = ("errors", "warnings", "messages", "links")
# The key under which `pack` stores a number that is not an integer; random, so that no server can imitate it.
_NUMBER = secrets.token_hex(8)


def parse(body: bytes | str) -> Any:
    """Parses a JSON document, with numbers that are not integers as decimals.

    Raises:
        ValueError: It is not JSON.
    """

    def no_constant(text: str) -> Any:
        raise ValueError(f"{text} is not JSON")

    try:
        return json.loads(body, parse_float=Decimal, parse_constant=no_constant)
    except RecursionError:
        raise ValueError("the JSON is nested too deeply") from None


def parse_xml(body: bytes, path: Sequence[str]) -> Any:
    """Returns an XML body as the loader's documentation describes it, with the rows at `path` as a list.

    Raises:
        ValueError: The body is not XML, or defines entities or a document type.
    """
    try:
        root = ElementTree.fromstring(body, forbid_dtd=True)
    except (SyntaxError, LookupError):
        raise ValueError("not XML") from None

    def local(name: str) -> str:
        return name.split("}")[-1]

    many = set[tuple[str, ...]]()
    stack: list[tuple[Any, tuple[str, ...]]] = [(root, (local(root.tag),))]
    while stack:
        element, at = stack.pop()
        below = [(child, (*at, local(child.tag))) for child in element]
        many.update(place for _, place in below if [other for _, other in below].count(place) > 1)
        stack += below

    def value(element: Any, at: tuple[str, ...]) -> Any:
        below = [(child, (*at, local(child.tag))) for child in element]
        if (*at, "*") == tuple(path):
            return [value(*inner) for inner in below]
        if not below and not element.attrib and at != tuple(path[:-1]):
            return element.text
        shown: dict[str, Any] = {f"_{local(name)}": text for name, text in element.attrib.items()}
        if text := "".join([element.text or "", *(child.tail or "" for child, _ in below)]).strip():
            shown["_text"] = text
        for child, place in below:
            if place in many or place == tuple(path):
                shown.setdefault(place[-1], []).append(value(child, place))
            else:
                shown[place[-1]] = value(child, place)
        return {path[-1]: [], **shown} if at == tuple(path[:-1]) else shown

    return {local(root.tag): value(root, (local(root.tag),))}


def without_nul(value: Any) -> Any:
    """Returns a value whose texts and names have U+FFFD in place of the character NUL."""
    if isinstance(value, str):
        return value.replace("\0", "\ufffd")
    if isinstance(value, list):
        return [without_nul(inner) for inner in value]
    return {without_nul(k): without_nul(v) for k, v in value.items()} if isinstance(value, dict) else value


def pack(value: Any) -> str:
    """Returns a value as text for `unpack`; equal values give equal texts."""
    return _ENCODER.encode(value)


def unpack(text: str) -> Any:
    """Returns the value of a text from `pack`."""
    return json.loads(text, object_hook=lambda found: Decimal(found[_NUMBER]) if _NUMBER in found else found)


def _tagged(value: Any) -> Any:
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() and abs(value) < 10**18 else {_NUMBER: shortest(value)}
    return str(value)


_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), default=_tagged)


def shortest(number: Decimal) -> str:
    """Returns a number as text, the same for 1.5 and 1.50, and short however large its exponent."""
    sign, digits, exponent = number.as_tuple()
    text = "".join(map(str, digits)).lstrip("0") or "0"
    kept = text.rstrip("0") or "0"
    return f"{'-' * (sign and text != '0')}{kept}E{int(exponent) + len(text) - len(kept) if text != '0' else 0}"


def look_up(path: str, document: Any) -> Any:
    """Returns the first value at a JSONPath; `MISSING` if there is none."""
    if path in ("", "$"):
        return document
    if isinstance(document, Mapping) and path in document:
        return document[path]
    if re.fullmatch(r"[\w@$-]+(\.[\w@$-]+)*", path) and not path.startswith("$"):
        for key in path.split("."):
            if not isinstance(document, Mapping) or key not in document:
                return MISSING
            document = document[key]
        return document
    try:
        found = jsonpath.find_values(path, document)
    except Exception:  # a path that the library cannot parse matches nothing
        return MISSING
    return found[0] if found else MISSING


def kind_of(value: Any) -> str:
    """Returns the word of `empty_as` for something in place of a list; empty if there is none."""
    return "missing" if value is MISSING else "null" if value is None else "object" if value == {} else ""


def select(path: str, document: Any, none: Collection[str] = ()) -> Any:
    """Returns the value at a data selector: one list, or the matches of a path with a wildcard.

    If anything else than a list stands where `[*]` needs one, that is the value (False for an object), unless it means no rows.

    Args:
        path: The selector.
        document: The body.
        none: What means no rows, in the words of `empty_as`.
    """
    if "[*]" in path and re.fullmatch(r"\$?\.?[\w@-]+(\[\*\]|\.[\w@-]+)*", path):
        values = [document]
        for step in re.findall(r"[\w@-]+|\[\*\]", path):
            if step != "[*]":
                values = [value.get(step, MISSING) if isinstance(value, Mapping) else MISSING for value in values]
            elif not isinstance(values := _items(values, none), list):
                return values
        return _items(values, none) if any(isinstance(value, list) for value in values) else values
    if re.search(r"\*|\?|\.\.", path):
        matches = jsonpath.find_values(path, document)
        return matches[0] if len(matches) == 1 and isinstance(matches[0], list) else matches
    return look_up(path, document)


def _items(values: Sequence[Any], none: Collection[str]) -> Any:
    """Returns the items of lists; what else stands in place of one, unless it means no rows, and False for an object."""
    lists = [value for value in values if kind_of(value) not in none]
    if others := [value for value in lists if not isinstance(value, list)]:
        return others[0] if kind_of(others[0]) else False
    return [item for value in lists for item in value]


def without_texts(value: Any, texts: Collection[str]) -> Any:
    """Returns a value with null in place of each of these texts."""
    if not texts:
        return value
    if isinstance(value, Mapping):
        return {key: without_texts(inner, texts) for key, inner in value.items()}
    if isinstance(value, list):
        return [without_texts(inner, texts) for inner in value]
    return None if isinstance(value, str) and value in texts else value


def lists_of_objects(document: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], list[Any]]]:
    """Yields each list that could be the rows, with its path; lists within lists are ignored."""
    if isinstance(document, list):
        if all(isinstance(item, Mapping) for item in document) and not (path and path[-1] in _BESIDE):
            yield path, document
    elif isinstance(document, Mapping):
        for key, value in document.items():
            yield from lists_of_objects(value, (*path, str(key)))


def put(document: Any, path: str, value: Any) -> Any:
    """Returns a copy of a request body with a value set at a dotted path."""
    copy = dict(document or {})
    first, _, rest = path.removeprefix("$.").partition(".")
    copy[first] = put(copy.get(first), rest, value) if rest else value
    return copy

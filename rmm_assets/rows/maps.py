"""Turns a map of rows in a body into a list of rows, each with its key in a field."""

from __future__ import annotations

from typing import Any

from rmm_assets.errors import BodyError
from rmm_assets.rows.json_text import json_text, loads
from rmm_assets.rows.selector import keys_of, place_of


def map_as_list(body: bytes, selector: str, key: str) -> bytes:
    """Returns a body in which the map at the selector is a list of its values, each with its own key in the field `key`.

    A body that is not JSON or has no object there is returned as it is.

    Raises:
        BodyError: The map repeats a key, a value is not an object, or a row already has the field with another value.
    """
    repeated = list[dict[str, Any]]()

    def pairs(found: list[tuple[str, Any]]) -> dict[str, Any]:
        value = dict(found)
        if len(value) < len(found):
            repeated.append(value)
        return value

    try:
        document = loads(body.decode("utf-8-sig"), pairs)
    except (ValueError, RecursionError):
        return body
    above, value = {"": document}, document
    last = ""
    for last in keys_of(selector) or ():
        if not isinstance(value, dict) or last not in value:
            return body
        above, value = value, value[last]
    if not isinstance(value, dict):
        return body
    if any(value is other for other in repeated):
        raise BodyError("not_rows", f"{place_of(selector)} contains a key twice")
    above[last] = [_row(selector, key, name, row) for name, row in value.items()]
    return json_text(document if last else above[""]).encode()


def _row(selector: str, key: str, name: str, row: Any) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise BodyError(
            "not_rows", f"{place_of(selector)} contains values that are not objects, so it is not a map of rows"
        )
    if row.get(key, name) != name:
        raise BodyError("not_rows", f"the rows already have a field `{key}` with another value; write another map_key")
    return {key: name, **row}

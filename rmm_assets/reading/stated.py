"""Reads the totals and end marks that the connection file names, and recognizes repeated pages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dlt.common.utils import str2bool

from rmm_assets.errors import PagingError
from rmm_assets.reading.absent import ABSENT
from rmm_assets.reading.answers import Answer
from rmm_assets.reading.endpoint import Endpoint
from rmm_assets.reading.facts import PassFacts
from rmm_assets.reading.paginators import ByReference, Paginator
from rmm_assets.reading.signals import Kind, Signals, number_of
from rmm_assets.rows.keys import NO_KEY, row_keys, same_rows
from rmm_assets.rows.page import Page
from rmm_assets.rows.shape import RowShape


def stated_total(answer: Answer, path: str | None, header: str | None = None) -> Any:
    """Returns the number at the configured place; None for null or a negative number, `ABSENT` if it is missing.

    Raises:
        PagingError: The value is not a number.
    """
    value = ABSENT if header is None else answer.reply.headers.get(header, ABSENT)
    if value is ABSENT and path:
        value = answer.beside_rows(path)
    if isinstance(value, Mapping) and "value" in value:  # as Elasticsearch writes it
        value = value["value"]
    if value is ABSENT or value is None:
        return value
    number = number_of(value)
    if number is None:
        raise PagingError(
            f"`{header or path}` should be a total, but its value (type {type(value).__name__}) is not a number; "
            "write where the total is, or null if the API states none"
        )
    return number if number >= 0 else None


def total_of(endpoint: Endpoint, answer: Answer) -> Any:
    """Returns the total number of rows at the endpoint's configured place; None for null, `ABSENT` if it is missing."""
    if endpoint.total_path is None and endpoint.total_header is None:
        return ABSENT
    total = stated_total(answer, endpoint.total_path, endpoint.total_header)
    if total is not ABSENT:
        endpoint.learned.found.add("total_path")
    return total


def more_mark(answer: Answer, paginator: Paginator) -> Any:
    """Returns whether the API says that more follows: True, False, None for null, `ABSENT` if it says nothing.

    Raises:
        PagingError: The value is neither a boolean nor a number.
    """
    value = answer.beside_rows(paginator.more_path) if paginator.more_path else ABSENT
    try:
        if isinstance(value, str):
            value = str2bool(value) if value else None
    except ValueError:
        value = [value]
    if isinstance(value, (list, dict)):
        raise PagingError(
            f"`{paginator.more_path}` should say whether more pages follow, but its value is not a boolean"
        )
    turned = paginator.more_key == "last_path"
    if value is ABSENT or value is None:
        return ABSENT if turned else value
    return bool(value) is not turned


def repeats(page: Page, other: Page, shape: RowShape) -> bool:
    """Returns whether a page has the same rows as another, in the same order."""
    if not page.rows or not same_rows(page, other, shape):
        return False
    # Rows without a key all have the same `NO_KEY`.
    return bool((row_keys(page, shape) != NO_KEY).all()) or page.objects() == other.objects()


# Kinds of signals similar to what each key of the connection file names; all other keys name a next page.
_ALIKE = {
    "total_path": (Kind.TOTAL, Kind.COUNT, Kind.PAGES),
    "total_header": (Kind.TOTAL, Kind.COUNT, Kind.PAGES),
    "has_more_path": (Kind.MORE, Kind.LAST),
    "last_path": (Kind.MORE, Kind.LAST),
}


def found_nowhere(key: str, path: str, signals: Signals) -> str:
    """Returns the message for a key of the connection file whose place is in no response, with similar names."""
    kinds = _ALIKE.get(key, (Kind.NEXT, Kind.NEXT_TOKEN, Kind.CURSOR))
    alike = [f"`{name}`" for name in signals.look_alikes(*kinds)][:3]
    also = f"; {' and '.join(alike)} {'was' if len(alike) == 1 else 'were'}" if alike else ""
    return f"{key} `{path}` was not found in any response{also}"


def reference_not_found(endpoint: Endpoint, signals: Signals) -> str:
    """Returns ": " and the message for a reference to the next page that was in no response; empty if it was in one."""
    paginator = endpoint.paginator
    if not isinstance(paginator, ByReference) or not paginator.place or "paginator" in endpoint.learned.found:
        return ""
    return f": {found_nowhere(paginator.place_key, paginator.place, signals)}"


def never_found(endpoint: Endpoint, signals: Signals) -> dict[str, str]:
    """Returns a message for each key that the connection file sets and that was in no response of the run so far."""
    paginator, found = endpoint.paginator, endpoint.learned.found
    written = "total_header" if endpoint.total_header else "total_path"
    keys = [
        (written, "total_path", endpoint.total_header or endpoint.total_path),
        (paginator.more_key, "paginator.has_more_path", paginator.more_path),
    ]
    if "total_path" in paginator.model_fields_set:
        # A default is not checked, because the file does not set it.
        keys.append(("total_path", "paginator.total_path", getattr(paginator, "total_path", None)))
    return {key: found_nowhere(name, path, signals) for name, key, path in keys if path and key not in found}


def refuse_never_found(endpoint: Endpoint, facts: PassFacts, signals: Signals) -> None:
    """Refuses an end after a page that may be full if a configured key that might contradict it was never found.

    Raises:
        PagingError: There is such a key.
    """
    if facts.full_page and not facts.trusted and (missing := [*never_found(endpoint, signals).values()]):
        raise PagingError(
            f"{endpoint.name}: the last page may be full ({facts.full_page} rows), and {missing[0]}. Rows may be missing: "
            "correct the key, or remove it if the API has nothing like it"
        )

"""Reads what the connection file says an answer states: totals, end marks, and whether a page repeats another one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dlt.common.utils import str2bool

from rmm_assets.errors import PagingError
from rmm_assets.reading.absent import ABSENT
from rmm_assets.reading.answers import Answer
from rmm_assets.reading.endpoint import Endpoint
from rmm_assets.reading.facts import PassFacts
from rmm_assets.reading.signals import Kind, Signals, number_of
from rmm_assets.rows.keys import NO_KEY, row_keys, same_rows
from rmm_assets.rows.page import Page
from rmm_assets.rows.shape import RowShape


def stated_total(answer: Answer, path: str | None, header: str | None = None) -> Any:
    """Returns the number that stands where the connection file says; None for null or less than 0, else `ABSENT`.

    Raises:
        PagingError: what stands there is not a number.
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
            f"`{header or path}` should state a total and holds {type(value).__name__} that is not a number"
        )
    return number if number >= 0 else None


def total_of(endpoint: Endpoint, answer: Answer) -> Any:
    """Returns the number of rows that an answer states where the endpoint says; None for null, else `ABSENT`."""
    if endpoint.total_path is None and endpoint.total_header is None:
        return ABSENT
    total = stated_total(answer, endpoint.total_path, endpoint.total_header)
    if total is not ABSENT:
        endpoint.learned.found.add("total_path")
    return total


def more_mark(answer: Answer, path: str | None) -> Any:
    """Returns the API's word on whether more follows: True, False, None for null, `ABSENT` where it says nothing."""
    value = answer.beside_rows(path) if path else ABSENT
    if isinstance(value, str):
        return str2bool(value) if value else None
    return value if value is ABSENT or value is None else bool(value)


def repeats(page: Page, other: Page, shape: RowShape) -> bool:
    """Whether the page holds the other one's rows, in the same order."""
    if not page.rows or not same_rows(page, other, shape):
        return False
    # Rows without a key are all alike to their keys.
    return bool((row_keys(page, shape) != NO_KEY).all()) or page.objects() == other.objects()


# Which signals look like what a key of the connection file should have found; the others name a next page.
_ALIKE = {
    "total_path": (Kind.TOTAL, Kind.COUNT, Kind.PAGES),
    "total_header": (Kind.TOTAL, Kind.COUNT, Kind.PAGES),
    "has_more_path": (Kind.MORE, Kind.LAST),
}


def stands_nowhere(key: str, path: str, signals: Signals) -> str:
    """Says that a key of the connection file names a place where no answer holds anything, and what looks like it."""
    kinds = _ALIKE.get(key, (Kind.NEXT, Kind.NEXT_TOKEN, Kind.CURSOR))
    alike = [f"`{name}`" for name in signals.look_alikes(*kinds)][:3]
    also = f"; {' and '.join(alike)} {'does' if len(alike) == 1 else 'do'}" if alike else ""
    return f"{key} `{path}` stands in no answer{also}"


def never_found(endpoint: Endpoint, signals: Signals) -> list[str]:
    """Names the keys that the connection file sets and at whose place nothing stood in any answer of the run."""
    paginator, found = endpoint.paginator, endpoint.learned.found
    written = "total_header" if endpoint.total_header else "total_path"
    keys = [
        (written, "total_path", endpoint.total_header or endpoint.total_path),
        ("has_more_path", "paginator.has_more_path", paginator.more_path),
    ]
    if "total_path" in paginator.model_fields_set:
        # The default is nobody's word.
        keys.append(("total_path", "paginator.total_path", getattr(paginator, "total_path", None)))
    return [stands_nowhere(name, path, signals) for name, key, path in keys if path and key not in found]


def refuse_never_found(endpoint: Endpoint, facts: PassFacts, signals: Signals) -> None:
    """Refuses an end behind a page that may be full, where a key that might say otherwise was never found.

    Raises:
        PagingError: there is such a key.
    """
    if facts.full_page and not facts.trusted and (missing := never_found(endpoint, signals)):
        raise PagingError(
            f"{endpoint.name}: the last page may be full ({facts.full_page} rows), and {missing[0]}. Rows may be missing: "
            "correct the key, or take it out if the API states nothing of the kind"
        )

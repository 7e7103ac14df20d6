"""Proposes a data selector and a paginator from one response, each with the reason for it.

A proposal is for a person to accept or change: what a response says about its pages may be wrong or incomplete.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, urlsplit

from rmm_assets.http.transport import Reply
from rmm_assets.reading.answers import Answer
from rmm_assets.reading.endpoint import Endpoint
from rmm_assets.reading.paginators import SinglePagePaginator
from rmm_assets.reading.selector import selector_of
from rmm_assets.reading.signals import PAGE_SIZES, Kind, Signal, signals_of
from rmm_assets.rows.decode import read_page


class Proposal(NamedTuple):
    """A value of a connection file, and the reason for it."""

    value: Any
    reason: str


class Proposals(NamedTuple):
    """What one response suggests to write under `endpoint`.

    Attributes:
        selector: Where the rows are.
        paginator: How to get the next page.
        total: Where the total number of rows is, as a key of the connection file and its value; None if nowhere.
        key: The field that looks like the primary key; None if none does.
        rows: Number of rows.
    """

    selector: Proposal
    paginator: Proposal
    total: tuple[str, str] | None
    key: str | None
    rows: int


def propose(reply: Reply) -> Proposals:
    """Returns what a response to a request for a list of rows suggests.

    Raises:
        BodyError: There is no list of rows in it.
    """
    endpoint = Endpoint(name="the list", path="", paginator=SinglePagePaginator())
    selector = selector_of(endpoint, reply.body)
    page = read_page(reply.body, selector)
    reason = "the body is a list" if selector == "$" else "the only list of objects in the body"
    signals = list(signals_of(Answer(reply, page), selector))
    return Proposals(
        selector=Proposal(selector, reason),
        paginator=_paginator(reply, signals, selector, page.rows),
        total=_total(reply, signals),
        key=_key(page.objects()),
        rows=page.rows,
    )


def _paginator(reply: Reply, signals: Sequence[Signal], selector: str, rows: int) -> Proposal:
    found: dict[Kind, Signal] = {}
    for signal in signals:
        found.setdefault(signal.kind, signal)
    asked = dict(parse_qsl(urlsplit(reply.url).query, keep_blank_values=True))
    if (following := found.get(Kind.NEXT)) is not None:
        if following.name == "Link rel=next":
            return Proposal({"type": "header_link"}, "the header `Link` names the next page")
        if following.name in reply.headers:
            return Proposal(
                {"type": "header_cursor", "cursor_key": following.name},
                f"the header `{following.name}` names the next page",
            )
        if isinstance(following.value, str) and following.value.startswith(("http", "/", "?")):
            return Proposal(
                {"type": "json_link", "next_url_path": following.name}, f"`{following.name}` is the next page's address"
            )
    if (pages := found.get(Kind.PAGES)) is not None and pages.name not in reply.headers:
        base, why = _base(found.get(Kind.PAGE), asked)
        return Proposal(
            {"type": "page_number", "base_page": base, "total_path": pages.name}, f"`{pages.name}` counts pages, {why}"
        )
    token = found.get(Kind.NEXT_TOKEN) or found.get(Kind.CURSOR)
    if token is not None:
        return Proposal(
            {"type": "cursor", "cursor_path": token.name, "cursor_param": _parameter(token.name)},
            f"`{token.name}` is a token of the next page; its parameter is a guess from the name",
        )
    if (last := found.get(Kind.MORE)) is not None:
        place = "[-1].id" if selector == "$" else f"{selector}[-1].id"
        return Proposal(
            {"type": "cursor", "cursor_path": place, "cursor_param": "starting_after", "has_more_path": last.name},
            f"`{last.name}` says whether more follows, without naming it, as with the last row's id; the parameter is a guess",
        )
    total = found.get(Kind.TOTAL)
    beside = None if total is None or total.name in reply.headers else total.name
    if "offset" in asked or (total is not None and "page" not in asked):
        size = int(asked["limit"]) if asked.get("limit", "").isdigit() else rows or 100
        said = f"`{total.name}` counts rows" if total is not None else "the address has an offset"
        return Proposal({"type": "offset", "limit": size, "total_path": beside}, f"{said}; the parameters are a guess")
    if "page" in asked or rows in PAGE_SIZES:
        base, why = _base(found.get(Kind.PAGE), asked)
        said = "the address has a page number" if "page" in asked else f"{rows} rows are a usual page size"
        return Proposal({"type": "page_number", "base_page": base, "total_path": None}, f"{said}; {why}")
    return Proposal({"type": "single_page"}, f"nothing in the response says that there are more than these {rows} rows")


def _base(page: Signal | None, asked: Mapping[str, str]) -> tuple[int, str]:
    """Returns the number of the first page, and why: a response without a page in its address is the first page."""
    if page is not None and "page" not in asked and page.value in (0, 1):
        return int(page.value), f"and `{page.name}` of the first page is {page.value}"
    return 1, "which are usually numbered from 1"


def _parameter(name: str) -> str:
    """Returns the usual query parameter of a token with that name."""
    word = re.split(r"[.\s]", name)[-1]
    if re.sub(r"[^a-z]", "", word.lower()) == "endcursor":
        return "after"
    plain = re.sub(r"^next[_-]?", "", word, flags=re.IGNORECASE)
    return plain[:1].lower() + plain[1:] if plain else "cursor"


def _total(reply: Reply, signals: Sequence[Signal]) -> tuple[str, str] | None:
    total = next((signal for signal in signals if signal.kind is Kind.TOTAL), None)
    if total is None:
        return None
    if total.name in reply.headers:
        return "total_header", total.name
    return ("total_path", total.name) if total.name != "Content-Range" else None


def _key(rows: Sequence[Any]) -> str | None:
    """Returns the first field with a name like an id that no two rows share and no row lacks."""
    objects = [row for row in rows if isinstance(row, dict)]
    if not objects or len(objects) != len(rows):
        return None
    names = [name for name in objects[0] if re.search(r"(^|_|[a-z])(u?u?id|guid|key)$", name, re.IGNORECASE)]
    for name in sorted(names, key=lambda name: (name.lower() != "id", len(name))):
        values = [row.get(name) for row in objects]
        if all(isinstance(value, (str, int)) for value in values) and len(set(values)) == len(values):
            return str(name)
    return None

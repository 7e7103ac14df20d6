"""Asks the API for rows in another way than the connection file says, which may contradict the end of a read but never ends one."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from rmm_assets.errors import PagingError, TransportError
from rmm_assets.http.request import Request
from rmm_assets.reading.endpoint import Endpoint
from rmm_assets.reading.facts import PassFacts
from rmm_assets.reading.fetch import Pager
from rmm_assets.reading.paginators import (
    SIZE_NAMES,
    ByPosition,
    CursorPaginator,
    OffsetPaginator,
    SinglePagePaginator,
)
from rmm_assets.reading.signals import PAGE_SIZES, Signals
from rmm_assets.rows.keys import NO_KEY, row_keys, same_rows
from rmm_assets.rows.page import Page

# Usual names of the position of a page, in addition to the paginator's own.
_PLACE_NAMES = frozenset(
    ("page", "page[number]", "page[offset]", "_page", "offset", "$offset", "_start", "skip", "$skip")
)
# A run asks this many times per number of rows received: once the API has shown how it pages, other parents need no proof.
_MOST = 5


def refuse_other_base(pager: Pager, endpoint: Endpoint, facts: PassFacts, signals: Signals, rows: int) -> None:
    """Requests the page before the first one, once per run, unless a stated total shows that the first one was read.

    An offset of 1 is tried, too: most APIs count rows from 0.

    Args:
        rows: Number of distinct rows received.

    Raises:
        PagingError: That page has rows that were not received.
    """
    paginator, learned = endpoint.paginator, endpoint.learned
    if not isinstance(paginator, ByPosition) or learned.first_page_checked:
        return
    base = 1 if paginator.counts_rows else paginator.base
    if not paginator.start == base > 0 or (rows and signals.confirms(rows, None)):
        return
    before = base - 1
    label = f"{endpoint.name} {paginator.parameter} {before}, which should not exist"
    found = pager.look(endpoint, replace(paginator.at(endpoint.request(), before), label=label))
    learned.first_page_checked = True
    if found is None or not found.page.rows:
        return
    first_keys = [] if facts.first_page is None else row_keys(facts.first_page, endpoint.shape).tolist()
    if paginator.counts_rows:
        if not first_keys or first_keys[0] in row_keys(found.page, endpoint.shape).tolist()[1:]:
            raise PagingError(
                f"{endpoint.name}: the API has a row before {paginator.parameter}={base}, where the read began: it counts rows "
                f"from {before}; set offset: {before}"
            )
        return
    keys, first = set(row_keys(found.page, endpoint.shape).tolist()), set(first_keys)
    # It may be the first page, too, or everything.
    if first and first <= keys and len(keys) <= rows:
        return
    advice = f"numbers pages from {before}; set base_page: {before}"
    if len(first & keys - {NO_KEY}) > len(first) // 2:
        advice = "counts rows, not pages; write the paginator offset"
    raise PagingError(
        f"{endpoint.name}: page {before} has other rows than page {paginator.base}, where the read began: the API {advice}"
    )


def refuse_unsorted(pager: Pager, endpoint: Endpoint, facts: PassFacts) -> None:
    """Tries a cursor that is a value of a row: what follows a row on its page must follow its value, too.

    If the API filters by the value but sorts by another one, rows are skipped without any sign. A row with a greater value than
    a later one shows it if the filter lets greater values through, and the other way round. If the rows are in order, the last of
    them must follow the value before: an API that counts pages or rows by it sends others. Once per run for a page whose rows are
    in order, and for one whose are not.

    Raises:
        PagingError: The rows after one of them do not follow its value.
    """
    paginator, keyset, learned = endpoint.paginator, facts.keyset, endpoint.learned
    if keyset is None or not isinstance(paginator, CursorPaginator) or keyset.in_order in learned.orders_tried:
        return
    values, keys = keyset.values, row_keys(keyset.page, endpoint.shape).tolist()
    if NO_KEY in keys:
        return
    for before in (operator.gt, operator.lt):
        if keyset.in_order:
            index = max((index for index, value in enumerate(values) if value != values[-1]), default=0)
        else:
            index = _row_before_others(values, before)
        start = values[index]
        behind = {key for key, value in zip(keys[index:], values[index:], strict=True) if before(start, value)}
        if not behind:
            continue
        learned.orders_tried.add(keyset.in_order)
        request = paginator.to(keyset.asked, start)
        if behind & _keys_of(pager, endpoint, request, "a page that starts earlier", behind):
            continue
        # They may have been deleted in the meantime.
        if behind & _keys_of(pager, endpoint, keyset.asked, "read again", set()):
            raise PagingError(
                f"{endpoint.name}: the next page is requested by `{paginator.cursor_path}`, but the rows after {start!r} on a "
                "page do not follow that value: the API does not sort by it, so rows are skipped, or means something else by "
                "the parameter. Add the parameter that makes it do so, and check cursor_param"
            )


def _row_before_others(values: list[Any], before: Callable[[Any, Any], bool]) -> int:
    """Returns the index of the outermost value that has a later one behind it, as near to the end as possible; 0 if none has."""
    found = outermost = 0
    for index, value in enumerate(values):
        if before(values[outermost], value):
            found = outermost
        else:
            outermost = index
    return found


def _keys_of(pager: Pager, endpoint: Endpoint, request: Request, how: str, failed: set[Any]) -> set[Any]:
    """Returns the keys of the rows in a response; `failed` if there is none."""
    try:
        found = pager.look(endpoint, replace(request, label=f"{endpoint.name}, {how}"), patient=False)
    except TransportError:
        found = None
    return failed if found is None else set(row_keys(found.page, endpoint.shape).tolist())


def rows_elsewhere(pager: Pager, endpoint: Endpoint, facts: PassFacts, signals: Signals, rows: int) -> str:
    """Asks for rows in another way if a read ends with none, or with a single page that may be full.

    Without rows, the API is asked without parameters of paging, which it may have read as a filter. After a single page of as
    many rows as pages usually have, it is asked for the next one.

    Args:
        rows: Number of rows received.

    Returns:
        A sentence that contradicts the end, if the API has other rows; else an empty string.
    """
    learned = endpoint.learned
    if rows:
        learned.probes[0] = _MOST
    asked, single = endpoint.request(), isinstance(endpoint.paginator, SinglePagePaginator)
    confirmed = bool(rows) and signals.confirms(rows, None)
    full = single and bool(rows) and rows in endpoint.paginator.stated_sizes(asked)
    if full and not confirmed:
        return (
            f"the only page has {rows} rows, as many as were requested: there may be more. Write the paginator that the API "
            "documents instead of single_page, or request more rows than there are"
        )
    # Of a single page, a number that confirms it may be the size of a page.
    if learned.probes[rows] >= _MOST or (confirmed and not single):
        return ""
    if not rows:
        plain = replace(asked, params=_unpaged(asked.params), json=_unpaged(asked.json))
        if not isinstance(endpoint.paginator, ByPosition) and plain == asked:
            return ""
        if _rows_of(pager, endpoint, plain, "without parameters of paging") is not None:
            return (
                "the first page is empty, but without parameters of paging the API sends rows: it reads them as something "
                "else. Check the paginator's parameter names and the page size"
            )
    elif single and (full or rows in PAGE_SIZES):
        for name, value in (("offset", rows), ("page", 2)):
            if _has_others(pager, endpoint, replace(asked, params={**asked.params, name: value}), facts.first_page):
                return (
                    f"the only page has {rows} rows, and the API sends other rows for {name}={value}: it sends pages. Write "
                    "the paginator that the API documents instead of single_page"
                )
    learned.probes[rows] += 1
    return ""


def rows_between(pager: Pager, endpoint: Endpoint, facts: PassFacts, signals: Signals, rows: int) -> str:
    """Asks for rows near the first one if a read by offset ends and no page has shown that the API counts rows.

    An API that reads an offset as a page number has other rows there, and one that reads a limit as the last row has one more row.
    Once per run.

    Args:
        rows: Number of rows received.

    Returns:
        A sentence that contradicts the end, if the API has rows there that it should not; else an empty string.
    """
    paginator, learned, first = endpoint.paginator, endpoint.learned, facts.first_page
    if not isinstance(paginator, OffsetPaginator) or learned.offsets_count_rows or first is None:
        return ""
    if (first.rows != paginator.limit and first.rows not in PAGE_SIZES) or signals.confirms(rows, None):
        return ""
    received = row_keys(first, endpoint.shape).tolist()
    if NO_KEY in received or not _is_steady(pager, endpoint, paginator.at(endpoint.request(), paginator.start), first):
        return ""
    # Pages are counted from 1 or from 0, and a larger one may be refused.
    for more, skipped in ((1, 2), (1, 1), (0, 2), (0, 1)):
        asked = paginator.model_copy(update={"limit": paginator.limit + more}).at(
            endpoint.request(), paginator.start + skipped
        )
        page = _rows_of(pager, endpoint, asked, "rows that should be known")
        found = [] if page is None else row_keys(page, endpoint.shape).tolist()
        if found and skipped < first.rows and not set(found) & set(received):
            return (
                f"{paginator.parameter}={paginator.start + skipped} has none of the {first.rows} rows of the first page: the API "
                "does not count rows but pages; write the paginator page_number"
            )
        if more and set(found) - set(received) and not facts.turns:
            return (
                f"the API has more rows than the {rows} received for a slightly larger offset and limit: it may read "
                "the limit as the last row, or send fewer rows than there are"
            )
        if found[:1] == received[skipped : skipped + 1]:
            break
    learned.offsets_count_rows = True
    return ""


def _is_steady(pager: Pager, endpoint: Endpoint, request: Request, first: Page) -> bool:
    """Returns whether rows can be recognized: by a primary key, or because they are the same when they are requested again."""
    if endpoint.shape.primary_key:
        return True
    again = _rows_of(pager, endpoint, request, "read again")
    return again is not None and same_rows(again, first, endpoint.shape)


def _unpaged(params: Any) -> Any:
    """Returns parameters without those with a usual name of a page's size or position and a number."""
    if not isinstance(params, Mapping):
        return params
    names = SIZE_NAMES | _PLACE_NAMES
    return {name: value for name, value in params.items() if str(name).lower() not in names or not str(value).isdigit()}


def _rows_of(pager: Pager, endpoint: Endpoint, request: Request, how: str) -> Page | None:
    """Returns the rows of a response; None if there are none or the request fails, which says nothing about rows."""
    try:
        found = pager.look(endpoint, replace(request, label=f"{endpoint.name}, {how}"), patient=False)
    except TransportError:
        return None
    return found.page if found is not None and found.page.selected_type == "list" and found.page.rows else None


def _has_others(pager: Pager, endpoint: Endpoint, request: Request, first: Page | None) -> bool:
    """Returns whether the API answers with rows of which none is on the first page."""
    if first is None:
        return False
    page = _rows_of(pager, endpoint, request, "a page that should not exist")
    others = set() if page is None else set(row_keys(page, endpoint.shape).tolist())
    if not others or NO_KEY in others or others & set(row_keys(first, endpoint.shape).tolist()):
        return False
    return _is_steady(pager, endpoint, endpoint.request(), first)

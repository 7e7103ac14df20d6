"""Checks whether there is a page before the first one read, as APIs number pages from 0 or from 1."""

from __future__ import annotations

from dataclasses import replace

from rmm_assets.errors import PagingError
from rmm_assets.reading.endpoint import Endpoint
from rmm_assets.reading.facts import PassFacts
from rmm_assets.reading.fetch import Pager
from rmm_assets.reading.paginators import ByPosition
from rmm_assets.reading.signals import Signals
from rmm_assets.rows.keys import row_keys
from rmm_assets.rows.page import Page
from rmm_assets.rows.shape import RowShape


def refuse_other_base(pager: Pager, endpoint: Endpoint, facts: PassFacts, signals: Signals, rows: int) -> None:
    """Requests the page before the first one, once per run, unless a stated total shows that the first one was read.

    Raises:
        PagingError: That page has rows that the first one does not.
    """
    paginator, learned = endpoint.paginator, endpoint.learned
    if not isinstance(paginator, ByPosition) or paginator.counts_rows or learned.first_page_checked:
        return
    if not paginator.start == paginator.base > 0 or (rows and signals.confirms(rows, None)):
        return
    before = paginator.base - 1
    label = f"{endpoint.name} page {before}, which should not exist"
    found = pager.look(endpoint, replace(paginator.at(endpoint.request(), before), label=label))
    learned.first_page_checked = True
    if found is not None and found.page.rows and not _holds(found.page, facts.first_page, endpoint.shape):
        raise PagingError(
            f"{endpoint.name}: page {before} has other rows than page {paginator.base}, where the read began: the API "
            f"numbers pages from {before}; set base_page: {before}"
        )


def _holds(page: Page, other: Page | None, shape: RowShape) -> bool:
    """Returns whether a page contains the rows of another, as if the API reads page 0 as page 1 or as everything."""
    return other is not None and set(row_keys(other, shape).tolist()) <= set(row_keys(page, shape).tolist())

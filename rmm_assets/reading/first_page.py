"""Looks whether a page lies before the one that a read began with: page numbers count from 0 at some APIs, from 1 at others."""

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
    """Asks once a run for the page before the first one, where no number of rows shows that the first one is here.

    Raises:
        PagingError: that page holds rows that the first one does not.
    """
    paginator, learned = endpoint.paginator, endpoint.learned
    if not isinstance(paginator, ByPosition) or paginator.counts_rows or learned.first_page_checked:
        return
    if not paginator.start == paginator.base > 0 or (rows and signals.confirms(rows, None)):
        return
    before = paginator.base - 1
    label = f"{endpoint.name} page {before}, which should not be there"
    found = pager.look(endpoint, replace(paginator.at(endpoint.request(), before), label=label))
    learned.first_page_checked = True
    if found is not None and found.page.rows and not _holds(found.page, facts.first_page, endpoint.shape):
        raise PagingError(
            f"{endpoint.name}: page {before} holds other rows than page {paginator.base}, where the read began: the API "
            f"counts pages from {before}; set base_page: {before}"
        )


def _holds(page: Page, other: Page | None, shape: RowShape) -> bool:
    """Whether a page holds the rows of another one, as where the API takes page 0 for page 1, or for everything."""
    return other is not None and set(row_keys(other, shape).tolist()) <= set(row_keys(page, shape).tolist())

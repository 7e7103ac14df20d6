"""Describes what to read: an endpoint in dlt's terms with defaults merged and placeholders filled in."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

from rmm_assets.http.request import Request
from rmm_assets.reading.paginators import Paginator
from rmm_assets.reading.settings import Count, EmptyAs
from rmm_assets.rows.shape import RowShape
from rmm_assets.rows.type_memory import TypeMemory

# APIs that limit the rows of a whole read do so at multiples of this number.
_ROUND = 500


@dataclass
class Learned:
    """What a run's responses have shown about an endpoint; shared by the requests for all parents.

    Attributes:
        selector: Where the rows are, if the connection file does not say.
        found: Configured keys whose place has had a value in at least one response.
        missed: Messages about configured keys whose place had no value in the responses of a read.
        total_counts_all: Whether the stated total is known to count all rows rather than those of a page.
        offsets_count_rows: Whether an offset is known to skip as many rows.
        first_page_checked: Whether a page before the first one has been looked for.
        orders_tried: Whether cursors that are values of rows have been tried, with a page in their order (True), and not (False).
        nul_replaced: Whether a response had the character NUL, which was replaced.
        probes: By number of rows received, how often the API was asked for rows in another way.
    """

    selector: str | None = None
    found: set[str] = field(default_factory=set)
    missed: dict[str, str] = field(default_factory=dict)
    total_counts_all: bool = False
    offsets_count_rows: bool = False
    first_page_checked: bool = False
    orders_tried: set[bool] = field(default_factory=set)
    nul_replaced: bool = False
    probes: Counter[int] = field(default_factory=Counter)

    @property
    def outdated(self) -> set[str]:
        """Those messages whose key has had a value in another response."""
        return {text for key, text in self.missed.items() if key in self.found}


@dataclass(frozen=True)
class Endpoint:
    """One endpoint, ready to be requested.

    Attributes:
        name: The resource, for log lines and errors.
        paginator: How its pages are requested.
        data_selector: Where the rows are; if None, the first response decides.
        total_path: JSONPath of the total number of rows, if the paginator has no key for it.
        total_header: Response header that states the total.
        count: A separate request that returns the total.
        wrong_signals: Names of signals that the API gets wrong.
        empty_as: Responses that mean an empty list.
        single_object: Whether an object in place of the list is a row.
        xml_path: For bodies in XML, the names of the elements that lead to the rows; None for JSON.
        map_key: Field for the keys of a map of rows, if the rows are not a list.
        null_values: Texts in the rows that are null.
        replaces_nul: Whether the character NUL in texts is replaced, because the destination cannot store it.
        gate: Held during a request: a semaphore if the endpoint allows fewer parallel requests than the pager.
        ignore: Responses that mean no rows: dlt's `response_actions` with action `ignore`.
        refusals: Statuses of a first response that mean no rows, or none that can be seen.
        shape: Describes the endpoint's rows and their keys.
        types: The types of the endpoint's pages so far.
        learned: What the run's responses have shown.
    """

    name: str
    path: str
    paginator: Paginator
    method: str = "GET"
    params: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    json: Any = None
    data: Any = None
    data_selector: str | None = None
    total_path: str | None = None
    total_header: str | None = None
    count: Count | None = None
    wrong_signals: tuple[str, ...] = ()
    empty_as: tuple[EmptyAs, ...] = ()
    single_object: bool = False
    xml_path: tuple[str, ...] | None = None
    map_key: str | None = None
    null_values: frozenset[str] = frozenset()
    replaces_nul: bool = False
    gate: AbstractContextManager[Any] = field(default_factory=nullcontext, compare=False)
    ignore: tuple[Mapping[str, Any], ...] = ()
    refusals: tuple[int, ...] = ()
    shape: RowShape = field(default_factory=lambda: RowShape(table=""), compare=False)
    types: TypeMemory = field(default_factory=TypeMemory, compare=False)
    learned: Learned = field(default_factory=Learned, compare=False)

    @property
    def selector(self) -> str | None:
        """Where the rows are; None if not yet known."""
        return self.data_selector or self.learned.selector

    def in_smaller_pages(self, rows: int, largest: int) -> Endpoint | None:
        """Returns the endpoint with a page size by which the last page of `rows` rows is not full.

        None if the request has no page size under one of the usual names. None, too, for so round a number of rows that the API
        may send no more of them in all, whatever the size of a page.

        Args:
            rows: Number of rows received.
            largest: Number of rows on the largest page.
        """
        size = next((size for size in range(largest - 1, 0, -1) if rows % size), None)
        place = self.paginator.size_in(self.request())
        if size is None or place is None or rows % _ROUND == 0:
            return None
        source, name = place
        if source == "json":
            return replace(self, json={**self.json, name: size})
        return replace(self, params={**self.params, name: size})

    def request(self) -> Request:
        """Returns the request without the paginator's changes."""
        return Request(self.path, self.method, self.params, self.headers, self.json, self.data)

"""Says what to read: an endpoint in dlt's words, defaults merged in, placeholders filled in."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

from rmm_assets.http.request import Request
from rmm_assets.reading.paginators import Paginator
from rmm_assets.reading.settings import Count, EmptyAs
from rmm_assets.rows.shape import RowShape
from rmm_assets.rows.type_memory import TypeMemory


@dataclass
class Learned:
    """What the answers of a run have shown of an endpoint; all parents' requests share it.

    Attributes:
        selector: Where the rows are, if the connection file leaves it out.
        found: Configured keys at whose place something stood in at least one answer.
        total_counts_all: The stated total is known to count all rows, not those of a page.
        first_page_checked: No page lies before the one that a read begins with.
    """

    selector: str | None = None
    found: set[str] = field(default_factory=set)
    total_counts_all: bool = False
    first_page_checked: bool = False


@dataclass(frozen=True)
class Endpoint:
    """One endpoint, ready to be asked.

    Attributes:
        name: The resource, for log lines and errors.
        paginator: How its pages are found.
        data_selector: Where the rows are; None leaves it to the first answer.
        total_path: JSONPath of the total number of rows, where the paginator has no word for it.
        total_header: Response header that states it.
        count: A request of its own that states it.
        wrong_signals: Signals that the API gets wrong, by their names.
        empty_as: What stands for an empty list.
        single_object: Whether an object where the list should be is a row.
        gate: Held while a request is under way: a semaphore where the endpoint bears fewer than the pager sends.
        ignore: Answers that mean "nothing here": dlt's `response_actions` with action `ignore`.
        shape: What tells the endpoint's rows apart.
        types: What the endpoint's pages have shown of their types.
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
    gate: AbstractContextManager[Any] = field(default_factory=nullcontext, compare=False)
    ignore: tuple[Mapping[str, Any], ...] = ()
    shape: RowShape = field(default_factory=lambda: RowShape(table=""), compare=False)
    types: TypeMemory = field(default_factory=TypeMemory, compare=False)
    learned: Learned = field(default_factory=Learned, compare=False)

    @property
    def selector(self) -> str | None:
        """Where the rows are, as far as it is known."""
        return self.data_selector or self.learned.selector

    def request(self) -> Request:
        """Returns the request before any paginator has had its say."""
        return Request(self.path, self.method, self.params, self.headers, self.json, self.data)

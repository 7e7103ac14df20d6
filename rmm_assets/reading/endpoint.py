"""Says what to read: an endpoint in dlt's words, defaults merged in, placeholders filled in."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

from rmm_assets.http.transport import Request
from rmm_assets.reading.paginators import Paginator
from rmm_assets.rows.decode import Hints
from rmm_assets.rows.layout import RowShape


@dataclass(frozen=True)
class Endpoint:
    """One endpoint, ready to be asked.

    Attributes:
        name: The resource, for log lines and errors.
        paginator: How its pages are found.
        data_selector: Where the rows are; None leaves it to the first page.
        total_path: JSONPath of the total number of rows, where the paginator has no word for it.
        gate: Held while a request is under way: a semaphore where the endpoint bears fewer than the pager sends.
        ignore: Answers that mean "nothing here": dlt's `response_actions` with action `ignore`.
        shape: What tells the endpoint's rows apart.
        hints: What the endpoint's pages have shown of their types.
        found_selector: The data selector that the first page has shown, once it has.
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
    gate: AbstractContextManager[Any] = field(default_factory=nullcontext, compare=False)
    ignore: tuple[Mapping[str, Any], ...] = ()
    shape: RowShape = field(default_factory=lambda: RowShape(table=""), compare=False)
    hints: Hints = field(default_factory=Hints, compare=False)
    found_selector: list[str] = field(default_factory=list, compare=False)

    def request(self) -> Request:
        """Returns the request before any paginator has had its say."""
        return Request(self.path, self.method, self.params, self.headers, self.json, self.data)

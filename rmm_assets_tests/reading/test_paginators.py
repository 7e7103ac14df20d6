"""Tests that one class is enough to add a paging style."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal
from urllib.parse import parse_qsl, urlsplit

import pytest
from pydantic import Field, ValidationError

from docs.generated import keys
from rmm_assets.config import Connection
from rmm_assets.http.request import Request
from rmm_assets.reading import paginators
from rmm_assets.reading.absent import ABSENT
from rmm_assets.reading.answers import Answer
from rmm_assets.reading.paginators import STYLES, ByPosition, ByReference, paginator_of
from rmm_assets_tests.http.servers import Say, Scripted, Seen
from rmm_assets_tests.reading.reading import endpoint_of, read

ROWS = [{"id": i, "name": f"PC-{i:04}"} for i in range(1, 58)]


@pytest.fixture
def new_styles() -> Iterator[None]:
    """Removes the styles that a test defines."""
    before = dict(STYLES)
    yield
    STYLES.clear()
    STYLES.update(before)


def connection_with(paginator: dict[str, Any], base_url: str = "http://127.0.0.1") -> Connection:
    endpoint = {"path": "devices", "data_selector": "data", "paginator": paginator}
    resource = {"name": "devices", "primary_key": "id", "write_disposition": "merge", "endpoint": endpoint}
    return Connection.model_validate({"name": "acme", "client": {"base_url": base_url}, "resources": [resource]})


@pytest.mark.usefixtures("new_styles")
def test_a_new_style_by_position_takes_one_class(tmp_path: Path) -> None:
    class RangePaginator(ByPosition):
        """Pages by a range of rows, as in `range=0-49`."""

        counts_rows = True

        type: Literal["range"] = "range"
        rows: int = Field(gt=0, description="Number of rows per page.")
        total_path: str | None = "total"
        stop_after_empty_page: bool | None = True
        has_more_path: str | None = None

        @property
        def start(self) -> int:
            return 0

        @property
        def parameter(self) -> str:
            return "range"

        def asked_rows(self, request: Request) -> int:
            return self.rows

        def at(self, request: Request, position: int) -> Request:
            return replace(request, params={**request.params, "range": f"{position}-{position + self.rows - 1}"})

    def answer(seen: Seen) -> Say:
        first, last = dict(parse_qsl(urlsplit(seen.target).query))["range"].split("-")
        return Say({"data": ROWS[int(first) : int(last) + 1], "total": len(ROWS)})

    with Scripted(answer) as server:
        connection = connection_with({"type": "range", "rows": 10}, server.url)
        paginator = connection.resource("devices").endpoint.paginator
        assert isinstance(paginator, RangePaginator)
        found = read(server.url, tmp_path, endpoint_of(paginator, path="devices"))
        assert found.rows == ROWS
    with pytest.raises(ValidationError, match=r"unknown paginator `rang`; did you mean `range`\?"):
        connection_with({"type": "rang"})


@pytest.mark.usefixtures("new_styles")
def test_a_new_style_by_reference_takes_one_class(tmp_path: Path) -> None:
    class ContinuePaginator(ByReference):
        """Each page's `X-Continue` header is sent back with the next request."""

        type: Literal["continue_header"] = "continue_header"

        def reference(self, answer: Answer) -> Any:
            return answer.reply.headers.get("X-Continue", ABSENT)

        def following(self, asked: Request, answer: Answer, reference: Any) -> Request:
            return replace(asked, headers={**asked.headers, "X-Continue": reference})

    def answer(seen: Seen) -> Say:
        start = int(seen.headers.get("x-continue") or 0)
        following = str(start + 10) if start + 10 < len(ROWS) else ""
        return Say({"data": ROWS[start : start + 10]}, headers=(("X-Continue", following),))

    with Scripted(answer) as server:
        connection = connection_with({"type": "continue_header"}, server.url)
        paginator = connection.resource("devices").endpoint.paginator
        assert isinstance(paginator, ContinuePaginator)
        assert read(server.url, tmp_path, endpoint_of(paginator, path="devices")).rows == ROWS


def test_the_reference_describes_every_style_by_its_class() -> None:
    text = keys()
    for style in STYLES.values():
        assert f"### {style.__name__} " in text
        assert all(f"| `{key}` |" in text for key in style.model_fields)


def test_a_style_without_required_keys_can_be_written_as_a_word() -> None:
    for name, style in STYLES.items():
        if not paginators.needed_keys(style):
            assert paginator_of(name) == style.model_validate({})


@pytest.mark.parametrize(
    ("paginator", "message"),
    [
        ({"type": "offset_page"}, "unknown paginator `offset_page`; did you mean `offset`?"),
        ({"type": "auto"}, "guessing one loses rows"),
        ({"type": "offset"}, "missing"),
        ({"type": "cursor", "cursor_param": "a", "cursor_body_path": "b"}, "write one of `cursor_param` and"),
        ({"type": "offset", "limit": 1, "offset_param": "a", "offset_body_path": "b"}, "write one of `offset_param`"),
        ({"type": "header_link", "has_more_path": "more"}, "unknown key `has_more_path`"),
        (7, "write one of offset, page_number"),
    ],
)
def test_a_wrong_paginator_is_refused_by_name(paginator: Any, message: str) -> None:
    with pytest.raises(ValidationError) as raised:
        paginator_of(paginator)
    assert message in str(raised.value).replace("Field required", "missing")

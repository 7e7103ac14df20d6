"""Defines the paging styles, one class each: its settings, its first and next requests, and what ends it.

A new style is one more class here; the settings' union, error messages and reference derive from the classes. There are two
kinds of styles: `ByPosition`, whose addresses are known in advance, so that pages are read ahead, and `ByReference`, in which
each page names the next one. Names are those of dlt's `rest_api` source.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self, get_args
from urllib.parse import parse_qs, urlsplit

from pydantic import AfterValidator, Field, model_validator

from rmm_assets.errors import PagingError
from rmm_assets.http.request import Request
from rmm_assets.http.settings import JsonPath
from rmm_assets.reading.absent import ABSENT
from rmm_assets.settings import Settings, Tagged, did_you_mean, line_error, refuse

# Every Dagster process imports this module for the settings; importing what only a read needs would take half a second.
if TYPE_CHECKING:
    from rmm_assets.reading.answers import Answer

STYLES: dict[str, type[Paginator]] = {}
"""All paging styles by their names in a connection file."""

_ALIASES: dict[str, str] = {}

# The usual names of a page size.
SIZE_NAMES = frozenset((
    "limit", "$limit", "_limit", "page_size", "pagesize", "page-size", "_size", "size", "per_page", "perpage", "_per_page",
    "page[size]", "page[limit]", "maxresults", "max_results", "max", "pagelimit", "itemsinpage", "itemsperpage",
    "resultsperpage", "$top", "top", "first", "rows",
))  # fmt: skip
# These and others in the text of a query, as in GraphQL and SQL: `devices(first: 100)`, `LIMIT 100`.
_SIZE_IN_TEXT = re.compile(
    r"\b(?:(?:first|last|take|size|rows|page_?size|per_?page|max_?results)\s*[:=]|(?:limit|top)\s*[:=]?)\s*(\d+)\b",
    re.ASCII | re.IGNORECASE,
)
# Relations of a `Link` header that only a paged response has.
_OTHER_PAGES = frozenset(("first", "prev", "previous"))


# An address rather than a token, which may begin with a slash but has no question mark.
_URL = re.compile(r"https?://|/?[^?]*\?")
# The rest of a path that leads into the last row.
_OF_LAST_ROW = re.compile(r"\[-1:?\]\.?(.+)$")

# Names of the size and of the number of a page.
_NO_TOTALS = frozenset((
    "limit", "pagesize", "perpage", "itemsperpage", "resultsperpage", "maxresults", "page", "currentpage", "pagenumber", "pageno",
))  # fmt: skip


def _total_path(path: str) -> str:
    last = re.sub(r"[^a-z]", "", re.split(r"[.\[]", path)[-1].lower())
    if last in _NO_TOTALS:
        refuse(
            [line_error((), f"`{path}` names the size or the number of a page, not a total; write the path of a total")]
        )
    return path


TotalPath = Annotated[JsonPath, AfterValidator(_total_path)]

_HasMorePath = Annotated[str | None, Field(description="JSONPath of a boolean that says whether more pages follow.")]
_LastPath = Annotated[
    str | None,
    Field(
        description="Not in dlt: JSONPath of a boolean that says whether this is the last page, such as Jira's `isLast`."
    ),
]


class Paginator(Tagged):
    """Base class of all styles; a subclass with a literal `type` is registered."""

    aliases: ClassVar[tuple[str, ...]] = ()
    """Older names for the same style."""

    type: str

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        if name := next(iter(get_args(cls.model_fields["type"].annotation)), None):
            STYLES[name] = cls
            _ALIASES.update(dict.fromkeys(cls.aliases, name))

    @property
    def more_path(self) -> str | None:
        """JSONPath of a boolean that says whether more pages follow or this is the last; None if not configured."""
        return getattr(self, self.more_key, None)

    @property
    def more_key(self) -> str:
        """The setting with this path."""
        return "last_path" if getattr(self, "last_path", None) else "has_more_path"

    @model_validator(mode="after")
    def _one_mark(self) -> Self:
        if getattr(self, "last_path", None) and getattr(self, "has_more_path", None):
            refuse([line_error(("last_path",), "write one of `has_more_path` and `last_path`, not both")])
        return self

    def asked_rows(self, request: Request) -> int | None:
        """Returns the page size in a request under one of the usual names; None if there is none."""
        place = self.size_in(request)
        return None if place is None else int(getattr(request, place[0])[place[1]])

    def may_ask_rows(self, request: Request) -> frozenset[int]:
        """Returns the numbers in a request that may be its page size: under a usual name, else any from 10 on.

        Smaller ones are seldom page sizes, and often flags, versions or ids.
        """
        asked = self.asked_rows(request)
        if asked is not None:
            return frozenset((asked,))
        return frozenset(number for number in _numbers_in([request.params, request.json, request.data]) if number >= 10)

    def stated_sizes(self, request: Request) -> frozenset[int]:
        """Returns the numbers in a request that have a usual name of a page size, however deep, or in the text of a query."""
        return frozenset(_sizes_in([request.params, request.json, request.data]))

    def size_in(self, request: Request) -> tuple[str, str] | None:
        """Returns where a request has a page size under one of the usual names: `params` or `json`, and the name."""
        for source in ("params", "json"):
            values = getattr(request, source)
            for name, value in values.items() if isinstance(values, Mapping) else ():
                if str(name).lower() in SIZE_NAMES and str(value).isdigit():
                    return source, name
        return None


def _sizes_in(values: Any) -> Iterator[int]:
    """Yields the page sizes that a request's parameters or body state."""
    if isinstance(values, (Mapping, list)):
        for name, value in values.items() if isinstance(values, Mapping) else enumerate(values):
            if str(name).lower() in SIZE_NAMES:
                yield from _numbers_in(value)
            yield from _sizes_in(value)
    elif isinstance(values, str):
        yield from map(int, _SIZE_IN_TEXT.findall(values))


def _numbers_in(values: Any) -> Iterator[int]:
    """Yields the whole numbers in a request's parameters or body."""
    if isinstance(values, (Mapping, list)):
        for value in values.values() if isinstance(values, Mapping) else values:
            yield from _numbers_in(value)
    elif isinstance(values, int) or (isinstance(values, str) and values.isascii() and values.isdigit()):
        yield int(values)


class ByPosition(Paginator):
    """A style whose pages are requested by a number that is known in advance.

    Attributes:
        counts_rows: Whether positions and `total_path` count rows rather than pages.
    """

    counts_rows: ClassVar[bool]

    total_path: str | None
    stop_after_empty_page: bool | None

    @property
    def base(self) -> int:
        """The position of the API's first page."""
        return 0

    @property
    def start(self) -> int:
        """The position at which to start."""
        raise NotImplementedError

    @property
    def maximum(self) -> int | None:
        """The position at which the connection file says to stop; None if it does not."""
        return None

    @property
    def parameter(self) -> str:
        """The position's name in a request."""
        raise NotImplementedError

    @property
    def stops_at_empty(self) -> bool:
        """Whether an empty page is the end."""
        return self.stop_after_empty_page is not False

    def at(self, request: Request, position: int) -> Request:
        """Returns the request for the page at a position."""
        raise NotImplementedError


class ByReference(Paginator):
    """A style in which each page names the next one."""

    @property
    def stops_at_empty(self) -> bool:
        """Whether an empty page is the end."""
        return False

    @property
    def stays(self) -> bool:
        """Whether each request for the same reference returns the next page."""
        return False

    place_key: ClassVar[str] = ""
    """The setting with the location of the reference."""

    @property
    def place(self) -> str:
        """The location of the reference, as written in the connection file."""
        return str(getattr(self, self.place_key, ""))

    def reference(self, answer: Answer) -> Any:
        """Returns the reference to the next page: None or empty if the response says there is none, `ABSENT` if missing."""
        raise NotImplementedError

    def is_in_row(self, answer: Answer) -> bool:
        """Returns whether the reference is a value of the last row, as in keyset paging, which is never an end mark."""
        return False

    def row_values(self, answer: Answer) -> list[Any]:
        """Returns each row's value of the cursor if that is a value of the last row, as in keyset paging; else nothing.

        Nothing, too, unless all of them are numbers or all are texts, which can be sorted.
        """
        return []

    def following(self, asked: Request, answer: Answer, reference: Any) -> Request:
        """Returns the request for the page named by a reference."""
        raise NotImplementedError


def _put(request: Request, param: str | None, body_path: str | None, value: Any) -> Request:
    """Returns the request with a value set in the JSON body if there is a path for it, else in the query."""
    if not body_path:
        return replace(request, params={**request.params, str(param): value})
    from dlt.common import jsonpath

    json = deepcopy(request.json) if request.json is not None else {}
    jsonpath.set_value_at_path(json, body_path, value)
    return replace(request, json=json)


def _one_place(model: Settings, param: str, body_path: str) -> None:
    if getattr(model, param) is not None and getattr(model, body_path) is not None:
        refuse([line_error((body_path,), f"write one of `{param}` and `{body_path}`, not both")])


class OffsetPaginator(ByPosition):
    """Pages by the number of rows to skip."""

    counts_rows = True

    type: Literal["offset"] = "offset"
    limit: int = Field(gt=0, description="Number of rows to request per page.")
    offset: int = Field(default=0, ge=0, description="Offset of the first row.")
    offset_param: str | None = Field(default=None, description="Query parameter of the offset; `offset` by default.")
    limit_param: str | None = Field(default=None, description="Query parameter of the limit; `limit` by default.")
    offset_body_path: str | None = Field(default=None, description="Dotted path of the offset in a JSON request body.")
    limit_body_path: str | None = Field(default=None, description="Dotted path of the limit in a JSON request body.")
    range_param: str | None = Field(
        default=None,
        min_length=1,
        description="Not in dlt: query parameter of the first and last row, such as `range=0-49`, instead of offset and "
        "limit. `Content-Range` in the responses is the total.",
    )
    total_path: TotalPath | None = Field(
        default="total", description="JSONPath of the stated number of rows; null if the API states none."
    )
    maximum_offset: int | None = Field(default=None, ge=0, description="Offset at which reading stops.")
    stop_after_empty_page: bool | None = Field(default=True, description="Whether an empty page is the end.")
    has_more_path: _HasMorePath = None
    last_path: _LastPath = None

    @model_validator(mode="after")
    def _places(self) -> Self:
        _one_place(self, "offset_param", "offset_body_path")
        _one_place(self, "limit_param", "limit_body_path")
        for name in ("offset_param", "limit_param", "offset_body_path", "limit_body_path"):
            if self.range_param is not None and getattr(self, name) is not None:
                refuse([line_error((name,), "`range_param` takes offset and limit; write one of them, not both")])
        return self

    @property
    def start(self) -> int:
        return self.offset

    @property
    def maximum(self) -> int | None:
        return self.maximum_offset

    @property
    def parameter(self) -> str:
        return self.range_param or self.offset_param or self.offset_body_path or "offset"

    def asked_rows(self, request: Request) -> int:
        return self.limit

    def at(self, request: Request, position: int) -> Request:
        if self.range_param is not None:
            return _put(request, self.range_param, None, f"{position}-{position + self.limit - 1}")
        request = _put(request, self.offset_param or "offset", self.offset_body_path, position)
        return _put(request, self.limit_param or "limit", self.limit_body_path, self.limit)


class PageNumberPaginator(ByPosition):
    """Pages by their number."""

    counts_rows = False

    type: Literal["page_number"] = "page_number"
    base_page: int = Field(default=0, ge=0, description="Number of the API's first page, 0 or 1.")
    page: int | None = Field(
        default=None, ge=0, description="Number of the page to start with; `base_page` by default."
    )
    page_param: str | None = Field(default=None, description="Query parameter of the page number; `page` by default.")
    page_body_path: str | None = Field(
        default=None, description="Dotted path of the page number in a JSON request body."
    )
    total_path: TotalPath | None = Field(
        default="total", description="JSONPath of the stated number of pages; null if the API states none."
    )
    maximum_page: int | None = Field(default=None, ge=0, description="Page number at which reading stops.")
    stop_after_empty_page: bool | None = Field(default=True, description="Whether an empty page is the end.")
    has_more_path: _HasMorePath = None
    last_path: _LastPath = None

    @model_validator(mode="after")
    def _places(self) -> Self:
        _one_place(self, "page_param", "page_body_path")
        return self

    @property
    def base(self) -> int:
        return self.base_page

    @property
    def start(self) -> int:
        return self.base_page if self.page is None else self.page

    @property
    def maximum(self) -> int | None:
        return self.maximum_page

    @property
    def parameter(self) -> str:
        return self.page_param or self.page_body_path or "page"

    def at(self, request: Request, position: int) -> Request:
        return _put(request, self.page_param or "page", self.page_body_path, position)


class CursorPaginator(ByReference):
    """Each page's body contains a cursor of the next page."""

    place_key = "cursor_path"

    type: Literal["cursor"] = "cursor"
    cursor_path: str = Field(default="cursors.next", min_length=1, description="JSONPath of the cursor in the body.")
    cursor_param: str | None = Field(default=None, description="Query parameter of the cursor; `cursor` by default.")
    cursor_body_path: str | None = Field(default=None, description="Dotted path of the cursor in a JSON request body.")
    cursor_stays: bool = Field(
        default=False,
        description="Not in dlt: whether the cursor keeps its name and each request for it returns the next page, until one is "
        "empty. A request that failed is not repeated, because the page might be skipped.",
    )
    stop_after_empty_page: bool | None = Field(default=False, description="Whether an empty page is the end.")
    has_more_path: _HasMorePath = None
    last_path: _LastPath = None

    @model_validator(mode="after")
    def _places(self) -> Self:
        _one_place(self, "cursor_param", "cursor_body_path")
        return self

    @property
    def stops_at_empty(self) -> bool:
        return bool(self.stop_after_empty_page) or self.cursor_stays

    @property
    def stays(self) -> bool:
        return self.cursor_stays

    def reference(self, answer: Answer) -> Any:
        return answer.find(self.cursor_path)

    def is_in_row(self, answer: Answer) -> bool:
        within = _OF_LAST_ROW.search(self.cursor_path)
        return bool(within and answer.page.rows) and answer.beside_rows(self.cursor_path) is ABSENT

    def row_values(self, answer: Answer) -> list[Any]:
        within = _OF_LAST_ROW.search(self.cursor_path)
        if within is None or not self.is_in_row(answer):
            return []
        values = answer.page.values(tuple(within[1].split(".")))
        kinds = {type(value) for value in values}
        return values if kinds in ({str}, {int}, {float}, {int, float}) else []

    def following(self, asked: Request, answer: Answer, reference: Any) -> Request:
        if str(reference).startswith(("http://", "https://")):
            raise PagingError(f"`{self.cursor_path}` is an address, not a cursor; write the paginator json_link")
        return self.to(asked, reference)

    def to(self, asked: Request, cursor: Any) -> Request:
        """Returns the request for the page at a cursor."""
        request = _put(asked, self.cursor_param or "cursor", self.cursor_body_path, cursor)
        return replace(request, moves_on=self.cursor_stays)


class HeaderCursorPaginator(ByReference):
    """Each page's headers contain a cursor or the URL of the next page, such as Kinto's `Next-Page`."""

    place_key = "cursor_key"

    type: Literal["header_cursor"] = "header_cursor"
    cursor_key: str = Field(default="next", min_length=1, description="Response header with the cursor.")
    cursor_param: str = Field(default="cursor", min_length=1, description="Query parameter of the cursor.")

    def reference(self, answer: Answer) -> Any:
        return answer.reply.headers.get(self.cursor_key, ABSENT)

    def following(self, asked: Request, answer: Answer, reference: Any) -> Request:
        if _URL.match(str(reference)):
            return replace(asked, path=answer.absolute(str(reference)), params={})
        return _put(asked, self.cursor_param, None, reference)


class _ByLink(ByReference):
    """A style whose reference is a URL, absolute or relative to its page."""

    type: str

    def following(self, asked: Request, answer: Answer, reference: Any) -> Request:
        if not isinstance(reference, str):
            raise PagingError("the next page's address is not a string")
        return replace(asked, path=answer.absolute(reference), params={})


class HeaderLinkPaginator(_ByLink):
    """Each page's `Link` header contains the URL of the next page."""

    place_key = "links_next_key"

    type: Literal["header_link"] = "header_link"
    links_next_key: str = Field(default="next", min_length=1, description="The `rel` of the link to the next page.")

    def reference(self, answer: Answer) -> Any:
        links = answer.links
        if answer.says_no_results(self.links_next_key):
            return None
        # A header that names other pages but no next one says that there is none.
        ends = _OTHER_PAGES & links.keys() and not answer.has_unclear_links
        return links.get(self.links_next_key.lower(), None if ends else ABSENT)


class JSONLinkPaginator(_ByLink):
    """Each page's body contains the URL of the next page."""

    aliases = ("json_response",)
    place_key = "next_url_path"

    type: Literal["json_link"] = "json_link"
    next_url_path: str = Field(default="next", min_length=1, description="JSONPath of the URL in the body.")
    keep_params: tuple[str, ...] = Field(
        default=(),
        description="Not in dlt: query parameters of the first request that are added to URLs which lack them.",
    )

    def reference(self, answer: Answer) -> Any:
        return answer.find(self.next_url_path)

    def following(self, asked: Request, answer: Answer, reference: Any) -> Request:
        request = super().following(asked, answer, reference)
        known, sent = _query_of(request.path), {**_query_of(asked.path), **asked.params}
        return replace(request, params={n: sent[n] for n in self.keep_params if n in sent and n not in known})


def _query_of(url: str) -> dict[str, list[str]]:
    return parse_qs(urlsplit(url).query, keep_blank_values=True)


class SinglePagePaginator(ByReference):
    """The endpoint sends everything in one response."""

    type: Literal["single_page"] = "single_page"

    def reference(self, answer: Answer) -> Any:
        return None


def no_paginator() -> str:
    """Returns the message for a connection file without a paginator."""
    others = [name for name in STYLES if name != "single_page"]
    return (
        "no paginator, and guessing one loses rows; write one under `endpoint`: "
        f"{', '.join(others[:-1])} or {others[-1]}, or single_page if the endpoint sends everything at once"
    )


def needed_keys(style: type[Paginator]) -> list[str]:
    """Returns the keys without a default."""
    return [name for name, field in style.model_fields.items() if field.is_required()]


def paginator_of(value: Any) -> Paginator:
    """Parses a paginator from a connection file: a name or a mapping with a `type`.

    Raises:
        pydantic.ValidationError: There is no such style, or its settings are wrong.
    """
    if isinstance(value, Paginator):
        return value
    if isinstance(value, str):
        value = {"type": value}
    if not isinstance(value, Mapping):
        refuse([line_error((), f"write one of {', '.join(STYLES)}, or a mapping with a `type`")])
    name = str(value.get("type", "auto"))
    if name == "auto":
        refuse([line_error((), no_paginator())])
    name = _ALIASES.get(name, name)
    if name not in STYLES:
        refuse([line_error(("type",), f"unknown paginator `{name}`; {did_you_mean(name, list(STYLES))}")])
    return STYLES[name].model_validate({**value, "type": name})

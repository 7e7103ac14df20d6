"""What a connection file says about reaching an API: where its secret lies, dlt's auth, paginators and
`client`.

The words are those of dlt's `rest_api` source; the secret itself is never among them.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, ClassVar, Literal, Self, Union
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from rmm_assets.http.auth import AuthSettings
from rmm_assets.settings import Settings, Tagged, did_you_mean, line_error, refuse

PYTHON_ONLY = "it takes Python, which a connection file cannot hold"
NO_GUESSING = (
    "no paginator, and guessing one loses rows; write one under `endpoint`: offset, page_number, cursor, "
    "header_cursor, "
    "header_link or json_link, or single_page if the endpoint sends everything at once"
)


def _as_names(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


Names = Annotated[
    tuple[Annotated[str, Field(min_length=1)], ...],
    BeforeValidator(_as_names, json_schema_input_type=str | list[str]),
]
"""One name or a list of names."""


def _web_address(url: str) -> str:
    try:
        parts = urlsplit(url)
        right = (
            parts.scheme in ("http", "https") and bool(parts.hostname) and not re.search(r"[\s<>\"\\\x00-\x1f]", url)
        )
    except ValueError:
        right = False
    if not right:
        refuse([line_error((), "this is no address of a web page; write https://host/page")])
    return url


WebAddress = Annotated[str, AfterValidator(_web_address)]
"""Where a browser may be sent: nothing but http and https, and nothing that ends a link in Markdown."""


# --- secret and auth


class ApiKey(Settings):
    """Where the one secret lies; it is looked up when a run starts, never when the file is loaded."""

    env: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z_][A-Za-z0-9_]*$",
        description="Name of the environment variable that holds the secret.",
    )
    dlt_secret: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z_][A-Za-z0-9_.]*$",
        description="Path in `dlt.secrets`, for example `api_key` or `sources.acme.api_key`: all of dlt's "
        "providers are asked (environment, `.dlt/secrets.toml`, vaults).",
    )

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if (self.env is None) == (self.dlt_secret is None):
            refuse([line_error((), "write one of `env: NAME_OF_A_VARIABLE` and `dlt_secret: path.in.dlt.secrets`")])
        return self


def _as_auth(value: Any) -> Any:
    if isinstance(value, str):
        value = {"type": value}
    if isinstance(value, dict):
        value = {"type": "bearer", **value}
        if value["type"] not in AuthSettings.kinds():
            # The word is not repeated: somebody may have written the key here.
            refuse([line_error((), f"unknown auth type; known are: {', '.join(AuthSettings.kinds())}")])
    return value


_AnyAuth: Any = Union[tuple(AuthSettings.kinds().values())]  # noqa: UP007
Auth = Annotated[
    _AnyAuth,
    Field(discriminator="type"),
    BeforeValidator(_as_auth, json_schema_input_type=Literal["bearer", "api_key"] | _AnyAuth),
]

# --- paginators


class OffsetPaginator(Tagged):
    """Pages by the number of rows to skip."""

    type: Literal["offset"] = "offset"
    limit: int = Field(gt=0, description="Rows to ask for on a page.")
    offset: int = Field(default=0, ge=0, description="Offset of the first row.")
    offset_param: str | None = Field(default=None, description="Query parameter of the offset; `offset` by default.")
    limit_param: str | None = Field(default=None, description="Query parameter of the limit; `limit` by default.")
    offset_body_path: str | None = Field(default=None, description="Dotted path of the offset in a JSON request body.")
    limit_body_path: str | None = Field(default=None, description="Dotted path of the limit in a JSON request body.")
    total_path: str | None = Field(
        default="total", description="JSONPath of the stated number of rows; null where there is none."
    )
    maximum_offset: int | None = Field(default=None, ge=0, description="Offset at which reading stops.")
    stop_after_empty_page: bool | None = Field(default=True, description="Whether an empty page is the end.")
    has_more_path: str | None = Field(
        default=None, description="JSONPath of a boolean that says whether more pages follow."
    )


class PageNumberPaginator(Tagged):
    """Pages by their number."""

    type: Literal["page_number"] = "page_number"
    base_page: int = Field(default=0, ge=0, description="Number of the API's first page, 0 or 1.")
    page: int | None = Field(
        default=None, ge=0, description="Number of the page to begin with; `base_page` by default."
    )
    page_param: str | None = Field(default=None, description="Query parameter of the page number; `page` by default.")
    page_body_path: str | None = Field(
        default=None, description="Dotted path of the page number in a JSON request body."
    )
    total_path: str | None = Field(
        default="total", description="JSONPath of the stated number of pages; null where there is none."
    )
    maximum_page: int | None = Field(default=None, ge=0, description="Page number at which reading stops.")
    stop_after_empty_page: bool | None = Field(default=True, description="Whether an empty page is the end.")
    has_more_path: str | None = Field(
        default=None, description="JSONPath of a boolean that says whether more pages follow."
    )


class CursorPaginator(Tagged):
    """Each page's body names the next one by a cursor."""

    type: Literal["cursor"] = "cursor"
    cursor_path: str = Field(default="cursors.next", min_length=1, description="JSONPath of the cursor in the body.")
    cursor_param: str | None = Field(default=None, description="Query parameter of the cursor; `cursor` by default.")
    cursor_body_path: str | None = Field(default=None, description="Dotted path of the cursor in a JSON request body.")
    stop_after_empty_page: bool | None = Field(default=False, description="Whether an empty page is the end.")
    has_more_path: str | None = Field(
        default=None, description="JSONPath of a boolean that says whether more pages follow."
    )


class HeaderCursorPaginator(Tagged):
    """Each page's headers name the next one by a cursor."""

    type: Literal["header_cursor"] = "header_cursor"
    cursor_key: str = Field(default="next", min_length=1, description="Response header that holds the cursor.")
    cursor_param: str = Field(default="cursor", min_length=1, description="Query parameter of the cursor.")


class HeaderLinkPaginator(Tagged):
    """Each page's `Link` header holds the next one's address."""

    type: Literal["header_link"] = "header_link"
    links_next_key: str = Field(default="next", min_length=1, description="The `rel` of the link to the next page.")


class JSONLinkPaginator(Tagged):
    """Each page's body holds the next one's address."""

    type: Literal["json_link"] = "json_link"
    next_url_path: str = Field(default="next", min_length=1, description="JSONPath of the address in the body.")


class SinglePagePaginator(Tagged):
    """The endpoint sends everything in one answer."""

    type: Literal["single_page"] = "single_page"


PAGINATORS = ("offset", "page_number", "cursor", "header_cursor", "header_link", "json_link", "single_page")


def _as_paginator(value: Any) -> Any:
    if isinstance(value, str):
        value = {"type": value}
    if isinstance(value, dict):
        kind = value.get("type", "auto")
        if kind == "auto":
            refuse([line_error((), NO_GUESSING)])
        if kind == "json_response":  # dlt's older word for the same paginator
            value = {**value, "type": "json_link"}
        elif kind not in PAGINATORS:
            refuse([line_error(("type",), f"unknown paginator `{kind}`; {did_you_mean(str(kind), list(PAGINATORS))}")])
    return value


_AnyPaginator = (
    OffsetPaginator
    | PageNumberPaginator
    | CursorPaginator
    | HeaderCursorPaginator
    | HeaderLinkPaginator
    | JSONLinkPaginator
    | SinglePagePaginator
)
Paginator = Annotated[
    _AnyPaginator,
    Field(discriminator="type"),
    BeforeValidator(
        _as_paginator,
        json_schema_input_type=Literal[
            "page_number", "cursor", "header_cursor", "header_link", "json_link", "single_page"
        ]
        | _AnyPaginator,
    ),
]


class Client(Settings):
    """How the API is reached: dlt's `client`, without the secret."""

    elsewhere: ClassVar[dict[str, str]] = {
        "session": PYTHON_ONLY,
        "verify": "TLS is always verified; give a private authority with `tls: {ca_file: ...}` beside `client`",
        "timeout": "write `limits: {read_timeout: seconds}` beside `client`",
        "retry": "write it beside `client`",
    }

    base_url: str | None = Field(
        default=None,
        min_length=1,
        description="Address that every path is appended to. Needed unless `simulator` gives one. "
        "Templates are allowed: `\"{{ env('ACME_BASE_URL') }}\"`.",
    )
    headers: dict[str, str] = Field(
        default_factory=dict,
        description="Headers of every request. Never the secret: that is what `auth` is for.",
    )
    auth: Auth | None = Field(
        default=None,
        description="How the secret reaches the API: `bearer`, `api_key`, `http_basic` or "
        "`oauth2_client_credentials`, as a word or as a mapping, without the secret itself.",
    )
    paginator: Paginator | None = Field(
        default=None, description="The paginator of resources that name none of their own."
    )

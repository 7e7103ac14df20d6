"""What a connection file says about reaching an API: where its secret lies, dlt's auth, paginators and
`client`.

The words are those of dlt's `rest_api` source; the secret itself is never among them.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, ClassVar, Literal, Self, Union
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, GetCoreSchemaHandler, model_validator
from pydantic_core import core_schema

from rmm_assets.http.auth import AuthSettings
from rmm_assets.reading.paginators import STYLES, needed_keys, paginator_of
from rmm_assets.reading.paginators import Paginator as AnyPaginator
from rmm_assets.settings import Settings, line_error, refuse

PYTHON_ONLY = "it takes Python, which a connection file cannot hold"


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


class _ByStyle:
    """Reads a paginator by its style, and describes every style that there is."""

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        words = tuple(name for name, style in STYLES.items() if not needed_keys(style))
        written = handler.generate_schema(Union[(Literal[words], *STYLES.values())])
        return core_schema.no_info_plain_validator_function(paginator_of, json_schema_input_schema=written)


Paginator = Annotated[AnyPaginator, _ByStyle]


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

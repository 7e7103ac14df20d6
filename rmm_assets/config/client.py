"""Defines how a connection file describes reaching an API: the reference to its secret, and dlt's `client`.

The keys are those of dlt's `rest_api` source; the secret itself is never one of the values.
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

PYTHON_ONLY = "it takes Python code, which a connection file cannot contain; leave it out"


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
        valid = (
            parts.scheme in ("http", "https") and bool(parts.hostname) and not re.search(r"[\s<>\"\\\x00-\x1f]", url)
        )
    except ValueError:
        valid = False
    if not valid:
        refuse([line_error((), "this is not the URL of a web page; write https://host/page")])
    return url


WebAddress = Annotated[str, AfterValidator(_web_address)]
"""A URL that is safe to link: http or https, without characters that would end a Markdown link."""


class ApiKey(Settings):
    """A reference to the secret, which is looked up when a run starts, never when the file is loaded."""

    env: str | None = Field(
        default=None,
        pattern=r"^([A-Za-z_]|\{tenant\})([A-Za-z0-9_]|\{tenant\})*$",
        description="Name of the environment variable that holds the secret; with `tenants`, `{tenant}` is the tenant's name in "
        "capital letters, with `_` for other characters.",
    )
    dlt_secret: str | None = Field(
        default=None,
        pattern=r"^([A-Za-z_]|\{tenant\})([A-Za-z0-9_.]|\{tenant\})*$",
        description="Path in `dlt.secrets`, for example `api_key` or `sources.acme.api_key`, looked up in all of dlt's "
        "providers (environment, `.dlt/secrets.toml`, vaults). With `tenants`, `{tenant}` is the tenant's name, with `_` for "
        "other characters than letters and digits.",
    )

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if (self.env is None) == (self.dlt_secret is None):
            refuse([line_error((), "write either `env: NAME_OF_A_VARIABLE` or `dlt_secret: path.in.dlt.secrets`")])
        return self


def _as_auth(value: Any) -> Any:
    if isinstance(value, str):
        value = {"type": value}
    if isinstance(value, dict):
        value = {"type": "bearer", **value}
        if str(value["type"]) not in AuthSettings.kinds():
            # The value is not repeated: it may be the API key, written in the wrong place.
            refuse([line_error((), f"unknown auth type; known are: {', '.join(AuthSettings.kinds())}")])
    return value


_AnyAuth: Any = Union[tuple(AuthSettings.kinds().values())]  # noqa: UP007
Auth = Annotated[
    _AnyAuth,
    Field(discriminator="type"),
    BeforeValidator(_as_auth, json_schema_input_type=Literal["bearer", "api_key"] | _AnyAuth),
]


class _ByStyle:
    """Validates a paginator by its `type`, with a schema that covers every paging style."""

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        words = tuple(name for name, style in STYLES.items() if not needed_keys(style))
        written = handler.generate_schema(Union[(Literal[words], *STYLES.values())])
        return core_schema.no_info_plain_validator_function(paginator_of, json_schema_input_schema=written)


Paginator = Annotated[AnyPaginator, _ByStyle]


class Client(Settings):
    """How to reach the API: dlt's `client`, without the secret."""

    elsewhere: ClassVar[dict[str, str]] = {
        "session": PYTHON_ONLY,
        "verify": "certificates are always verified; to trust a private CA, write `tls: {ca_file: ...}` next to `client`",
        "timeout": "write `limits: {read_timeout: seconds}` next to `client`",
        "retry": "write it next to `client`",
    }

    base_url: str | None = Field(
        default=None,
        min_length=1,
        description="URL that every path is appended to. Required unless `simulator` is set. "
        "Templates are allowed: `\"{{ env('ACME_BASE_URL') }}\"`.",
    )
    headers: dict[str, str] = Field(
        default_factory=dict,
        description="Headers of every request. Never put a secret here in plain text; use `auth` or `{secrets.NAME}`.",
    )
    auth: Auth | None = Field(
        default=None,
        description="How the secret is sent to the API: `bearer`, `api_key`, `http_basic`, "
        "`oauth2_client_credentials` or `token`, as a name or a mapping, without the secret itself.",
    )
    paginator: Paginator | None = Field(
        default=None, description="The paginator of resources that do not set their own."
    )

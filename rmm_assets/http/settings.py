"""Defines the HTTP settings of a connection file: retries, limits, throttling and TLS."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from rmm_assets.settings import Settings, line_error, refuse


def _retryable(codes: tuple[int, ...]) -> tuple[int, ...]:
    if wrong := [code for code in codes if not 400 <= code <= 599]:
        raise PydanticCustomError(
            "connection_file",
            "{codes} are not HTTP error statuses; write numbers from 400 to 599",
            {"codes": wrong},
        )
    return codes


Method = Annotated[
    Literal["GET", "POST", "PATCH"], BeforeValidator(lambda value: value.upper() if isinstance(value, str) else value)
]


def _json_path(path: str) -> str:
    from dlt.common import jsonpath

    try:
        jsonpath.compile_path(path)
    except Exception:  # the parser raises errors of several types
        refuse([line_error((), "this is not a JSONPath; write the names of fields joined by dots, for example `a.b`")])
    return path


JsonPath = Annotated[str, Field(min_length=1), AfterValidator(_json_path)]


class Retry(Settings):
    """When and how often a request is sent again."""

    status_codes: Annotated[tuple[int, ...], AfterValidator(_retryable)] = Field(
        default=(429, 500, 502, 503, 504),
        description="HTTP statuses after which a request is sent again. Any other error status fails immediately. "
        "Dropped connections and truncated bodies are always retried.",
    )
    max_retries: int = Field(
        default=3, ge=0, le=20, description="How many times a request is repeated: 3 means 4 requests in total."
    )
    backoff_factor: float = Field(
        default=2.0,
        ge=0,
        le=60,
        description="The n-th retry waits `backoff_factor * 2 ** (n - 1)` seconds, 2, 4 and 8 by default, "
        "unless the server states a time in `Retry-After`, or for a rate-limited request in `X-RateLimit-Reset` or at "
        "`limits.wait_path`.",
    )
    max_wait: float = Field(
        default=60.0,
        gt=0,
        le=3600,
        description="Maximum wait before a retry, in seconds, even if the server asks for more.",
    )


class Throttle(Settings):
    """A response that means "rate limited" although its status is not 429."""

    status: int = Field(ge=100, le=599, description="The HTTP status of such a response, for example 403.")
    text: str | None = Field(
        default=None,
        description="Text that the response must contain, ignoring case: an error response anywhere, a successful one in fields "
        "that describe an error, such as `error` or `message`. Without it, the status is enough.",
    )
    path: JsonPath | None = Field(
        default=None,
        description="JSONPath of the only place in the body where `text` counts, for example `errors[*].extensions.code`.",
    )
    header: str | None = Field(
        default=None,
        min_length=1,
        description="Name of a header that such a response has; with `text`, the header's whole value.",
    )

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if self.path is not None and self.header is not None:
            refuse([line_error(("header",), "a signal has one place; write either `path` or `header`, or two signals")])
        if self.path is not None and self.text is None:
            refuse([line_error(("path",), "says where to look, but not for what; write `text`, too")])
        return self


class Limits(Settings):
    """Limits on the rate, number, duration and size of requests."""

    requests_per_minute: float | None = Field(
        default=None,
        gt=0,
        description="Maximum number of requests per minute, shared by all resources of the connection; by default "
        "unlimited.",
    )
    max_concurrency: int = Field(
        default=8,
        ge=1,
        le=256,
        description="Maximum number of concurrent requests, over all resources of the connection.",
    )
    connect_timeout: float = Field(default=10.0, gt=0, description="Seconds to wait for a connection.")
    read_timeout: float = Field(default=60.0, gt=0, description="Seconds to wait for the next bytes of a response.")
    deadline: float = Field(default=3600.0, gt=0, description="Seconds that fetching one resource may take in total.")
    max_response_bytes: int = Field(
        default=64 * 1024 * 1024,
        gt=0,
        description="Maximum size of a response, in bytes: its headers, and its body after decompression.",
    )
    max_total_bytes: int = Field(
        default=10 * 1024**3,
        gt=0,
        description="Maximum size of all responses of one resource in a run, in bytes after decompression.",
    )
    max_pages: int = Field(
        default=100_000,
        gt=0,
        description="Maximum number of pages of one list of rows, for an API that pages without end. A hundredth of it, or 100, "
        "may follow each other without rows.",
    )
    max_columns: int = Field(
        default=5_000,
        gt=0,
        description="Maximum number of different fields in the rows of one resource, nested ones included.",
    )
    max_nesting: int = Field(
        default=500, gt=0, le=500, description="Maximum number of objects and lists inside each other in a response."
    )
    throttle: tuple[Throttle, ...] = Field(
        default=(),
        description='Responses besides 429 that mean "rate limited": a status, and a text or a header if the status alone is '
        "ambiguous. A 403 with `X-RateLimit-Remaining: 0` always does.",
    )
    wait_path: JsonPath | None = Field(
        default=None,
        description="JSONPath of the seconds to wait in the body of a rate-limited response, if the server does not send "
        "`Retry-After`.",
    )


class Tls(Settings):
    """How to verify the server's certificate; verification cannot be disabled."""

    ca_file: str | None = Field(
        default=None,
        min_length=1,
        description="Path of a PEM file with the certificates of a private CA, relative to the connection file.",
    )

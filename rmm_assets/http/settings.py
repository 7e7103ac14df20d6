"""Defines what a connection file says about HTTP: retries, limits, throttle signals, TLS."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from rmm_assets.settings import Settings


def _retryable(codes: tuple[int, ...]) -> tuple[int, ...]:
    if wrong := [code for code in codes if not 400 <= code <= 599]:
        raise PydanticCustomError(
            "connection_file",
            "{codes} are no HTTP error statuses; write numbers from 400 to 599",
            {"codes": wrong},
        )
    return codes


class Retry(Settings):
    """When and how often a request is sent again."""

    status_codes: Annotated[tuple[int, ...], AfterValidator(_retryable)] = Field(
        default=(429, 500, 502, 503, 504),
        description="HTTP statuses after which a request is sent again. Any other error status fails at "
        "once. Dropped connections and bodies cut short are always retried.",
    )
    max_retries: int = Field(
        default=3, ge=0, le=20, description="How many times a request is repeated: 3 means 4 requests in all."
    )
    backoff_factor: float = Field(
        default=2.0,
        ge=0,
        le=60,
        description="The n-th retry waits `backoff_factor * 2 ** (n - 1)` seconds, 2, 4 and 8 by default, "
        "unless the server states a time in `Retry-After`.",
    )
    max_wait: float = Field(
        default=60.0,
        gt=0,
        le=3600,
        description="The longest wait before one retry, in seconds, whatever the server asks for.",
    )


class Throttle(Settings):
    """A response that means "slower" although its status is not 429."""

    status: int = Field(ge=100, le=599, description="The HTTP status of such a response, for example 403.")
    text: str | None = Field(
        default=None,
        description="Text that must stand in the body, in any case of letters; without it the status is enough.",
    )


class Limits(Settings):
    """How hard an API may be asked, and how long it may take to answer."""

    requests_per_minute: float | None = Field(
        default=None,
        gt=0,
        description="Requests a minute that all resources of the connection share; no limit by default.",
    )
    max_concurrency: int = Field(
        default=8,
        ge=1,
        le=256,
        description="Requests that may be under way at once, over all resources of the connection.",
    )
    connect_timeout: float = Field(default=10.0, gt=0, description="Seconds to wait for a connection.")
    read_timeout: float = Field(default=60.0, gt=0, description="Seconds to wait for the next bytes of an answer.")
    deadline: float = Field(default=3600.0, gt=0, description="Seconds that fetching one resource may take in all.")
    max_response_bytes: int = Field(
        default=64 * 1024 * 1024,
        gt=0,
        description="The largest body of one response, in bytes after decompression.",
    )
    throttle: tuple[Throttle, ...] = Field(
        default=(),
        description="Responses that mean `slower` beside 429: a status, and a text if the status alone "
        "says too little.",
    )
    wait_path: str | None = Field(
        default=None,
        min_length=1,
        description="JSONPath to the seconds to wait in the body of a throttled response, where the "
        "server does not use `Retry-After`.",
    )


class Tls(Settings):
    """How the server's certificate is verified; it always is."""

    ca_file: str | None = Field(
        default=None,
        min_length=1,
        description="Path of a PEM file with the certificates of a private authority.",
    )

"""What a connection file says about talking HTTP, as frozen values: retries, limits, TLS.

Each carries its defaults and its own description, from which the reference is made. Reading the file and
saying where in it a fault lies is `rmm_assets.connection`'s business.
"""

from __future__ import annotations

from difflib import get_close_matches
from typing import Annotated, Any, ClassVar, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    ValidationError,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError


def line_error(path: tuple[str | int, ...], message: str) -> InitErrorDetails:
    """One fault at a path, in the form that pydantic nests into the path of the model around it.

    It carries no input: what stands in a connection file may be a secret.
    """
    # pydantic formats the message with braces, so the text travels as a value.
    return InitErrorDetails(
        type=PydanticCustomError("connection_file", "{message}", {"message": message}), loc=path, input=None
    )


def refuse(errors: list[InitErrorDetails]) -> None:
    """Raise a `pydantic.ValidationError` that holds these errors; do nothing without any."""
    if errors:
        raise ValidationError.from_exception_data("connection file", errors, hide_input=True)


def messages(error: ValidationError) -> list[tuple[tuple[str | int, ...], str]]:
    """Path and sentence of every fault that an error holds, without the values that stood there."""
    return [
        (line["loc"], "missing" if line["type"] == "missing" else line["msg"])
        for line in error.errors(include_input=False, include_url=False, include_context=False)
    ]


def did_you_mean(word: str, known: list[str]) -> str:
    """`did you mean `x`?`, or every word there is where none is near."""
    near = get_close_matches(word.lower(), known, n=1, cutoff=0.6)
    return f"did you mean `{near[0]}`?" if near else f"known are: {', '.join(sorted(known))}"


class Settings(BaseModel):
    """A mapping of a connection file: frozen, and a key that it does not know is an error that names the
    nearest one.

    Raises:
        pydantic.ValidationError: a wrong or unknown key; its text never repeats what the file says.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        coerce_numbers_to_str=True,
        hide_input_in_errors=True,
        populate_by_name=True,
        allow_inf_nan=False,
    )

    elsewhere: ClassVar[dict[str, str]] = {}
    """Keys that people write here and what to write instead."""

    @model_validator(mode="wrap")
    @classmethod
    def _known_keys(cls, data: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        if not isinstance(data, dict):
            return handler(data)
        known = [field.alias or name for name, field in cls.model_fields.items()]
        accepted = {*known, *cls.model_fields}
        errors = [
            line_error(
                (str(key),),
                f"unknown key `{key}`; {cls.elsewhere.get(str(key)) or did_you_mean(str(key), known)}",
            )
            for key in data
            if key not in accepted
        ]
        if not errors:
            return handler(data)
        try:
            value = handler({key: inner for key, inner in data.items() if key in accepted})
        except ValidationError as error:
            errors += [line_error(path, message) for path, message in messages(error)]
        refuse(errors)
        return value


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

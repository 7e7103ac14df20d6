"""Recognizes rate-limited responses by status, headers and error texts, but never by the content of rows."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import orjson
from dlt.common import jsonpath

from rmm_assets.http.settings import Throttle

# Names of the headers of a limit, without their ends.
_LIMITS = ("X-RateLimit", "X-Rate-Limit", "RateLimit")
# No limit is reset in 30 years, and no API counts seconds since 1970 in another unit above this number.
_EPOCH_SECONDS, _EPOCH_MILLISECONDS = 1e9, 1e11
_WORDS = re.compile(
    r"rate[\s_-]*limit|too[\s_-]*many[\s_-]*requests|throttl|slow\s*down|retry[\s_-]*after|quota[\s_-]*exceeded"
    r"|(request|api)[\s_-]*limit",
    re.IGNORECASE,
)
# Fields of a response that describe an error, as opposed to fields with rows.
_ERROR_FIELD = re.compile(
    r"(.*_)?(errors?|messages?|msg|details?|title|code|reason|fault|descriptions?|exception|warnings?|status|type)",
    re.IGNORECASE,
)


def throttles(status: int, headers: Mapping[str, str], body: bytes, known: Iterable[Throttle]) -> bool:
    """Returns whether a response is rate limited, by the connection file's signals or by a spent limit."""
    if status == 403 and is_spent(headers):
        return True
    return any(_matches(throttle, status, headers, body) for throttle in known if throttle.status == status)


def _matches(throttle: Throttle, status: int, headers: Mapping[str, str], body: bytes) -> bool:
    text = throttle.text.lower() if throttle.text else None
    if throttle.header is not None:
        value = headers.get(throttle.header)
        return value is not None and text in (None, value.strip().lower())
    # Parsing the body takes longer than searching it, so it is only parsed if it contains the text.
    if text is None or text not in body.decode("utf-8", "replace").lower():
        return text is None
    if throttle.path is None:
        return text in error_text(status, body).lower()
    try:
        found = jsonpath.find_values(throttle.path, orjson.loads(body))
    except ValueError:
        return False
    return any(text in str(value).lower() for value in found if not isinstance(value, (Mapping, list)))


def looks_throttled(status: int, headers: Mapping[str, str], body: bytes) -> bool:
    """Returns whether an error response looks rate limited, judging by signals that many APIs send with any status."""
    if status == 429 or "Retry-After" in headers:
        return True
    return is_spent(headers) or _WORDS.search(error_text(status, body)) is not None


def is_spent(headers: Mapping[str, str]) -> bool:
    """Returns whether a response says that no further request is permitted until the limit is reset."""
    return any(headers.get(f"{name}-Remaining") == "0" for name in _LIMITS)


def seconds_to_reset(headers: Mapping[str, str], now: float) -> float | None:
    """Returns the seconds until the limit is reset, according to the headers; None if they do not say so.

    Args:
        headers: The headers of a rate-limited response.
        now: The time in epoch seconds by the server's clock.
    """
    for name in _LIMITS:
        try:
            value = float(headers.get(f"{name}-Reset", ""))
        except ValueError:
            continue
        # APIs send seconds, epoch seconds or epoch milliseconds under the same name.
        if value >= _EPOCH_MILLISECONDS:
            value /= 1000
        seconds = value - now if value >= _EPOCH_SECONDS else value
        return seconds if seconds > 0 else None  # a reset in the past says nothing about this response
    return None


def error_text(status: int, body: bytes) -> str:
    """Returns the error text of a response: the whole body of an error response, the error fields of a successful one."""
    text = body.decode("utf-8", "replace")
    if status >= 400:
        return text
    try:
        document = orjson.loads(body)
    except ValueError:
        return text  # it cannot contain rows
    return "\n".join(_errors(document))


def _errors(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            if _ERROR_FIELD.fullmatch(key):
                yield from _all_text(inner)


def _all_text(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _all_text(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _all_text(inner)

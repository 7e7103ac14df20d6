"""Recognizes rate-limited responses by status, headers and error texts, but never by the content of rows."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import orjson

from rmm_assets.http.settings import Throttle

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


def throttles(status: int, body: bytes, known: Iterable[Throttle]) -> bool:
    """Returns whether a response matches one of the connection file's throttle signals."""
    named = [throttle for throttle in known if throttle.status == status]
    if any(not throttle.text for throttle in named):
        return True
    texts = [throttle.text.lower() for throttle in named if throttle.text]
    lowered = body.decode("utf-8", "replace").lower() if texts else ""
    # Parsing the body takes longer than searching it, so it is only parsed if it contains one of the texts.
    if not any(text in lowered for text in texts):
        return False
    places = error_text(status, body).lower()
    return any(text in places for text in texts)


def looks_throttled(status: int, headers: Mapping[str, str], body: bytes) -> bool:
    """Returns whether an error response looks rate limited, judging by signals that many APIs send with any status."""
    if status == 429 or "Retry-After" in headers:
        return True
    spent = any(headers.get(name) == "0" for name in ("X-RateLimit-Remaining", "RateLimit-Remaining"))
    return spent or _WORDS.search(error_text(status, body)) is not None


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

"""Tells answers that throttle, by their status, their headers, and their words where errors stand, never by a row's."""

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
# Fields of an answer in which an error is described; rows stand in others.
_ERROR_FIELD = re.compile(
    r"(.*_)?(errors?|messages?|msg|details?|title|code|reason|fault|descriptions?|exception|warnings?|status|type)",
    re.IGNORECASE,
)


def throttles(status: int, body: bytes, known: Iterable[Throttle]) -> bool:
    """Whether an answer is one that the connection file says means `slower`."""
    named = [throttle for throttle in known if throttle.status == status]
    if any(not throttle.text for throttle in named):
        return True
    texts = [throttle.text.lower() for throttle in named if throttle.text]
    lowered = body.decode("utf-8", "replace").lower() if texts else ""
    # Looking for the places of errors takes longer than finding that the words are nowhere.
    if not any(text in lowered for text in texts):
        return False
    places = error_text(status, body).lower()
    return any(text in places for text in texts)


def looks_throttled(status: int, headers: Mapping[str, str], body: bytes) -> bool:
    """Whether an error answer throttles by the signs that many APIs give, whatever its status."""
    if status == 429 or "Retry-After" in headers:
        return True
    spent = any(headers.get(name) == "0" for name in ("X-RateLimit-Remaining", "RateLimit-Remaining"))
    return spent or _WORDS.search(error_text(status, body)) is not None


def error_text(status: int, body: bytes) -> str:
    """Returns what an answer says where errors are described: all of an error answer, the error fields of a good one."""
    text = body.decode("utf-8", "replace")
    if status >= 400:
        return text
    try:
        document = orjson.loads(body)
    except ValueError:
        return text  # no rows can stand in it
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

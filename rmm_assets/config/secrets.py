"""Finds secrets in a connection file, by the names and positions of its values."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from pydantic_core import InitErrorDetails

from rmm_assets.settings import line_error

Path = tuple[str | int, ...]

_SECRET_NAME = re.compile(
    r"(^|_)(api_?key|(access|auth|subscription|private|secret|shared|master)_key|password|passwd|pwd|passphrase|secret"
    r"|(?<!page_)(?<!next_)(?<!sync_)(?<!continuation_)token|credentials?|authorization|cookie|bearer|jwt|signature)$"
    r"|^(key|sig|x_auth|x_access|session_?id)$"
)
# Keys below which such names are not secrets: column hints, Dagster tags, checks, the reference itself.
_NOT_LOOKED_AT = {"columns", "checks", "tags", "nested_hints", "simulator", "dlt_secret"}
_SCHEMES = re.compile(r"^\s*(bearer|basic|token|apikey)\s+\S", re.IGNORECASE)


def is_secret_name(name: str) -> bool:
    """Returns whether a header, parameter or key with that name holds a secret."""
    snake = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name)
    return _SECRET_NAME.search(re.sub(r"[^a-z0-9]+", "_", snake.lower()).strip("_")) is not None


def secrets(attributes: Mapping[str, Any]) -> list[InitErrorDetails]:
    """Returns an error for each of a connection's attributes that is a secret, or a template that reads one.

    Args:
        attributes: The file's `attributes`, before or after templates are rendered.
    """
    name = attributes.get("name")
    variable = f"{name.upper()}_API_KEY" if isinstance(name, str) and name.isidentifier() else "ACME_API_KEY"
    reference = f"`api_key: {{env: {variable}}}`"
    return [
        line_error(
            path,
            f"a secret must not be in the file or come from a template: {_instead(path, reference)}",
        )
        for path in _secret_paths(attributes, ())
    ]


def _instead(path: Path, reference: str) -> str:
    where = {str(part) for part in path}
    last = str(path[-1])
    if path[0] == "destination":
        return "leave it out; dlt looks it up itself, for example in DESTINATION__POSTGRES__CREDENTIALS"
    if path == ("api_key",):
        return f"write {reference} and set that variable"
    if "headers" in where:
        scheme = "bearer" if last.lower() == "authorization" else f"{{type: api_key, name: {last}, location: header}}"
        return f"write `auth: {scheme}` under `client` and {reference} next to `client`"
    if "params" in where or "url" in last or last == "path":
        auth = f"{{type: api_key, name: {last if 'params' in where else 'api_key'}, location: query}}"
        return f"write `auth: {auth}` under `client` and {reference} next to `client`"
    return f"remove it and write {reference} next to `client`"


def _secret_paths(value: Any, path: Path) -> Iterator[Path]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if key not in _NOT_LOOKED_AT:
                yield from _secret_paths(inner, (*path, key))
    elif isinstance(value, (list, tuple)):
        for index, inner in enumerate(value):
            yield from _secret_paths(inner, (*path, index))
    elif value is not None and not isinstance(value, bool) and value != "":
        named = next((str(part) for part in reversed(path) if isinstance(part, str)), "")
        # A destination's credentials may be a path or a URL without a password.
        by_name = path != ("destination", "credentials") and is_secret_name(named)
        # A placeholder for a value of the parent's row is not a secret, even if its name looks like one.
        if (by_name and not _is_placeholder(value)) or (isinstance(value, str) and _holds_secret(value, path)):
            yield path


def _is_placeholder(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch(r"\{(resources|incremental)\.[^{}]+\}", value) is not None


def _holds_secret(text: str, path: Path) -> bool:
    if "headers" in path and _SCHEMES.match(text):
        return True
    if "://" not in text and "?" not in text:
        return False
    try:
        parts = urlsplit(text)
    except ValueError:
        return False
    return bool(parts.password) or any(
        is_secret_name(key) and value and not _is_placeholder(value) for key, value in parse_qsl(parts.query)
    )

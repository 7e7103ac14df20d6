"""Finds secrets in a connection file, by the names and positions of its values, and resolves references to secrets."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from pydantic_core import InitErrorDetails

from rmm_assets.http.marks import PLACEHOLDER, marked
from rmm_assets.http.tokens import REFRESH_TOKEN_MARK
from rmm_assets.settings import did_you_mean, line_error

Path = tuple[str | int, ...]

# Names that end in `key` but are not secrets.
_PLAIN_KEYS = (
    *(
        "primary",
        "merge",
        "foreign",
        "natural",
        "sort",
        "order",
        "group",
        "partition",
        "range",
        "row",
        "object",
        "cursor",
    ),
    *("page", "next", "cache", "idempotency", "project", "issue", "public", "lookup", "search", "filter", "field"),
)
_SECRET_NAME = re.compile(
    r"(^|_)(api_?key|(access|auth|subscription|private|secret|shared|master)_key|password|passwd|pwd|passphrase|secret"
    r"|(?<!page_)(?<!next_)(?<!sync_)(?<!continuation_)token|credentials?|authorization|cookie|bearer|jwt|signature)$"
    r"|^(key|sig|x_auth|x_access|session_?id)$"
)
# Names that hold a secret in many APIs, where the API chooses the names: headers, query parameters, fields of a body.
_SECRET_FIELD = re.compile(r"^(auth|code|pass)$|_key$|token")
_PLAIN_FIELD = re.compile(
    rf"(^|_)({'|'.join(_PLAIN_KEYS)})_key$|(page|next|previous|sync|skip|delta|start|end|continuation|cursor|paging)_?token"
    r"|token_?(type|url|count|limit)s?$"
)
_FIELDS = {"headers", "params", "json", "data", "access_token_request_data"}
# Keys below which such names are not secrets: column hints, Dagster tags, checks, the reference itself.
_NOT_LOOKED_AT = {"columns", "checks", "tags", "nested_hints", "simulator", "dlt_secret"}
_REFRESH_TOKEN = "{refresh_token}"
# The password by which OAuth servers know a client that has no secret.
_PUBLIC = "public"
_SCHEMES = re.compile(r"^\s*(bearer|basic|token|apikey)\s+\S", re.IGNORECASE)


def is_secret_name(name: str, *, chosen: bool = False) -> bool:
    """Returns whether a key with that name holds a secret.

    Args:
        name: The name of a header, parameter or key.
        chosen: Whether the API chose the name, which is then more likely to be that of a secret.
    """
    snake = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name)
    words = re.sub(r"[^a-z0-9]+", "_", snake.lower()).strip("_")
    if _SECRET_NAME.search(words) is not None:
        return True
    return chosen and _SECRET_FIELD.search(words) is not None and _PLAIN_FIELD.search(words) is None


def with_marks(attributes: Mapping[str, Any]) -> tuple[dict[str, Any], list[InitErrorDetails]]:
    """Replaces every `{secrets.NAME}` in a connection's attributes by a mark; also returns what is wrong with them."""
    errors: list[InitErrorDetails] = []
    named = attributes.get("secrets")
    known = [str(name) for name in named] if isinstance(named, Mapping) else []
    used: set[str] = set()

    def mark(value: Any, path: Path) -> Any:
        if isinstance(value, Mapping):
            return {key: mark(inner, (*path, key)) for key, inner in value.items()}
        if isinstance(value, (list, tuple)):
            return [mark(inner, (*path, index)) for index, inner in enumerate(value)]
        if not isinstance(value, str):
            return value
        if "refresh" in path:
            value = value.replace(_REFRESH_TOKEN, REFRESH_TOKEN_MARK)
        if not (names := PLACEHOLDER.findall(value)):
            return value
        used.update(names)
        for name in names:
            if name not in known:
                advice = did_you_mean(name, known) if known else f"write `secrets: {{{name}: {{env: VARIABLE}}}}`"
                errors.append(line_error(path, f"unknown secret `{name}`; {advice}"))
        if not _FIELDS.intersection(path) and ("auth" not in path or str(path[-1]).endswith("url")):
            errors.append(
                line_error(path, "a secret can be sent in headers, auth, query parameters and request bodies only")
            )
        return marked(value)

    found = {
        key: mark(value, (key,)) if key in ("client", "resource_defaults", "resources") else value
        for key, value in attributes.items()
    }
    errors += [
        line_error(
            ("secrets", name), f"not used; write `{{secrets.{name}}}` in a header, parameter or body, or leave it out"
        )
        for name in known
        if name not in used
    ]
    return found, errors


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
    secret = "`secrets: {KEY: {env: VARIABLE}}` next to `client` and `{secrets.KEY}` here"
    if "headers" in where:
        scheme = "bearer" if last.lower() == "authorization" else f"{{type: api_key, name: {last}, location: header}}"
        return f"write `auth: {scheme}` under `client` and {reference} next to `client`, or {secret}"
    if "params" in where or "url" in last or last == "path":
        auth = f"{{type: api_key, name: {last if 'params' in where else 'api_key'}, location: query}}"
        return f"write `auth: {auth}` under `client` and {reference} next to `client`" + (
            f", or {secret}" if "params" in where else ""
        )
    if where & _FIELDS:
        return f"write {secret}"
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
        chosen = not _FIELDS.isdisjoint(path[:-1])
        by_name = path != ("destination", "credentials") and is_secret_name(named, chosen=chosen)
        by_name = by_name and not (value == _PUBLIC and "http_basic" in path)
        # A placeholder for a value of the parent's row is not a secret, even if its name looks like one.
        if (by_name and not _is_placeholder(value, path)) or (isinstance(value, str) and _holds_secret(value, path)):
            yield path


def _is_placeholder(value: Any, path: Path) -> bool:
    """Returns whether a text is a placeholder for a value that is filled in later; a scheme may precede a secret."""
    if not isinstance(value, str):
        return False
    if "refresh" in path and _REFRESH_TOKEN in value:
        return True
    return (
        PLACEHOLDER.search(value) is not None or re.fullmatch(r"\{(resources|incremental)\.[^{}]+\}", value) is not None
    )


def _holds_secret(text: str, path: Path) -> bool:
    if "headers" in path and _SCHEMES.match(text) and not _is_placeholder(text, path):
        return True
    if "://" not in text and "?" not in text:
        return False
    try:
        parts = urlsplit(text)
    except ValueError:
        return False
    return bool(parts.password) or any(
        is_secret_name(key) and value and not _is_placeholder(value, path) for key, value in parse_qsl(parts.query)
    )

"""Parses the auth of a connection file."""

from __future__ import annotations

from typing import Any

from pydantic import TypeAdapter

from rmm_assets.config.client import Auth
from rmm_assets.http.auth import AuthSettings

_ANY: TypeAdapter[Any] = TypeAdapter(Auth)


def read_auth(said: Any) -> AuthSettings | None:
    """Returns the settings for a word or a mapping; None for None."""
    settings: AuthSettings | None = None if said is None else _ANY.validate_python(said)
    return settings

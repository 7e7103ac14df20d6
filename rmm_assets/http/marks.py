"""Replaces `{secrets.NAME}` in a connection file by a mark that only this process can write, and marks by secrets.

A mark consists of letters and digits, so it is the same in a URL, a form, a header and JSON. It is random, so neither a
server nor a row can inject one and have a secret filled in.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from rmm_assets.settings import leaves

PLACEHOLDER = re.compile(r"\{secrets\.([A-Za-z_]\w*)\}", re.ASCII)
_KEY = f"rmm{secrets.token_hex(16)}x"
_MARK = re.compile(f"{_KEY}((?:[0-9a-f]{{2}})+)z")
_MARK_IN_BYTES = re.compile(_MARK.pattern.encode())

Text = TypeVar("Text", str, bytes)


def marked(text: str) -> str:
    """Returns a text with every `{secrets.NAME}` replaced by its mark."""
    return PLACEHOLDER.sub(lambda match: mark_of(match[1]), text)


def mark_of(name: str) -> str:
    """Returns the mark of a secret."""
    return f"{_KEY}{name.encode().hex()}z"


def names_in(value: Any) -> set[str]:
    """Returns the names of the secrets that a value of any kind refers to by marks."""
    return {_name(match) for text in leaves(value) if isinstance(text, str) for match in _MARK.findall(text)}


def filled(value: Any, secret_of: Mapping[str, str], write: Callable[[str], str] = str) -> Any:
    """Returns a text, body or mapping of texts with every mark replaced by its secret.

    Args:
        value: The text, body or mapping with marks.
        secret_of: The secrets by name.
        write: Encodes a secret for the place where it is filled in.
    """
    if isinstance(value, Mapping):
        return {key: filled(inner, secret_of, write) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [filled(inner, secret_of, write) for inner in value]
    if isinstance(value, bytes):
        return _MARK_IN_BYTES.sub(lambda match: write(secret_of[_name(match[1].decode())]).encode(), value)
    return _MARK.sub(lambda match: write(secret_of[_name(match[1])]), value) if isinstance(value, str) else value


def _name(written: str) -> str:
    return bytes.fromhex(written).decode()

"""Defines a request, without the secret.

It is separate from `transport` so that the settings of paginators, which every Dagster process imports, need no HTTP client.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Request:
    """One request, without the secret.

    Attributes:
        path: A path relative to the base URL, or an absolute URL of the same origin.
        moves_on: Whether each such request returns something else, so that a failed one is only repeated if it was throttled.
        label: Its name in log lines and errors, such as `devices page 3`.
    """

    path: str
    method: str = "GET"
    params: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    json: Any = None
    data: Any = None
    label: str = "request"
    moves_on: bool = False

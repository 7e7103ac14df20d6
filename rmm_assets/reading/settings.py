"""Defines what a connection file may say about an endpoint's end, beside its paginator."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from rmm_assets.settings import Settings

EmptyAs = Literal["null", "missing", "object", "empty_body", "no_content"]
"""Answers that stand for an empty list: null or an empty object at the data selector, nothing there, no body, 204."""


class Count(Settings):
    """A request of its own that tells how many rows there are, sent before and after each read."""

    path: str = Field(min_length=1, description="Path of the request, for example `devices/$count`.")
    params: dict[str, Any] = Field(
        default_factory=dict,
        description="Query parameters beside those of the endpoint, which are sent along, so that the same filter "
        "holds; null leaves one of those out.",
    )
    total_path: str | None = Field(
        default=None,
        min_length=1,
        description="JSONPath of the number of rows; by default the body is the number.",
    )

"""Defines what a connection file may say about an endpoint's end, beside its paginator."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from rmm_assets.settings import Settings, line_error, refuse

EmptyAs = Literal["null", "missing", "object", "empty_body", "no_content"]
"""Answers that stand for an empty list: null or an empty object at the data selector, nothing there, no body, 204."""


class Count(Settings):
    """A request of its own that tells how many rows there are, sent before and after each read."""

    method: Literal["GET", "HEAD"] = Field(default="GET", description="HTTP method; HEAD needs `total_header`.")
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
    total_header: str | None = Field(
        default=None, min_length=1, description="Response header with the number of rows, instead of the body."
    )

    @model_validator(mode="after")
    def _place(self) -> Self:
        if self.total_header and self.total_path:
            refuse([line_error(("total_path",), "write one of `total_path` and `total_header`, not both")])
        if self.method == "HEAD" and not self.total_header:
            refuse(
                [line_error(("method",), "an answer to HEAD has no body; name the number's header with `total_header`")]
            )
        return self

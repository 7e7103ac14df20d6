"""Defines the settings about an endpoint's end other than its paginator."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from rmm_assets.settings import Settings, line_error, refuse

EmptyAs = Literal["null", "missing", "object", "empty_body", "no_content"]
"""Responses that mean an empty list: null, an empty object or nothing at the data selector, no body, 204."""


class Count(Settings):
    """A separate request for the number of rows, sent before and after each read."""

    method: Literal["GET", "HEAD"] = Field(default="GET", description="HTTP method; HEAD needs `total_header`.")
    path: str = Field(min_length=1, description="Path of the request, for example `devices/$count`.")
    params: dict[str, Any] = Field(
        default_factory=dict,
        description="Query parameters in addition to the endpoint's own, which are also sent, so that the same filter "
        "applies; null removes one of those.",
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
                [
                    line_error(
                        ("method",), "a response to HEAD has no body; set `total_header` to the header with the number"
                    )
                ]
            )
        return self

"""Defines the settings about an endpoint's end other than its paginator."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from rmm_assets.reading.paginators import TotalPath
from rmm_assets.settings import Settings, line_error, refuse

EmptyAs = Literal["null", "missing", "object", "empty_body", "no_content"]
"""Responses that mean an empty list: null, an empty object or nothing at the data selector, no body, 204."""


class Count(Settings):
    """A separate request for the number of rows, sent before and after each read."""

    method: Literal["GET", "HEAD", "POST"] = Field(
        default="GET", description="HTTP method; HEAD needs `total_header`, and POST needs `json`."
    )
    path: str = Field(min_length=1, description="Path of the request, for example `devices/$count`.")
    params: dict[str, Any] = Field(
        default_factory=dict,
        description="Query parameters in addition to the endpoint's own, which are also sent, so that the same filter "
        "applies; null removes one of those.",
    )
    # `json` is a method of pydantic models, so the field has another name.
    json_body: dict[str, Any] | None = Field(
        default=None,
        alias="json",
        description="Fields of the JSON body in addition to the endpoint's own, which are also sent: mappings are merged, null "
        "removes a field.",
    )
    total_path: TotalPath | None = Field(
        default=None,
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
        if (self.method == "POST") is (self.json_body is None):
            refuse([line_error(("method",), "write `method: POST` and `json` together, or neither")])
        return self

    def body(self, own: Any) -> Any:
        """Returns the JSON body of the request, for the endpoint's own."""
        return None if self.json_body is None else _merged(own, self.json_body)


def _merged(own: Any, changes: dict[str, Any]) -> dict[str, Any]:
    kept = own if isinstance(own, dict) else {}
    found = {
        name: _merged(kept.get(name), value) if isinstance(value, dict) else value for name, value in changes.items()
    }
    return {name: value for name, value in {**kept, **found}.items() if value is not None or name not in found}

"""Defines what a connection file says about one endpoint: its request, and how its answers are read, in dlt's words."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError

from rmm_assets.config.client import PYTHON_ONLY, Auth, Names, Paginator
from rmm_assets.reading.settings import Count, EmptyAs
from rmm_assets.settings import Settings, line_error, messages, refuse


class ResponseAction(Settings):
    """What to do with responses of a kind."""

    status_code: int | None = Field(default=None, ge=100, le=599, description="Status of such a response.")
    content: str | None = Field(
        default=None, min_length=1, description="Text that stands in the body of such a response."
    )
    action: Literal["ignore"] = Field(
        description="`ignore`: as the first answer, for one parent's rows for example, it counts as an empty list. On a "
        "later page, or for all parents, it is an error; so is a response that throttles."
    )


class Incremental(Settings):
    """Reading only what changed since the last run: dlt's `incremental`."""

    elsewhere: ClassVar[dict[str, str]] = {
        "convert": PYTHON_ONLY,
        "transform": PYTHON_ONLY,
        "allow_external_schedulers": "the range goes on where the last run ended; leave it out",
        "row_order": "every page of a range is read, whatever the order; leave it out",
    }

    cursor_path: str = Field(min_length=1, description="JSONPath of the field that grows with every change.")
    initial_value: Any = Field(default=None, description="Where the first run begins.")
    end_value: Any = Field(default=None, description="Where reading ends; for backfills.")
    start_param: str | None = Field(default=None, description="Query parameter that takes the start.")
    end_param: str | None = Field(default=None, description="Query parameter that takes the end.")
    last_value_func: Literal["min", "max"] = Field(default="max", description="Which of the values seen is the newest.")
    primary_key: Names | None = Field(default=None, description="Key by which rows at the border are told apart.")
    lag: float | None = Field(
        default=None, ge=0, description="How far before the last value to begin: seconds, days or units."
    )
    on_cursor_value_missing: Literal["raise", "include", "exclude"] = Field(
        default="raise", description="What happens to a row without the field."
    )
    range_start: Literal["open", "closed"] = Field(
        default="closed", description="Whether the start itself is included."
    )
    range_end: Literal["open", "closed"] = Field(default="open", description="Whether the end itself is included.")


class ResolveParam(Settings):
    """A parameter whose value comes from each row of another resource: dlt's `resolve`."""

    type: Literal["resolve"]
    resource: str = Field(min_length=1, description="The other resource.")
    field: str = Field(min_length=1, description="Field of its rows.")


class IncrementalParam(Incremental):
    """A parameter that takes the start of a range: dlt's `incremental` in the place of a value."""

    type: Literal["incremental"]


_MAPPINGS: dict[Any, type[Settings]] = {"resolve": ResolveParam, "incremental": IncrementalParam}


def _known_mappings(params: dict[str, Any]) -> dict[str, Any]:
    """Checks parameters that are mappings, which dlt would send as the text of a Python dict where it knows no better."""
    errors = []
    for name, value in params.items():
        if not isinstance(value, dict):
            continue
        kind = _MAPPINGS.get(value.get("type"))
        if kind is None:
            errors.append(
                line_error((name,), "a parameter is a value, or a mapping with `type: incremental` or `type: resolve`")
            )
            continue
        try:
            kind.model_validate(value)
        except ValidationError as error:
            errors += [line_error((name, *path), message) for path, message in messages(error)]
    refuse(errors)
    return params


def _as_words(value: Any) -> Any:
    """One word or a list of words; YAML reads `null` as nothing."""
    words = value if isinstance(value, (list, tuple)) else [value]
    return tuple("null" if word is None else word for word in words)


class Endpoint(Settings):
    """One request of a resource, and how its answers are read: dlt's `endpoint`."""

    path: str | None = Field(
        default=None,
        min_length=1,
        description="Path below `client.base_url`; the resource's name by default. "
        "`{resources.parent.field}` takes a value from each row of another resource.",
    )
    method: Annotated[
        Literal["GET", "POST"],
        BeforeValidator(lambda value: value.upper() if isinstance(value, str) else value),
    ] = Field(default="GET", description="HTTP method.")
    params: Annotated[dict[str, Any], AfterValidator(_known_mappings)] = Field(
        default_factory=dict,
        description="Query parameters: values, or dlt's mappings with `type: incremental` or `type: resolve`.",
    )
    # `json` is a method of pydantic's models, so the field has another name inside.
    json_body: dict[str, Any] | None = Field(default=None, alias="json", description="JSON request body.")
    data: Any = Field(default=None, description="Request body of another form.")
    headers: dict[str, str] = Field(default_factory=dict, description="Headers of this endpoint. Never the secret.")
    paginator: Paginator | None = Field(
        default=None,
        description="How the next page is found: `offset`, `page_number`, `cursor`, `header_cursor`, "
        "`header_link`, `json_link`, or `single_page` for an endpoint that sends everything at once. "
        "Never guessed.",
    )
    data_selector: str | None = Field(
        default=None,
        min_length=1,
        description="JSONPath of the rows in the body. Left out, the first answer must hold exactly one list of objects.",
    )
    response_actions: tuple[ResponseAction, ...] | None = Field(
        default=None, description="Responses to treat in another way."
    )
    incremental: Incremental | None = Field(default=None, description="Read only what changed since the last run.")
    total_header: str | None = Field(
        default=None,
        min_length=1,
        description="Ours: response header that states the number of rows, for example `X-Total-Count`.",
    )
    count: Count | None = Field(
        default=None,
        description="Ours: a request of its own that states the number of rows, for example OData's `$count`.",
    )
    wrong_signals: Names = Field(
        default=(),
        description="Ours: what this API says wrongly about there being more rows, by the name of the header or field: "
        "`total`, `meta.has_more`, `X-Total-Count`, `Link`. It is not believed then.",
    )
    empty_as: Annotated[
        tuple[EmptyAs, ...], BeforeValidator(_as_words, json_schema_input_type=EmptyAs | list[EmptyAs | None] | None)
    ] = Field(
        default=(),
        description="Ours: what this API answers instead of an empty list: `null` or an empty `object` at the data "
        "selector, the key `missing`, `empty_body`, or `no_content` (204) behind the first page. Without it such an answer "
        "is tried again, then red.",
    )
    single_object: bool = Field(
        default=False,
        description="Ours: whether an object at the data selector is a row, as where a path names one thing.",
    )
    auth: Auth | None = Field(default=None, description="Another way for the same secret to reach this endpoint.")


def as_endpoint(value: Any) -> Any:
    return {"path": value} if isinstance(value, str) else value

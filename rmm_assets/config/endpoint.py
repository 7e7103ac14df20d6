"""Defines an endpoint in a connection file: its request and how its responses are read, with dlt's keys."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, model_validator

from rmm_assets.config.client import PYTHON_ONLY, Auth, Names, Paginator
from rmm_assets.config.table_hints import format_fault
from rmm_assets.http.settings import Method
from rmm_assets.reading.settings import Count, EmptyAs
from rmm_assets.settings import Settings, line_error, messages, refuse, time_zone_fault


class ResponseAction(Settings):
    """What to do with certain responses: dlt's `response_actions`."""

    status_code: int | None = Field(default=None, ge=100, le=599, description="Status of such a response.")
    content: str | None = Field(
        default=None, min_length=1, description="Text that the body of such a response contains."
    )
    action: Literal["ignore"] = Field(
        description="`ignore`: a first response, for example for one parent's rows, counts as an empty list. On a later "
        "page, or for all parents, such a response is an error, and so is a rate-limited one."
    )


OUR_INCREMENTAL_KEYS = ("start_format", "start_timezone", "full_every")

_SECONDS = {"m": 60, "h": 3600, "d": 86_400, "w": 604_800}


class Incremental(Settings):
    """Reads only what changed since the last run: dlt's `incremental`."""

    elsewhere: ClassVar[dict[str, str]] = {
        "convert": PYTHON_ONLY,
        "transform": PYTHON_ONLY,
        "allow_external_schedulers": "the range continues where the last run ended; leave it out",
        "row_order": "every page of a range is read, in any order; leave it out",
    }

    cursor_path: str = Field(min_length=1, description="JSONPath of the field that increases with every change.")
    initial_value: Any = Field(default=None, description="Where the first run starts.")
    end_value: Any = Field(default=None, description="Where the range ends; for backfills.")
    start_param: str | None = Field(default=None, description="Query parameter that takes the start.")
    start_format: str | None = Field(
        default=None,
        min_length=1,
        description="Not in dlt: how requests write the start and the end, if not like the field: `iso`, `epoch_s`, "
        "`epoch_ms`, or a pattern of Python's `strftime` such as `%Y-%m-%d %H:%M:%S`. The start is rounded down.",
    )
    start_timezone: str | None = Field(
        default=None,
        min_length=1,
        description="Not in dlt: IANA name of the time zone in which requests write them, for a pattern or `iso`; by default "
        "UTC.",
    )
    end_param: str | None = Field(default=None, description="Query parameter that takes the end.")
    last_value_func: Literal["min", "max"] = Field(
        default="max", description="Whether the largest or the smallest cursor value is the newest."
    )
    primary_key: Names | None = Field(default=None, description="Key that distinguishes rows at the boundary.")
    lag: float | None = Field(
        default=None, ge=0, description="How far before the last value to start: seconds, days or units."
    )
    on_cursor_value_missing: Literal["raise", "include", "exclude"] = Field(
        default="raise", description="What happens to a row without the field."
    )
    range_start: Literal["open", "closed"] = Field(
        default="closed", description="Whether the start itself is included."
    )
    range_end: Literal["open", "closed"] = Field(default="open", description="Whether the end itself is included.")

    full_every: str | None = Field(
        default=None,
        pattern=r"^[1-9]\d*[mhdw]$",
        description="Not in dlt: how often a run reads everything from `initial_value` on instead, for example `7d` (m, h, d or "
        "w). Only such a read finds rows that appeared late or are gone. It is due until it succeeds.",
    )

    @property
    def full_seconds(self) -> int | None:
        """Seconds between full reads; None if there are none."""
        return None if self.full_every is None else int(self.full_every[:-1]) * _SECONDS[self.full_every[-1]]

    @model_validator(mode="after")
    def _sent(self) -> Self:
        errors = []
        name, zone = self.start_format, self.start_timezone
        if name is not None and "%" not in name and name not in ("iso", "epoch_s", "epoch_ms"):
            errors.append(line_error(("start_format",), "write iso, epoch_s, epoch_ms or a pattern such as %Y-%m-%d"))
        elif name is not None and "%" in name and (fault := format_fault(name)):
            errors.append(line_error(("start_format",), fault))
        if name is not None and self.last_value_func == "min":
            errors.append(
                line_error(("start_format",), "it is rounded down, which loses rows with `min`; leave it out")
            )
        if zone is not None and (fault := time_zone_fault(zone)):
            errors.append(line_error(("start_timezone",), fault))
        if zone is not None and name in (None, "epoch_s", "epoch_ms"):
            errors.append(line_error(("start_timezone",), "needs `start_format: iso` or a pattern; leave it out"))
        refuse(errors)
        return self


class ResolveParam(Settings):
    """A parameter whose value comes from each row of another resource: dlt's `resolve`."""

    type: Literal["resolve"]
    resource: str = Field(min_length=1, description="The other resource.")
    field: str = Field(min_length=1, description="Field of its rows.")


class IncrementalParam(Incremental):
    """A parameter that takes the start of a range: dlt's `incremental` instead of a value."""

    type: Literal["incremental"]


_MAPPINGS: dict[Any, type[Settings]] = {"resolve": ResolveParam, "incremental": IncrementalParam}


def _known_mappings(params: dict[str, Any]) -> dict[str, Any]:
    """Validates parameters that are mappings; dlt would send an unknown one as the text of a Python dict."""
    errors = []
    for name, value in params.items():
        if not isinstance(value, dict):
            continue
        kind = _MAPPINGS.get(str(value.get("type")))
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
    """Converts one word or a list of words to a tuple; YAML parses `null` as None."""
    words = value if isinstance(value, (list, tuple)) else [value]
    return tuple("null" if word is None else word for word in words)


class Endpoint(Settings):
    """A resource's request and how its responses are read: dlt's `endpoint`."""

    path: str | None = Field(
        default=None,
        min_length=1,
        description="Path relative to `client.base_url`; by default the resource's name. "
        "`{resources.parent.field}` takes a value from each row of another resource.",
    )
    method: Method = Field(default="GET", description="HTTP method; `PATCH` for APIs that list rows by it.")
    params: Annotated[dict[str, Any], AfterValidator(_known_mappings)] = Field(
        default_factory=dict,
        description="Query parameters: values, or dlt's mappings with `type: incremental` or `type: resolve`.",
    )
    # `json` is a method of pydantic models, so the field has another name.
    json_body: dict[str, Any] | None = Field(
        default=None,
        alias="json",
        description="JSON request body, with placeholders such as "
        "`{resources.sites.id}`. Other braces are sent as they are, so a GraphQL query needs no escapes.",
    )
    data: dict[str, Any] | str | None = Field(
        default=None,
        description="Request body in another format: the fields of a form, or the whole text; braces as in `json`.",
    )
    headers: dict[str, str] = Field(
        default_factory=dict,
        description="Headers of this endpoint. Never put a secret here in plain text; use `auth` or `{secrets.NAME}`.",
    )
    paginator: Paginator | None = Field(
        default=None,
        description="How to get the next page: `offset`, `page_number`, `cursor`, `header_cursor`, `header_link`, "
        "`json_link`, or `single_page` for an endpoint that returns everything at once. It is never guessed.",
    )
    data_selector: str | None = Field(
        default=None,
        min_length=1,
        description="JSONPath of the rows in the body. Without it, the first response must contain exactly one list of "
        "objects.",
    )
    response: Literal["json", "xml"] = Field(
        default="json",
        description="Not in dlt: the format of the responses. In XML, `data_selector` is the path of the rows' elements, such as "
        "`result/items/*`. Each element becomes a field; attributes begin with an underscore, and repeated elements are a "
        "list. All values are text, so declare the columns' types.",
    )
    response_actions: tuple[ResponseAction, ...] | None = Field(
        default=None,
        description="Responses that need special treatment. For a child resource, a first response of 404 or 410 means that one "
        "parent has no rows, and 403 that they cannot be seen, unless this list mentions the status.",
    )
    incremental: Incremental | None = Field(default=None, description="Read only what changed since the last run.")
    total_header: str | None = Field(
        default=None,
        min_length=1,
        description="Not in dlt: response header with the total number of rows, for example `X-Total-Count`.",
    )
    count: Count | None = Field(
        default=None,
        description="Not in dlt: a separate request for the total number of rows, for example OData's `$count`.",
    )
    wrong_signals: Names = Field(
        default=(),
        description="Not in dlt: headers or fields to ignore because this API sends wrong totals or next-page signals in "
        "them, for example `total`, `meta.has_more`, `X-Total-Count` or `Link`.",
    )
    empty_as: Annotated[
        tuple[EmptyAs, ...], BeforeValidator(_as_words, json_schema_input_type=EmptyAs | list[EmptyAs | None] | None)
    ] = Field(
        default=(),
        description="Not in dlt: what this API returns instead of an empty list: `null` or an empty `object` at the data selector, "
        "`missing` (no such key), `empty_body`, or `no_content` (204) after the first page. Without it, such a response is "
        "retried and then fails the run.",
    )
    single_object: bool = Field(
        default=False,
        description="Not in dlt: whether an object at the data selector is one row, for paths that return a single object.",
    )
    map_key: str | None = Field(
        default=None,
        min_length=1,
        description="Not in dlt: if the value at the data selector is a map of rows instead of a list, the field that takes "
        "each row's key in the map.",
    )
    auth: Auth | None = Field(default=None, description="Another way to send the same secret, for this endpoint.")

    @property
    def xml_path(self) -> tuple[str, ...] | None:
        """Returns the names of the elements that lead to the rows; None if responses are not XML."""
        return tuple((self.data_selector or "").split("/")) if self.response == "xml" else None


def as_endpoint(value: Any) -> Any:
    return {"path": value} if isinstance(value, str) else value

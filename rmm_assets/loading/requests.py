"""Builds requests from a plan: a resource's endpoint, its incremental range, and one request per row of its parent.

Values from rows are never trusted beyond their place: in a path a value is one segment; in parameters, headers and bodies it
stays a value; a missing value is an error that names it.
"""

from __future__ import annotations

import json
import re
import string
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from threading import BoundedSemaphore
from typing import Any
from urllib.parse import quote, unquote

from rmm_assets.config import Connection, Resource
from rmm_assets.config.names import normalized_column
from rmm_assets.errors import ParentRowError
from rmm_assets.loading.cursor import Bounds, Cursor, bounds_of
from rmm_assets.loading.dlt_internals import Resolved, parent_column, resolve_endpoints, values_at
from rmm_assets.loading.plan import LoadPlan, Validity, plan_load, shape_of
from rmm_assets.loading.refusals import REFUSALS
from rmm_assets.reading.endpoint import Endpoint
from rmm_assets.rows.json_text import plain_text
from rmm_assets.rows.type_memory import TypeMemory
from rmm_assets.rows.used_values import FieldPath


@dataclass(frozen=True)
class Requests:
    """The requests of one resource.

    Attributes:
        resource: The resource.
        endpoint: Its endpoint, with placeholders not yet filled in.
        parent: The requests of its parent resource; None if there is none.
        fields: For each placeholder, the field of the parent's row that fills it.
        inherited: Fields of the parent's row to add to each row.
        cursor: How it is read incrementally; None if it is not.
        history: The validity columns of its table if that keeps every version of a row.
    """

    resource: Resource
    endpoint: Endpoint
    parent: Requests | None
    fields: Mapping[str, str]
    inherited: tuple[str, ...]
    cursor: Cursor | None
    history: Validity | None = None

    @property
    def inherited_columns(self) -> dict[str, str]:
        """For each inherited field of the parent's row, its name in the child's rows."""
        return {} if self.parent is None else {f: parent_column(self.parent.resource.name, f) for f in self.inherited}

    @property
    def parent_key(self) -> tuple[str, ...]:
        """The inherited fields that identify a parent; empty if the rows lack one of them."""
        if self.parent is None:
            return ()
        fields = self.parent.resource.keys or tuple(self.fields.values())
        return tuple(fields) if set(fields) <= set(self.inherited) else ()

    @property
    def first_bounds(self) -> Bounds | None:
        """The range of a first run: a child needs all rows of its parent, even if the parent is read incrementally."""
        return None if self.cursor is None else bounds_of(self.cursor, None)


def plan_requests(connection: Connection, plan: LoadPlan) -> Requests:
    """Returns the requests of a resource and its ancestors."""
    limits = connection.limits
    resolved = resolve_endpoints(connection.rest_api_config())

    def of(plan: LoadPlan) -> Requests:
        found = resolved[plan.resource.name]
        params = dict(found.endpoint.get("params") or {})
        used = _used_paths(plan.resource, resolved)
        if plan.cursor is not None:
            params.pop(str(plan.cursor.start_param), None)
        for bound in found.fields:
            params.pop(bound, None)
        return Requests(
            resource=plan.resource,
            endpoint=replace(
                _endpoint(plan, found.endpoint, params, TypeMemory(limits.max_columns, limits.max_nesting), used),
                refusals=_refusals(plan.resource) if found.parent else (),
            ),
            parent=of(plan_load(connection, connection.resource(found.parent))) if found.parent else None,
            fields=found.fields,
            inherited=found.include_from_parent,
            cursor=plan.cursor,
            history=plan.history,
        )

    return of(plan)


def _used_paths(resource: Resource, resolved: Mapping[str, Resolved]) -> tuple[FieldPath, ...]:
    """Returns the paths of all fields of a resource's rows that its children use, and of its key; empty if they use none, or one
    that only a JSONPath finds.
    """
    children = [child for child in resolved.values() if child.parent == resource.name]
    bound = [field for child in children for field in child.fields.values()]
    if not bound or not resource.keys or not all(_PLAIN_PATH.fullmatch(field) for field in bound):
        return ()
    if any("." in name or "__" in name for name in resource.keys):  # a nested field, written in one of two ways
        return ()
    whole = [(name,) for name in (*resource.keys, *(name for child in children for name in child.include_from_parent))]
    return tuple(sorted({*(tuple(field.split(".")) for field in bound), *whole}))


_PLAIN_PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")


def _endpoint(
    plan: LoadPlan, config: Mapping[str, Any], params: dict[str, Any], types: TypeMemory, used: tuple[FieldPath, ...]
) -> Endpoint:
    resource = plan.resource
    paginator = resource.endpoint.paginator
    assert paginator is not None, "a paginator left to guessing is refused at load"
    return Endpoint(
        name=resource.name,
        path=config["path"],
        paginator=paginator,
        method=resource.endpoint.method,
        params=params,
        headers=dict(config.get("headers") or {}),
        json=config.get("json"),
        data=config.get("data"),
        data_selector=config.get("data_selector"),
        total_path=resource.total_path,
        total_header=resource.endpoint.total_header,
        count=resource.endpoint.count,
        wrong_signals=resource.endpoint.wrong_signals,
        empty_as=resource.endpoint.empty_as,
        single_object=resource.endpoint.single_object,
        xml_path=resource.endpoint.xml_path,
        map_key=resource.endpoint.map_key,
        null_values=frozenset(resource.null_values),
        replaces_nul=not plan.stores_nul,
        gate=BoundedSemaphore(resource.max_concurrency) if resource.max_concurrency else nullcontext(),
        ignore=tuple(config.get("response_actions") or ()),
        shape=replace(shape_of(plan), used_paths=used),
        types=types,
    )


def _refusals(resource: Resource) -> tuple[int, ...]:
    """Returns the statuses that refuse one parent and not the whole read: those of which the file says nothing."""
    said = {action.status_code for action in resource.endpoint.response_actions or ()}
    return () if None in said else tuple(status for status in REFUSALS if status not in said)


def request_of(requests: Requests, bounds: Bounds | None, row: Mapping[str, Any] | None = None) -> Endpoint:
    """Returns the endpoint with a range and the values of a parent's row filled in.

    Raises:
        ParentRowError: The row lacks a field or has a value that cannot be used in a request.
    """
    endpoint, cursor = requests.endpoint, requests.cursor
    bounds = None if bounds is None or cursor is None else bounds.sent(cursor)
    values = {} if bounds is None else bounds.placeholders()
    for placeholder, path in requests.fields.items() if row is not None else ():
        values[placeholder] = _value_of(requests, row or {}, path)
    params = _filled(_bounded(endpoint.params, values), _Filler(values, plain_text))
    if cursor is not None and bounds is not None:
        if cursor.start_param:
            params[cursor.start_param] = bounds.last_value
        if cursor.end_param:
            params[cursor.end_param] = bounds.end_value
    path = _Filler(values, lambda value: quote(plain_text(value), safe="")).fill(endpoint.path)
    if _steps(path) != _steps(endpoint.path):
        raise ParentRowError(_refusal(requests, row or {}, "a field", "`.` or `..`, which changes the path"))
    return replace(
        endpoint,
        path=path,
        params=params,
        headers=_filled(endpoint.headers, _Filler(values, _in_header(requests, row))),
        json=_filled(endpoint.json, _Filler(values, plain_text), keep_types=True),
        data=_filled(endpoint.data, _Filler(values, _in_body(endpoint))),
    )


def _bounded(params: Mapping[str, Any], values: Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns the parameters without those for a bound of the range that is not set."""
    unset = {f"{{{name}}}" for name, value in values.items() if value is None}
    return {name: value for name, value in params.items() if not (isinstance(value, str) and value in unset)}


def inherited_values(requests: Requests, row: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the fields of a parent's row to add to each row.

    Raises:
        ParentRowError: The parent's row lacks such a field.
    """
    for name in requests.inherited:
        if name not in row:
            raise ParentRowError(_refusal(requests, row, f"`{name}` (include_from_parent)", "missing"))
    return {column: row[name] for name, column in requests.inherited_columns.items()}


def parent_in_table(requests: Requests, row: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a parent's key by its columns in the children's table; empty if it has none there."""
    names = requests.inherited_columns
    return {normalized_column(names[field]): row.get(field) for field in requests.parent_key}


def label_of(requests: Requests, row: Mapping[str, Any]) -> str:
    """Names a parent's row in messages by its resource and key."""
    assert requests.parent is not None
    parent = requests.parent.resource
    named = {name: next(iter(values_at(name.replace("__", "."), row)), None) for name in parent.keys}
    named = named or {path: next(iter(values_at(path, row)), None) for path in requests.fields.values()}
    said = ", ".join(f"{name}={plain_text(value)[:60]}" for name, value in named.items() if value is not None)
    return f"{parent.name} {said or 'without its key'}"


def _value_of(requests: Requests, row: Mapping[str, Any], path: str) -> Any:
    found = values_at(path, row)
    value = found[0] if found else None
    what = {type(None): "null" if found else "missing", list: "a list", dict: "an object"}.get(type(value))
    what = "empty" if value == "" else what
    if what is not None:
        raise ParentRowError(_refusal(requests, row, f"`{path}`", what))
    return value


def _refusal(requests: Requests, row: Mapping[str, Any], name: str, what: str) -> str:
    return (
        f"{requests.resource.name}: {name} of {label_of(requests, row)} is {what}, so its {requests.resource.name} cannot "
        "be requested"
    )


def _steps(path: str) -> list[str]:
    """Returns the segments `.` and `..` of a path."""
    return [segment for segment in path.partition("?")[0].split("/") if unquote(segment) in (".", "..")]


def _in_header(requests: Requests, row: Mapping[str, Any] | None) -> Callable[[Any], str]:
    def write(value: Any) -> str:
        text = plain_text(value)
        if not text.isprintable():
            raise ParentRowError(_refusal(requests, row or {}, "a field", "text with control characters"))
        return text

    return write


def _in_body(endpoint: Endpoint) -> Callable[[Any], str]:
    """Returns the function that writes a value into a text body: as part of a JSON string or of a form."""
    kind = next((value for name, value in endpoint.headers.items() if name.lower() == "content-type"), "")
    if not isinstance(endpoint.data, str):
        return plain_text
    if "json" in kind or endpoint.data.lstrip()[:1] in ("{", "["):
        return lambda value: json.dumps(plain_text(value))[1:-1]
    return lambda value: quote(plain_text(value), safe="")


class _Filler(string.Formatter):
    """Fills in placeholders as dlt does, encoding each value for its place."""

    def __init__(self, values: Mapping[str, Any], write: Callable[[Any], str]) -> None:
        self._values, self._write = values, write

    def fill(self, text: str) -> str:
        return self.vformat(text, (), self._values)

    def value_of(self, text: str) -> Any:
        """Returns the value itself if the text is a single placeholder, else the text with placeholders filled in."""
        parts = list(self.parse(text))
        if len(parts) == 1 and parts[0][0] == "" and parts[0][1] and not parts[0][2] and not parts[0][3]:
            return self.get_field(parts[0][1], (), self._values)[0]
        return self.fill(text)

    def get_field(self, field_name: str, args: Any, kwargs: Any) -> Any:
        return (kwargs[field_name], field_name) if field_name in kwargs else super().get_field(field_name, args, kwargs)

    def format_field(self, value: Any, format_spec: str) -> str:
        return self._write(format(value, format_spec) if format_spec else value)


def _filled(value: Any, filler: _Filler, *, keep_types: bool = False) -> Any:
    """Returns any part of a request with its placeholders filled in."""
    if isinstance(value, str):
        return filler.value_of(value) if keep_types else filler.fill(value)
    if isinstance(value, Mapping):
        return {_filled(key, filler): _filled(inner, filler, keep_types=keep_types) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_filled(inner, filler, keep_types=keep_types) for inner in value]
    return value

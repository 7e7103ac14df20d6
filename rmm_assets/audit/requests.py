"""Builds a resource's requests: fills in parents' values and the start of a range, and changes the page size."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any
from urllib.parse import quote
from zoneinfo import ZoneInfo

from rmm_assets.audit.columns import moment_of, stated_moment
from rmm_assets.audit.documents import MISSING, look_up
from rmm_assets.config import Resource
from rmm_assets.config.names import normalized_column

_PLACEHOLDER = re.compile(r"\{(resources|incremental)\.([^{}]+)\}")
# Names of the page size, in lower case without `_ - $`.
_SIZES = frozenset(
    {
        "limit",
        "pagesize",
        "perpage",
        "max",
        "maxresults",
        "pagelimit",
        "itemsinpage",
        "itemsperpage",
        "size",
        "top",
        "rows",
    }
)


class Unfilled(Exception):
    """Raised for a request that lacks a value, which the message names."""


@dataclass(frozen=True)
class Target:
    """One list of rows to read: a complete request.

    Attributes:
        label: Its name in sentences.
        size: Requested page size; None if the request has no parameter for it.
        added: Fields of the parent's row to add to each row.
    """

    label: str
    path: str
    method: str
    params: Mapping[str, Any]
    headers: Mapping[str, str]
    json: Any
    data: Any
    resource: Resource
    size: int | None = None
    added: Mapping[str, Any] = field(default_factory=dict)

    @property
    def paginator(self) -> Any:
        return self.resource.endpoint.paginator

    @property
    def kind(self) -> str:
        return str(self.paginator.type) if self.paginator is not None else "single_page"

    @property
    def maximum(self) -> int | None:
        """The position at which the file says to stop; None if it does not."""
        found = getattr(self.paginator, "maximum_offset", None)
        return found if found is not None else getattr(self.paginator, "maximum_page", None)


def prime_below(number: int) -> int:
    """Returns the largest prime below a page size, so that pages start and end elsewhere than the load's."""
    return next((n for n in range(number - 1, 1, -1) if all(n % d for d in range(2, int(n**0.5) + 1))), number)


def resized(target: Target) -> Target:
    """Returns the target with another page size if the paging allows it."""
    if target.maximum is not None or target.kind == "single_page":
        return target
    if target.kind == "offset":
        return replace(target, size=prime_below(target.paginator.limit))
    for name, value in target.params.items():
        if re.sub(r"[_$-]", "", name.lower()) in _SIZES and re.fullmatch(r"\d+", str(value)) and int(value) > 0:
            size = prime_below(int(value))
            return replace(target, size=size, params={**target.params, name: size})
    return target


def target_of(resource: Resource, row: Mapping[str, Any] | None = None) -> Target:
    """Returns the request for a resource.

    Args:
        resource: The resource to read.
        row: The row of its parent, if it has one.

    Raises:
        Unfilled: A value of the parent's row or the start of a range is missing.
    """
    endpoint = resource.endpoint
    values = _Values(resource, row or {})
    params = dict(values.parameters())
    fill = values.fill
    added: dict[str, Any] = {}
    for name in resource.include_from_parent or ():
        value = look_up(name, row or {})
        added[f"_{resource.parent}_{name}"] = None if value is MISSING else value
    size: int | None = getattr(endpoint.paginator, "limit", None)
    for name, value in params.items():
        if re.sub(r"[_$-]", "", name.lower()) in _SIZES and re.fullmatch(r"\d+", str(value)):
            size = size or int(value)
    path = str(fill(resource.path, as_path=True))
    return Target(
        label=resource.name if row is None else f"{resource.name} at {path}",
        path=path,
        method=endpoint.method,
        params=params,
        headers={name: str(fill(value)) for name, value in endpoint.headers.items()},
        json=fill(endpoint.json_body),
        data=fill(endpoint.data),
        resource=resource,
        size=size,
        added=added,
    )


def range_of(resource: Resource) -> Mapping[str, Any] | None:
    """Returns the file's incremental settings; None if the resource is always read in full."""
    if resource.endpoint.incremental is not None:
        return resource.endpoint.incremental.model_dump()
    values = resource.endpoint.params.values()
    return next((v for v in values if isinstance(v, Mapping) and v.get("type") == "incremental"), None)


@dataclass
class _Values:
    """The values for placeholders."""

    resource: Resource
    row: Mapping[str, Any]

    def parameters(self) -> Iterator[tuple[str, Any]]:
        """Yields the query parameters, except those for a bound of the range that is not set."""
        said = self._range
        for name, value in self.resource.endpoint.params.items():
            kind = value.get("type") if isinstance(value, Mapping) else None
            if kind == "resolve":
                yield name, self._of_row(str(value.get("field")))
            elif kind == "incremental":
                if said.get("initial_value") is not None:
                    yield name, said["initial_value"]
            elif not (isinstance(value, str) and self._is_open(value)):
                yield name, self.fill(value)
        for key, bound in (("start_param", "initial_value"), ("end_param", "end_value")):
            if said.get(key) and said.get(bound) is not None:
                yield said[key], said[bound]

    def fill(self, value: Any, *, as_path: bool = False) -> Any:
        """Returns a value of the file with placeholders filled in; in a path, each is one segment."""
        if isinstance(value, Mapping):
            return {key: self.fill(inner) for key, inner in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.fill(inner) for inner in value]
        if not isinstance(value, str) or not _PLACEHOLDER.search(value):
            return value
        whole = _PLACEHOLDER.fullmatch(value)
        if whole and not as_path:
            return self._value(*whole.groups())
        return _PLACEHOLDER.sub(lambda match: self._text(match, as_path=as_path), value)

    def _text(self, match: re.Match[str], *, as_path: bool) -> str:
        value = self._value(match[1], match[2])
        text = str(value).lower() if isinstance(value, bool) else str(value)
        if not as_path:
            return text
        if text in ("", ".", ".."):
            raise Unfilled(f"{self.resource.name}: {match[0]} is {text!r}, which cannot be used in a path")
        return quote(text, safe="")

    def _value(self, of: str, name: str) -> Any:
        if of == "resources":
            return self._of_row(name.partition(".")[2])
        value = self._bound(name)
        if value is None:
            raise Unfilled(
                f"{self.resource.name}: the range has no value for {{incremental.{name}}} before a first load"
            )
        return value

    def _of_row(self, name: str) -> Any:
        value = look_up(name, self.row)
        if value is MISSING or value is None:
            raise Unfilled(f"{self.resource.name}: a row of {self.resource.parent} has no {name}, so its children cannot "
                           "be read")  # fmt: skip
        return value

    def _bound(self, name: str) -> Any:
        return self._range.get("end_value" if name == "end_value" else "initial_value")

    @cached_property
    def _range(self) -> Mapping[str, Any]:
        """The settings of the range, with its bounds as requests contain them."""
        said = dict(range_of(self.resource) or {})
        for name in ("initial_value", "end_value") if said.get("start_format") else ():
            if said.get(name) is not None:
                said[name] = self._sent(said, said[name])
        return said

    def _sent(self, said: Mapping[str, Any], value: Any) -> Any:
        column = normalized_column(str(said["cursor_path"]).replace(".", "__"))
        hints = next((h for n, h in self.resource.columns.items() if normalized_column(n) == column and h.stamp), None)
        moment = (stated_moment(value, hints) if hints is not None else None) or moment_of(value)
        if moment is None:
            raise Unfilled(f"{self.resource.name}: a bound of the range cannot be written as start_format says")
        pattern, seconds = said["start_format"], moment.timestamp()
        if pattern in ("epoch_s", "epoch_ms"):
            return int(seconds // 1 if pattern == "epoch_s" else seconds * 1000 // 1)
        local = moment.astimezone(ZoneInfo(said.get("start_timezone") or "UTC"))
        return local.isoformat().replace("+00:00", "Z") if pattern == "iso" else local.strftime(pattern)

    def _is_open(self, value: str) -> bool:
        """Returns whether a parameter is a bound of the range that is not set."""
        return any(m[1] == "incremental" and self._bound(m[2]) is None for m in _PLACEHOLDER.finditer(value))

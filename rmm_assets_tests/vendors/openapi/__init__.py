"""Compares requests with vendors' OpenAPI descriptions, of which it keeps paths and names of parameters.

A file `<profile>.json` has the operations that the profile's requests use, as method and path, with their query parameters.
After a change of a profile's paths, write it again from the vendor's description, which is not kept here:

    python -m rmm_assets_tests.vendors.openapi datto_rmm "api-evangelist/datto openapi/_original @0f6e526" datto-rmm-openapi.json
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from rmm_assets_tests.http.servers import Seen
from rmm_assets_tests.vendors.dialect import Asked

FOLDER = Path(__file__).parent

# What precedes the paths of a description in an address, if its `servers` do not say so.
_BASES = {"connectwise_automate": "/cwa"}


class Operation(NamedTuple):
    """An operation of a description: its method, its path with placeholders, and its query parameters."""

    method: str
    path: str
    params: frozenset[str]

    def is_of(self, method: str, path: str) -> bool:
        pattern = re.sub(r"\\\{[^{}]+\\\}", "[^/]+", re.escape(self.path))
        return self.method == method and re.fullmatch(pattern, path) is not None


def described() -> list[str]:
    """Returns the profiles whose vendors' descriptions are public."""
    return sorted(file.stem for file in FOLDER.glob("*.json"))


def operations(profile: str) -> list[Operation]:
    """Returns what is kept of a vendor's description."""
    kept = json.loads((FOLDER / f"{profile}.json").read_text(encoding="utf-8"))["operations"]
    named = {name.partition(" "): frozenset(params) for name, params in kept.items()}
    return [Operation(method, path, params) for (method, _, path), params in named.items()]


def unknown(known: Iterable[Operation], seen: Iterable[Seen]) -> set[str]:
    """Returns the paths and parameters of requests that a description does not have."""
    found, known = set(), list(known)
    for asked in map(Asked.of, seen):
        # Of several that fit, the one with the fewest placeholders is meant.
        fits = sorted(
            (each for each in known if each.is_of(asked.method, asked.path)), key=lambda each: each.path.count("{")
        )
        if not fits:
            found.add(f"{asked.method} {asked.path}")
        else:
            found |= {f"{asked.method} {fits[0].path}?{name}" for name in asked.query if name not in fits[0].params}
    return found


def read(profile: str, description: Mapping[str, Any]) -> Iterator[Operation]:
    """Yields the operations of a description."""
    servers = description.get("servers") or [{"url": description.get("basePath", "")}]
    base = _BASES.get(profile, re.sub(r"https?://[^/]*", "", servers[0]["url"]).rstrip("/"))
    for path, item in description["paths"].items():
        for method, operation in item.items():
            if method not in ("get", "post", "patch"):
                continue
            params = [
                _resolved(each, description) for each in (*item.get("parameters", ()), *operation.get("parameters", ()))
            ]
            # ASP.NET prints the name of the model that it binds a parameter to: `options.orderBy.name` is `orderBy`.
            names = {re.sub(r"^options\.(\w+).*", r"\1", each["name"]) for each in params if each["in"] == "query"}
            yield Operation(method.upper(), base + path, frozenset(names))


def _resolved(value: Mapping[str, Any], description: Mapping[str, Any]) -> Mapping[str, Any]:
    found: Any = value
    if "$ref" in value:
        found = description
        for step in value["$ref"].removeprefix("#/").split("/"):
            found = found[step]
    return dict(found)


def write(profile: str, source: str, files: Iterable[Path], used: Iterable[tuple[str, str]]) -> None:
    """Writes the operations of descriptions that a profile's requests use, as method and path."""
    used = set(used)
    kept = {}
    for file in files:
        for each in read(profile, yaml.safe_load(file.read_text(encoding="utf-8"))):
            if any(each.is_of(method, path) for method, path in used):
                kept[f"{each.method} {each.path}"] = sorted(each.params)
    content = {"source": source, "operations": dict(sorted(kept.items()))}
    (FOLDER / f"{profile}.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")

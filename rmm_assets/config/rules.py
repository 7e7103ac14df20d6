"""A connection to what is wrong with it: secrets in plain text, and what must hold between its keys.

Every rule yields errors with the path of the key that is at fault and a sentence that says what to write; no
sentence repeats a value that could be a secret. What one key may hold by itself stands with the key.
"""

from __future__ import annotations

import re
import string
from collections.abc import Iterator, Mapping
from functools import cache
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import parse_qsl, urlsplit

from pydantic_core import InitErrorDetails

from rmm_assets.reading.paginators import no_paginator
from rmm_assets.settings import did_you_mean, line_error

if TYPE_CHECKING:
    from rmm_assets.config.connection import Connection
    from rmm_assets.config.resource import Resource

Path = tuple[str | int, ...]

# --- secrets in plain text

_SECRET_NAME = re.compile(
    r"(^|_)(api_?key|(access|auth|subscription|private|secret|shared|master)_key|password|passwd|pwd|passphrase|secret"
    r"|(?<!page_)(?<!next_)(?<!sync_)(?<!continuation_)token|credentials?|authorization|cookie|bearer|jwt|signature)$"
    r"|^(key|sig|x_auth|x_access|session_?id)$"
)
# What carries these words without being a secret: hints of columns, names of Dagster tags, checks, the
# reference itself.
_NOT_LOOKED_AT = {"columns", "checks", "tags", "nested_hints", "simulator", "dlt_secret"}
_SCHEMES = re.compile(r"^\s*(bearer|basic|token|apikey)\s+\S", re.IGNORECASE)


def is_secret_name(name: str) -> bool:
    """Whether a header, parameter or key of that name is one that holds a secret."""
    snake = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name)
    return _SECRET_NAME.search(re.sub(r"[^a-z0-9]+", "_", snake.lower()).strip("_")) is not None


def secrets(attributes: Mapping[str, Any]) -> list[InitErrorDetails]:
    """Every place of a connection's attributes where a secret is written, or where a template would read one.

    Args:
        attributes: The file's `attributes`, before or after templates are rendered.
    """
    name = attributes.get("name")
    variable = f"{name.upper()}_API_KEY" if isinstance(name, str) and name.isidentifier() else "ACME_API_KEY"
    reference = f"`api_key: {{env: {variable}}}`"
    return [
        line_error(
            path,
            f"a secret may not stand in the file, nor come out of a template: {_instead(path, reference)}",
        )
        for path in _secret_paths(attributes, ())
    ]


def _instead(path: Path, reference: str) -> str:
    where = {str(part) for part in path}
    last = str(path[-1])
    if path[0] == "destination":
        return "leave it out, and dlt looks it up itself, for example in DESTINATION__POSTGRES__CREDENTIALS"
    if path == ("api_key",):
        return f"write {reference} and set it there"
    if "headers" in where:
        scheme = "bearer" if last.lower() == "authorization" else f"{{type: api_key, name: {last}, location: header}}"
        return f"write `auth: {scheme}` under `client` and {reference} beside it"
    if "params" in where or "url" in last or last == "path":
        auth = f"{{type: api_key, name: {last if 'params' in where else 'api_key'}, location: query}}"
        return f"write `auth: {auth}` under `client` and {reference} beside it"
    return f"leave it out here and write {reference} beside `client`"


def _secret_paths(value: Any, path: Path) -> Iterator[Path]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if key not in _NOT_LOOKED_AT:
                yield from _secret_paths(inner, (*path, key))
    elif isinstance(value, (list, tuple)):
        for index, inner in enumerate(value):
            yield from _secret_paths(inner, (*path, index))
    elif value is not None and not isinstance(value, bool) and value != "":
        named = next((str(part) for part in reversed(path) if isinstance(part, str)), "")
        # A destination's credentials may be a path or a URL without a password.
        by_name = path != ("destination", "credentials") and is_secret_name(named)
        # A value of the parent's row is no secret of the file, whatever it is called.
        if (by_name and not _is_placeholder(value)) or (isinstance(value, str) and _holds_secret(value, path)):
            yield path


def _is_placeholder(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch(r"\{(resources|incremental)\.[^{}]+\}", value) is not None


def _holds_secret(text: str, path: Path) -> bool:
    if "headers" in path and _SCHEMES.match(text):
        return True
    if "://" not in text and "?" not in text:
        return False
    try:
        parts = urlsplit(text)
    except ValueError:
        return False
    return bool(parts.password) or any(
        is_secret_name(key) and value and not _is_placeholder(value) for key, value in parse_qsl(parts.query)
    )


# --- names


@cache
def _naming() -> Any:
    from dlt.common.normalizers.naming.snake_case import NamingConvention

    return NamingConvention()


def normalized_table(name: str) -> str:
    """A table's name as dlt's snake_case naming makes it; `a__b` stays a nested one."""
    return str(_naming().normalize_tables_path(name))


def normalized_column(path: str) -> str:
    """A column's name as dlt's snake_case naming makes it; `a__b` stays the path of a nested field."""
    return str(_naming().normalize_path(path))


def _placeholders(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _placeholders(key)
            yield from _placeholders(inner)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from _placeholders(inner)
    elif isinstance(value, str):
        yield from (field for _, field, _, _ in string.Formatter().parse(value) if field)


def parents(resource: Resource) -> dict[str, Path]:
    """The resources whose rows this one takes values from, each with the path of the key that says so."""
    endpoint = resource.endpoint
    found: dict[str, Path] = {}
    for key, value in (
        ("path", resource.path),
        ("params", endpoint.params),
        ("json", endpoint.json_body),
        ("data", endpoint.data),
        ("headers", endpoint.headers),
    ):
        for field in _placeholders(value):
            if field.startswith("resources.") and field.count(".") >= 2:
                found.setdefault(field.split(".")[1], ("endpoint", key))
    for name, value in endpoint.params.items():
        if isinstance(value, Mapping) and value.get("type") == "resolve":
            found.setdefault(str(value.get("resource")), ("endpoint", "params", name))
    return found


def is_known_to_dlt(paginator: str) -> bool:
    """Whether dlt has a paginator of that name."""
    from dlt.sources.rest_api.config_setup import PAGINATOR_MAP

    return paginator in PAGINATOR_MAP


# --- what must hold between keys


def faults(connection: Connection) -> list[InitErrorDetails]:
    """Everything that is wrong between the keys of a connection whose single keys are right."""
    found = [
        *_address_faults(connection),
        *_auth_faults(connection),
        *_name_faults(connection),
        *(fault for index, resource in enumerate(connection.resources) for fault in _resource_faults(
            connection, resource, ("resources", index)))
    ]  # fmt: skip
    # dlt's own words are less exact about the place, so they come last, when nothing else is wrong.
    return found or _dlt_faults(connection)


def _is_loopback(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _url_fault(connection: Connection, url: str) -> str | None:
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        return "this is no URL"
    if parts.scheme not in ("http", "https") or not host:
        return "this is no address; write https://host/path"
    if parts.scheme == "http" and not connection.allow_http and not _is_loopback(host):
        return "plain http sends the secret readable; write https, or `allow_http: true` beside `client`"
    return None


def _address_faults(connection: Connection) -> Iterator[InitErrorDetails]:
    base_url = connection.client.base_url
    if connection.simulator is not None:
        if base_url is not None:
            yield line_error(("client", "base_url"), "the simulator has its own address; leave out one of the two")
    elif base_url is None:
        yield line_error(("client", "base_url"), "missing; write the address of the API, for example https://host/api")
    elif fault := _url_fault(connection, base_url):
        yield line_error(("client", "base_url"), fault)
    base = urlsplit(base_url or "")
    for index, resource in enumerate(connection.resources):
        where: Path = ("resources", index, "endpoint", "path")
        if "://" not in resource.path.split("?", 1)[0]:
            continue
        if fault := _url_fault(connection, resource.path):
            yield line_error(where, fault)
        elif urlsplit(resource.path)[:2] != base[:2]:
            yield line_error(
                where,
                "another origin than client.base_url would be sent the secret; make it a connection of its own",
            )


def _auth_faults(connection: Connection) -> Iterator[InitErrorDetails]:
    places: list[tuple[Path, Any]] = [(("client", "auth"), connection.client.auth)]
    places += [
        (("resources", index, "endpoint", "auth"), resource.endpoint.auth)
        for index, resource in enumerate(connection.resources)
    ]
    used = [(path, auth) for path, auth in places if auth is not None]
    if connection.simulator is not None:
        if connection.api_key is not None:
            yield line_error(("api_key",), "the simulator has its own key; leave out one of the two")
    elif connection.api_key is None and used:
        yield line_error(
            used[0][0],
            f"needs a secret; write `api_key: {{env: {connection.name.upper()}_API_KEY}}` beside `client`",
        )
    elif connection.api_key is not None and not used:
        yield line_error(
            ("api_key",), "no `client.auth` says where the key goes; write bearer, api_key, http_basic or "
            "oauth2_client_credentials there"
        )  # fmt: skip
    for path, auth in used:
        if auth.type == "oauth2_client_credentials" and (fault := _url_fault(connection, auth.access_token_url)):
            yield line_error((*path, "access_token_url"), fault)


def _name_faults(connection: Connection) -> Iterator[InitErrorDetails]:
    names: dict[str, int] = {}
    tables: dict[str, str] = {}
    for index, resource in enumerate(connection.resources):
        where: Path = ("resources", index, "name")
        if resource.name in names:
            yield line_error(where, f"there are two resources `{resource.name}`; give one of them another name")
            continue
        names[resource.name] = index
        # Rows that cannot land have a table of their own beside each resource's.
        for table in (resource.table, f"{resource.table}_rejected"):
            if table in tables:
                yield line_error(
                    ("resources", index, "table_name" if resource.table_name else "name"),
                    f"`{resource.name}` and `{tables[table]}` would both write the table `{table}`; "
                    "give one of them another `table_name`",
                )
                break
        else:
            tables |= dict.fromkeys((resource.table, f"{resource.table}_rejected"), resource.name)


def _resource_faults(connection: Connection, resource: Resource, where: Path) -> Iterator[InitErrorDetails]:
    if resource.endpoint.paginator is None:
        yield line_error((*where, "endpoint", "paginator"), f"`{resource.name}` has {no_paginator()}")
    if resource.disposition == "merge" and not resource.keys:
        yield line_error(
            (*where, "primary_key"),
            f"`{resource.name}` merges but has no primary key; write `primary_key: id`, or "
            f"`write_disposition: replace`",
        )
    if resource.history and resource.write_disposition and resource.disposition != "merge":
        yield line_error(
            (*where, "history"), f"keeps versions by merging, but write_disposition is {resource.disposition}"
        )
    known = {other.name for other in connection.resources}
    above = parents(resource)
    for parent, path in above.items():
        if parent == resource.name:
            yield line_error((*where, *path), f"`{resource.name}` cannot take values from itself")
        elif parent not in known:
            yield line_error((*where, *path), f"no resource `{parent}` here; {did_you_mean(parent, sorted(known))}")
    if len(above) > 1:
        yield line_error(where, f"`{resource.name}` takes values from {' and '.join(above)}; dlt allows one parent")
    for column, target in resource.checks.references.items():
        name = target.partition(".")[0]
        if name not in known:
            yield line_error(
                (*where, "checks", "references", column),
                f"no resource `{name}` here; {did_you_mean(name, sorted(known))}",
            )
    if resource.include_from_parent and not above:
        yield line_error(
            (*where, "include_from_parent"),
            "has no parent; write `{resources.parent.field}` in the path, or leave it out",
        )
    yield from _check_faults(resource, (*where, "checks"))


def _check_faults(resource: Resource, where: Path) -> Iterator[InitErrorDetails]:
    checks = resource.checks
    named = [
        *((("unique",), column) for columns in checks.unique or () for column in columns),
        *((("not_null",), column) for column in checks.not_null),
        *((("accepted_values", column), column) for column in checks.accepted_values),
        *((("references", column), column) for column in checks.references),
    ]
    declared = {normalized_column(name) for name in resource.columns} | {
        normalized_column(key) for key in resource.keys
    }
    contract = resource.schema_contract.columns if resource.schema_contract else None
    for path, column in named:
        normal = normalized_column(column)
        if normal != column:
            yield line_error((*where, *path), f"no table has a column `{column}`; dlt's naming makes it `{normal}`")
        elif contract not in (None, "evolve") and declared and column not in declared:
            yield line_error(
                (*where, *path),
                f"`{column}` is not declared, and schema_contract lets no other columns in; "
                f"{did_you_mean(column, sorted(declared))}",
            )
    for column, values in checks.accepted_values.items():
        hints = resource.columns.get(column)
        if hints and hints.data_type == "text" and any(isinstance(value, bool) for value in values):
            yield line_error(
                (*where, "accepted_values", column),
                "YAML reads on, off, yes and no as true and false; put them in quotes",
            )


def _dlt_faults(connection: Connection) -> list[InitErrorDetails]:
    """What dlt itself would refuse: it validates the config and builds its resources; nothing is fetched."""
    import dlt.destinations
    from dlt.common.validation import validate_dict
    from dlt.sources.rest_api import rest_api_resources
    from dlt.sources.rest_api.typing import RESTAPIConfig

    kind = connection.destination.type
    if "." not in kind and not hasattr(dlt.destinations, kind):
        known = [name for name in dlt.destinations.__all__ if name.islower()]
        return [line_error(("destination",), f"dlt has no destination `{kind}`; {did_you_mean(kind, known)}")]
    config = connection.rest_api_config()
    # Auth wants its secret as soon as it is built; the connection's own rules have looked at it already.
    config["client"] = {"base_url": "https://127.0.0.1", **config["client"]}
    config["client"].pop("auth", None)
    for resource in config["resources"]:
        resource["endpoint"].pop("auth", None)
    try:
        validate_dict(RESTAPIConfig, config, path=".")
        rest_api_resources(cast(RESTAPIConfig, config))
    except Exception as error:  # dlt raises many kinds, and each is a fault of the file
        message = " ".join(str(error).split())
        named = [
            index
            for index, resource in enumerate(connection.resources)
            if re.search(rf"['`]{resource.name}['`]", message)
        ]
        return [line_error(("resources", *named[:1]), f"dlt refuses this: {message}")]
    return []

"""Checks the rules between the keys of a connection; the models validate each key on its own.

Every rule yields errors with the path of the key at fault and a message that says what to write. No message repeats a
value that could be a secret.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from difflib import get_close_matches
from functools import cache
from typing import Any, cast, get_args, get_type_hints

from pydantic_core import InitErrorDetails

from rmm_assets.config.attributes import Attributes
from rmm_assets.config.client import ApiKey
from rmm_assets.config.destinations import capabilities, changes_rows, merge_strategies, missing_extra, speaks_sql
from rmm_assets.config.names import normalized_column
from rmm_assets.config.resource import Resource
from rmm_assets.config.tenants import PLACEHOLDER
from rmm_assets.http.address import address_fault, read_origin
from rmm_assets.http.auth import AuthSettings
from rmm_assets.reading.paginators import no_paginator
from rmm_assets.rows.selector import keys_of
from rmm_assets.settings import did_you_mean, leaves, line_error
from rmm_assets.tables.locks import LOCKS
from rmm_assets.tables.syncs import SYNCS

Path = tuple[str | int, ...]

# The first words of placeholders.
_CONTEXTS = ("resources", "incremental", "secrets", "settings")
_DOTTED = re.compile(r"\{([A-Za-z_]\w*)\.[^{}\s]+\}")


def faults(connection: Attributes) -> list[InitErrorDetails]:
    """Returns violations of the rules between keys, for a connection whose keys are each valid."""
    # dlt's messages are less precise about the position, so dlt only validates if there are no other errors.
    return own_faults(connection) or _dlt_faults(connection)


def own_faults(connection: Attributes) -> list[InitErrorDetails]:
    """Returns violations of this project's own rules; dlt's validation takes ten times as long."""
    return [
        *_address_faults(connection),
        *_tls_faults(connection),
        *_auth_faults(connection),
        *_name_faults(connection),
        *_tenant_faults(connection),
        *(fault for index, resource in enumerate(connection.resources) for fault in _resource_faults(
            connection, resource, ("resources", index))),
        *_schedule_faults(connection),
    ]  # fmt: skip


def _schedule_faults(connection: Attributes) -> Iterator[InitErrorDetails]:
    if connection.schedule is not None and all(each.schedule for each in connection.resources if each.selected):
        yield line_error(("schedule",), "every resource has a schedule of its own; leave this one out")


def _address_faults(connection: Attributes) -> Iterator[InitErrorDetails]:
    base_url = connection.client.base_url
    base_fault = None if base_url is None else address_fault(base_url, allow_http=connection.allow_http)
    if connection.simulator is not None:
        if base_url is not None:
            yield line_error(("client", "base_url"), "the simulator has its own URL; remove `base_url` or `simulator`")
    elif base_url is None:
        yield line_error(("client", "base_url"), "missing; write the URL of the API, for example https://host/api")
    elif base_fault:
        yield line_error(("client", "base_url"), base_fault)
    for index, resource in enumerate(connection.resources):
        where: Path = ("resources", index, "endpoint", "path")
        if "://" not in resource.path.split("?", 1)[0]:
            continue
        if fault := address_fault(resource.path, allow_http=connection.allow_http):
            yield line_error(where, fault)
        elif base_url is None or (not base_fault and read_origin(resource.path) != read_origin(base_url)):
            yield line_error(
                where,
                "the secret would be sent to another origin than client.base_url; move this resource to its own connection",
            )


def _tls_faults(connection: Attributes) -> Iterator[InitErrorDetails]:
    if connection.tls.ca_file is not None:
        # Imported here, because few files need it.
        from rmm_assets.http.wire import tls_context

        try:
            tls_context(connection.tls)
        except ValueError as error:
            yield line_error(("tls", "ca_file"), str(error).removeprefix("tls.ca_file: "))


def _auth_faults(connection: Attributes) -> Iterator[InitErrorDetails]:
    places: list[tuple[Path, Any]] = [(("client", "auth"), connection.client.auth)]
    places += [
        (("resources", index, "endpoint", "auth"), resource.endpoint.auth)
        for index, resource in enumerate(connection.resources)
    ]
    used = [(path, auth) for path, auth in places if auth is not None]
    keyed = [(path, auth) for path, auth in used if auth.needs_api_key]
    if connection.simulator is not None:
        for key in ("api_key", "secrets"):
            if getattr(connection, key):
                yield line_error((key,), f"the simulator has its own key; remove `{key}` or `simulator`")
    elif connection.api_key is None and keyed:
        yield line_error(
            keyed[0][0],
            f"needs a secret; write `api_key: {{env: {connection.name.upper()}_API_KEY}}` next to `client`",
        )
    elif connection.api_key is not None and not keyed:
        kinds = ", ".join(kind for kind, model in AuthSettings.kinds().items() if model.needs_api_key)
        why = (
            "auth of type token takes its secrets from `secrets`; move it there"
            if used
            else (f"`client.auth` is missing; set it to one of {kinds}")
        )
        yield line_error(("api_key",), f"not used, because {why}")  # fmt: skip
    for path, auth in used:
        for key, url in auth.addresses.items():
            if fault := address_fault(url, allow_http=connection.allow_http):
                yield line_error((*path, *key), fault)


def _name_faults(connection: Attributes) -> Iterator[InitErrorDetails]:
    names: dict[str, int] = {}
    tables: dict[str, str] = {}
    for index, resource in enumerate(connection.resources):
        where: Path = ("resources", index, "name")
        if resource.name in names:
            yield line_error(where, f"there are two resources `{resource.name}`; give one of them another name")
            continue
        names[resource.name] = index
        if resource.table in (SYNCS, LOCKS):
            key = "table_name" if resource.table_name else "name"
            message = f"the table `{resource.table}` is this project's own; give `{resource.name}` another `table_name`"
            yield line_error(("resources", index, key), message)
        # Rejected rows go to a second table of each resource.
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


def _tenant_faults(connection: Attributes) -> Iterator[InitErrorDetails]:
    if connection.tenants is None:
        references: dict[Path, ApiKey | None] = {("api_key",): connection.api_key}
        references |= {("secrets", name): reference for name, reference in connection.secrets.items()}
        for path, reference in references.items():
            if reference is not None and PLACEHOLDER in f"{reference.env}{reference.dlt_secret}":
                yield line_error(path, "`{tenant}` needs `tenants`; write them, or the name of one variable or secret")
        return
    if connection.simulator is not None:
        yield line_error(("simulator",), "does not work with `tenants`; leave it out")
    for index, resource in enumerate(connection.resources):
        where: Path = ("resources", index)
        said = resource.write_disposition
        if said is not None and said.row_version_column_name is not None and resource.strategy == "scd2":
            yield line_error(
                (*where, "write_disposition", "row_version_column_name"),
                "tells versions apart in the whole table, where tenants may have the same values; leave it out",
            )


def _resource_faults(connection: Attributes, resource: Resource, where: Path) -> Iterator[InitErrorDetails]:
    if resource.endpoint.paginator is None:
        yield line_error((*where, "endpoint", "paginator"), f"`{resource.name}` has {no_paginator()}")
    if resource.endpoint.json_body is not None and resource.endpoint.data is not None:
        yield line_error((*where, "endpoint", "data"), "a request has one body; write either `json` or `data`")
    yield from _placeholder_faults(resource, (*where, "endpoint"))
    if resource.disposition == "merge" and not resource.keys:
        yield line_error(
            (*where, "primary_key"),
            f"`{resource.name}` merges but has no primary key; write `primary_key: id` or `write_disposition: replace`",
        )
    for column_name, hints in resource.columns.items():
        if hints.dedup_sort and (resource.disposition != "merge" or resource.strategy not in (None, "delete-insert")):
            yield line_error(
                (*where, "columns", column_name, "dedup_sort"),
                "only works in a merge with `strategy: delete-insert`, where it picks one of several rows with the same "
                "key; leave it out, or use that strategy",
            )
    if resource.read_at_column is not None and resource.disposition == "merge":
        yield line_error(
            (*where, "read_at_column"),
            "a merge writes only rows that have changed, so the time would be that of the last change; write "
            "`write_disposition: append`, or leave it out: `rmm_syncs` says when a table was last loaded",
        )
    yield from _range_faults(resource, where)
    yield from _map_faults(resource, (*where, "endpoint"))
    yield from _disposition_faults(resource, (*where, "write_disposition"))
    if resource.disposition == "replace" and (path := resource.incremental_at) is not None:
        yield line_error(
            (*where, *path),
            "reads only changes, so `write_disposition: replace` would drop all other rows; use merge",
        )
    said = resource.write_disposition
    if said is not None and resource.disposition == "merge" and (path := resource.incremental_at) is not None:
        scope = said.destination_scope
        if scope is not None and "{staging_table}" not in scope:
            yield line_error(
                (*where, "write_disposition", "destination_scope"),
                "with `incremental`, only changes are read, and all other rows of the scope would be deleted or end; name the rows "
                "by `{staging_table}`, or leave it out",
            )
        elif resource.strategy == "cdc" and scope is None and not resource.merge_key:
            yield line_error(
                (*where, *path),
                "reads only changes, so `strategy: cdc` would delete all other rows; use another strategy",
            )
    if resource.strategy == "scd2" and resource.merge_key and resource.incremental_at is not None:
        yield line_error(
            (*where, "merge_key"),
            "with `incremental`, only changes are read, and history would end all other rows with the same merge key; leave it out",
        )
    if resource.history and resource.write_disposition and resource.disposition != "merge":
        yield line_error(
            (*where, "history"),
            f"keeps versions by merging, but write_disposition is {resource.disposition}; write merge",
        )
    known = {other.name for other in connection.resources}
    parents = resource.parents
    for parent, path in parents.items():
        if parent == resource.name:
            yield line_error((*where, *path), f"`{resource.name}` cannot take values from itself")
        elif parent not in known:
            yield line_error((*where, *path), f"unknown resource `{parent}`; {did_you_mean(parent, sorted(known))}")
    if len(parents) > 1:
        yield line_error(where, f"`{resource.name}` takes values from {' and '.join(parents)}; dlt allows one parent")
    for column, target in resource.checks.references.items():
        name = target.partition(".")[0]
        if name not in known:
            yield line_error(
                (*where, "checks", "references", column),
                f"unknown resource `{name}`; {did_you_mean(name, sorted(known))}",
            )
    if resource.include_from_parent and not parents:
        yield line_error(
            (*where, "include_from_parent"),
            "has no parent; write `{resources.parent.field}` in the path, or leave it out",
        )
    yield from _check_faults(resource, (*where, "checks"))


def _range_faults(resource: Resource, where: Path) -> Iterator[InitErrorDetails]:
    incremental, at = resource.incremental, resource.incremental_at or ("endpoint", "incremental")
    bounds = {"initial_value": "initial_value", "start_value": "initial_value", "last_value": "initial_value"}
    bounds["end_value"] = "end_value"
    used = False
    for path, text, name in resource.range_placeholders:
        used = True
        if name not in bounds:
            message = f"unknown placeholder `incremental.{name}`; {did_you_mean(name, sorted(bounds))}"
        elif incremental is None:
            message = (
                f"`{{incremental.{name}}}` has no range; write `incremental: {{cursor_path: ...}}` under `endpoint`"
            )
        elif getattr(incremental, bounds[name]) is None and (path[1] != "params" or text != f"{{incremental.{name}}}"):
            message = (
                f"`{{incremental.{name}}}` has no value in the first run; write `{bounds[name]}` under `incremental`, for "
                "example 1970-01-01T00:00:00Z"
            )
        else:
            continue
        yield line_error((*where, *path), message)
    if incremental is not None and incremental.full_every is not None:
        why = None
        if resource.disposition != "merge" or resource.history:
            why = "reads rows again, which only a merge without history loads once; write `write_disposition: merge`"
        elif incremental.end_value is not None:
            why = "has no effect on a range with an `end_value`, which never moves on; leave one of them out"
        if why:
            yield line_error((*where, *at, "full_every"), why)
    if incremental is None or incremental.start_format is None or at[1] == "params":
        return
    if not (used or incremental.start_param or incremental.end_param):
        message = "no request contains the range; write `start_param`, or `{incremental.start_value}` in a parameter"
        yield line_error((*where, *at, "start_format"), message)


_XML_PATH = re.compile(r"[A-Za-z_][\w-]*(/[A-Za-z_][\w-]*)*/([A-Za-z_][\w-]*|\*)", re.ASCII)


def _map_faults(resource: Resource, where: Path) -> Iterator[InitErrorDetails]:
    endpoint = resource.endpoint
    if endpoint.xml_path is not None and not _XML_PATH.fullmatch(endpoint.data_selector or ""):
        yield line_error(
            (*where, "data_selector"),
            "in XML, it is the path of the rows' elements from the root, for example result/items/* or devices/device",
        )
    if endpoint.map_key is None:
        return
    if endpoint.xml_path is not None:
        yield line_error((*where, "map_key"), "XML has no maps; leave it out")
        return
    if endpoint.data_selector is None or keys_of(endpoint.data_selector) is None:
        yield line_error(
            (*where, "data_selector"),
            "with `map_key`, it is the path of the map: keys separated by dots, or `$` if the whole body is the map",
        )
    if endpoint.single_object:
        yield line_error(
            (*where, "single_object"), "the object is a map of rows because of `map_key`; leave one of them out"
        )


def _placeholder_faults(resource: Resource, where: Path) -> Iterator[InitErrorDetails]:
    """Yields errors for braces that are probably meant as placeholders."""
    endpoint = resource.endpoint
    # In a path, dlt refuses every brace that is not a placeholder.
    for key in ("params", "json", "data", "headers"):
        for text in leaves(getattr(endpoint, "json_body" if key == "json" else key)):
            for word in _DOTTED.findall(text) if isinstance(text, str) else ():
                if word not in _CONTEXTS and (near := get_close_matches(word, _CONTEXTS, n=1, cutoff=0.8)):
                    yield line_error((*where, key), f"unknown placeholder `{{{word}. ...}}`; did you mean `{near[0]}`?")


def _disposition_faults(resource: Resource, where: Path) -> Iterator[InitErrorDetails]:
    """Yields errors for merge options that do not belong to the merge strategy, according to dlt's types."""
    disposition = resource.write_disposition
    if disposition is None:
        return
    options = disposition.model_dump(exclude_unset=True, exclude={"disposition", "strategy"})
    if disposition.strategy is not None and disposition.disposition != "merge":
        yield line_error(
            (*where, "strategy"),
            f"only `merge` has a strategy, but write_disposition is {disposition.disposition}; leave it out",
        )
    for option in options:
        strategies = sorted(name for name, known in _strategy_options().items() if option in known)
        if resource.strategy not in strategies:
            yield line_error(
                (*where, option),
                f"needs `strategy: {' or '.join(strategies)}`; add that, or leave it out",
            )


@cache
def _strategy_options() -> dict[str, frozenset[str]]:
    """Returns the options of each merge strategy, from dlt's types."""
    from dlt.common.schema.typing import TWriteDispositionConfig

    kinds = [kind for kind in get_args(TWriteDispositionConfig) if isinstance(kind, type)]
    hints = [get_type_hints(kind) for kind in kinds]
    return {
        strategy: frozenset(keys) - {"disposition", "strategy"}
        for keys in hints
        for strategy in get_args(keys.get("strategy"))
    }


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
            yield line_error(
                (*where, *path), f"the column is named `{normal}` in the table; write that, not `{column}`"
            )
        elif contract not in (None, "evolve") and declared and column not in declared:
            yield line_error(
                (*where, *path),
                f"`{column}` is not declared, and schema_contract does not allow new columns; "
                f"{did_you_mean(column, sorted(declared))}",
            )
    for column, values in checks.accepted_values.items():
        hints = resource.columns.get(column)
        if hints and hints.data_type == "text" and any(isinstance(value, bool) for value in values):
            yield line_error(
                (*where, "accepted_values", column),
                "YAML reads on, off, yes and no as booleans; put them in quotes",
            )


def _query_faults(connection: Attributes, dialect: str | None) -> Iterator[InitErrorDetails]:
    for index, resource in enumerate(connection.resources):
        for name, query in resource.checks.sql.items():
            # Imported here, because the parser takes half a second.
            from rmm_assets.tables.query import query_fault

            if fault := query_fault(query, dialect):
                yield line_error(("resources", index, "checks", "sql", name), fault)


def _destination_faults(connection: Attributes) -> Iterator[InitErrorDetails]:
    kind, where = connection.destination.type, ("destination",)
    if kind == "duckdb":
        return
    if not speaks_sql(kind):
        yield line_error(where, f"{kind} does not speak SQL, in which this project counts, compares and checks rows")
    elif kind == "athena":
        yield line_error(
            where,
            "SQL cannot change most tables of athena; write to `filesystem` with `table_format: iceberg`, and query that",
        )
    else:
        formats = [resource.table_format for resource in connection.resources if resource.table_format]
        bucket_url = str(connection.destination.options.get("bucket_url", ""))
        if found := missing_extra(kind, formats, bucket_url):
            extra, packages = found
            yield line_error(
                where, f"{kind} needs {', '.join(packages)}, which is not installed; run `pip install '{extra}'`"
            )


def _merge_faults(connection: Attributes) -> Iterator[InitErrorDetails]:
    kind = connection.destination.type
    for index, resource in enumerate(connection.resources):
        strategies = merge_strategies(kind, resource.table_format)
        into = f"{kind} with table_format {resource.table_format}" if resource.table_format else kind
        where: Path = ("resources", index)
        if resource.disposition == "replace" and connection.tenants is not None and "delete-insert" not in strategies:
            message = f"{into} cannot replace the rows of some tenants; write merge or append"
            yield line_error((*where, "write_disposition"), message)
        if resource.disposition != "merge":
            continue
        if not strategies:
            formats = [name for name in ("delta", "iceberg") if merge_strategies(kind, name)]
            instead = f"set `table_format: {' or '.join(formats)}`, or " if formats else ""
            yield line_error(
                (*where, "write_disposition"), f"{into} cannot merge rows; {instead}write append or replace"
            )
        elif resource.strategy is not None and resource.strategy not in strategies:
            key = "history" if resource.history else "write_disposition"
            message = f"{into} does not merge by {resource.strategy}, only by {', '.join(strategies)}"
            yield line_error((*where, key), message)
        elif not changes_rows(kind) and resource.child_tables:
            yield line_error((*where, "child_tables"), f"{into} cannot delete the items of changed rows; leave it out")
        elif not changes_rows(kind) and resource.absent == "remove":
            yield line_error((*where, "absent"), f"{into} cannot delete rows that are gone at the source; write mark")
        elif not changes_rows(kind) and resource.normalizer == "dlt" and resource.absent == "mark":
            yield line_error(
                (*where, "absent"),
                f"{into} cannot mark rows of dlt's normalizer; write keep, or leave out `normalizer`",
            )


# Values that are dlt keywords and so need not be masked.
_DLT_WORDS = frozenset(
    {"merge", "append", "replace", "GET", "POST", "PATCH", "incremental", "resolve", "delete-insert", "upsert"}
)


def _dlt_faults(connection: Attributes) -> list[InitErrorDetails]:
    """Returns what dlt rejects when it validates the config and builds its resources; nothing is fetched."""
    import dlt.destinations
    import requests
    from dlt.sources.rest_api import rest_api_resources
    from dlt.sources.rest_api.typing import RESTAPIConfig

    kind = connection.destination.type
    if "." not in kind and not hasattr(dlt.destinations, kind):
        known = [name for name in dlt.destinations.__all__ if name.islower()]
        return [line_error(("destination",), f"dlt has no destination `{kind}`; {did_you_mean(kind, known)}")]
    if kind != "duckdb" and "memory_limit" in connection.destination.model_fields_set:
        return [line_error(("destination", "memory_limit"), "only DuckDB has a limit for loads; leave it out")]
    try:
        known_of = capabilities(kind)
    except Exception:  # dlt imports the named module, which may raise anything
        return [line_error(("destination",), "dlt cannot import this destination; write a name such as `duckdb`")]
    formats = (known_of.supported_table_formats if known_of else None) or []
    if errors := list(_query_faults(connection, known_of.sqlglot_dialect if known_of else None)):
        return errors
    if errors := [*_destination_faults(connection), *_merge_faults(connection)]:
        return errors
    for index, resource in enumerate(connection.resources):
        if resource.table_format is not None and resource.table_format not in formats:
            hint = f"supported are: {', '.join(formats)}" if formats else "leave it out"
            return [line_error(("resources", index, "table_format"), f"{kind} does not support this format; {hint}")]
    config = connection.rest_api_config()
    # dlt's auth needs its secret as soon as it is built; the rules above have already checked auth.
    # Without a session, dlt makes one for each resource, which takes most of the time; this one sends nothing.
    config["client"] = {"base_url": "https://127.0.0.1", **config["client"], "session": requests.Session()}
    config["client"].pop("auth", None)
    for resource in config["resources"]:
        resource["endpoint"].pop("auth", None)
    try:
        rest_api_resources(cast(RESTAPIConfig, config))
    except Exception as error:  # dlt raises errors of many types, and each is a fault in the file
        names = {resource.name: index for index, resource in enumerate(connection.resources)}
        message = _without_values(" ".join(str(error).split()), config, names.keys())
        named = [index for name, index in names.items() if re.search(rf"['`]{name}['`]", message)]
        return [line_error(("resources", *named[:1]), f"dlt rejects this: {message}")]
    return []


_DLT_DETAILS = re.compile(
    r"Path `([./\w\[\]]*)`: field `(\w+)[^`]*` (is not one of: \[[^\]]*\]|expects the following types: `\[[^\]]*\]`)"
)


def _without_values(message: str, config: Mapping[str, Any], names: Collection[str]) -> str:
    """Masks every value from the file, except names, in a dlt message, which may quote other keys' values."""
    # dlt appends the whole invalid value, with all keys below it; its message about the deepest key does not.
    if details := _DLT_DETAILS.findall(message):
        path, field, problem = max(details, key=lambda detail: len(detail[0]))
        message = f"{path.removeprefix('./')}: `{field}` {problem}"
    message = message.split(" Provided value ")[0]
    texts = {str(value) for value in leaves(config) if value is not None and not isinstance(value, bool)}
    values = texts - {"", *names, *_DLT_WORDS}
    for text in sorted(values, key=len, reverse=True):
        message = re.sub(rf"(?<!\w){re.escape(text)}(?!\w)", "...", message)
    return message

"""Audits one resource: reads it, compares it with its table, and checks differences again."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace

from rmm_assets.audit.compare import Compared, Received, compare, limits_of
from rmm_assets.audit.documents import pack
from rmm_assets.audit.report import EXAMPLES, Audit
from rmm_assets.audit.walk import Heard, read
from rmm_assets.config import Connection, Resource
from rmm_assets.config.destinations import stores_nul
from rmm_assets.config.transport import host_of, rate_limit_of, transport_of
from rmm_assets.errors import RmmError
from rmm_assets.http.auth import Secret, hidden
from rmm_assets.http.redaction import Redactor
from rmm_assets.http.tokens import Tokens
from rmm_assets.http.transport import Transport
from rmm_assets.tables.store import Store
from rmm_assets.tables.table import Table
from rmm_assets.tables.tenants import Scope

_MOST_SENTENCES = 20


def audit(
    connection: Connection, resource: Resource, secret: Secret, *, store: Store,
    base_url: str | None = None, log: logging.Logger | None = None, within: Scope | None = None,
    tokens: Tokens | None = None,
) -> Audit:  # fmt: skip
    """Re-reads a resource from the API by a different route and compares it with its table, which is not changed.

    If anything differs, both the API and the table are read a second time, so that rows that changed in between are not
    reported.

    Args:
        connection: The connection; of a tenant, its own.
        resource: The resource, as the connection has it.
        secret: The connection's secrets, or only that of `api_key`.
        store: Where the table is.
        base_url: The API's address if it is not the connection file's (the embedded RMM's).
        log: Receives retries.
        within: The tenant; None if the table has no tenants.
        tokens: The tokens that it shares with others; its own by default.

    Raises:
        ValueError: There is no base URL, or an auth lacks its secret.
    """
    log, tokens = log or logging.getLogger("rmm_assets"), tokens or Tokens()
    heard, compared = _once(connection, resource, secret, store, base_url, log, within, tokens)
    requests = heard.requests
    if compared:
        again, second = _once(connection, resource, secret, store, base_url, log, within, tokens)
        requests += again.requests
        heard, compared = again, _both(compared, second)
    return replace(_report(connection, resource, heard, compared, requests), tenant=within.names[0] if within else None)


def _once(
    connection: Connection, resource: Resource, secret: Secret, store: Store, base_url: str | None,
    log: logging.Logger, within: Scope | None, tokens: Tokens,
) -> tuple[Heard, Compared]:  # fmt: skip
    received = Received(stores_nul=stores_nul(store.destination))
    try:
        with _transport(connection, resource, secret, store, base_url, log, within, tokens) as transport:
            heard = read(transport, connection, resource, received.add)
        if store.is_missing:
            nothing = Compared(
                doubts=[f"there is no file {store.credentials}: no rows were loaded, or they are somewhere else"]
            )
            nothing.found["missing"] = {pack(row): f"row {n:,} of the API" for n, row in enumerate(received, start=1)}
            return heard, nothing
        name = f"audit__{connection.name}__{resource.table}"
        with store.reading(name, log) as client:
            return heard, compare(received, Table(client, resource.table), resource, within)
    finally:
        received.close()


@contextmanager
def _transport(
    connection: Connection, resource: Resource, secret: Secret, store: Store, base_url: str | None,
    log: logging.Logger, within: Scope | None, tokens: Tokens,
) -> Iterator[Transport]:  # fmt: skip
    """Yields a transport for one walk that shares the rate limit of the connection's loads, or of those of a tenant's host."""
    host = host_of(connection) if within is not None else ""
    with closing(rate_limit_of(connection, store.work, host)) as rate_limit:
        transport = transport_of(
            connection, resource, hidden(secret), Redactor(), rate_limit, base_url=base_url, log=log, tokens=tokens
        )
        with closing(transport):
            yield transport


def _both(first: Compared, second: Compared) -> Compared:
    """Returns the second comparison with only the differences that the first one also found."""
    for kind, rows in second.found.items():
        second.found[kind] = {key: label for key, label in rows.items() if key in first.found[kind]}
    for key in list(second.found["different"]):
        second.columns[key] &= first.columns.get(key, frozenset())
        if not second.columns[key]:
            del second.found["different"][key]
    return second


def _report(connection: Connection, resource: Resource, heard: Heard, compared: Compared, requests: int) -> Audit:
    limits = limits_of(resource)
    found = {kind: dict(rows) for kind, rows in compared.found.items()}
    doubts = [*heard.doubts, *compared.doubts]
    if not heard.rows and not heard.doubts:
        doubts.append("the API sent no rows, which also happens if the key lacks permissions")
    undecided = {
        "extra": limits.extra or ("the read may not be complete" if heard.doubts else ""),
        "missing": limits.missing,
    }
    if not heard.rows:
        undecided["extra"] = undecided["extra"] or "the API sent no rows at all"
    for kind, why in undecided.items():
        if why and found[kind]:
            where = "in the table only" if kind == "extra" else "not in the table"
            doubts.append(f"{len(found[kind]):,} rows are {where}, which is not a difference, because {why}")
            found[kind] = {}
    doubts += limits.notes
    columns: dict[str, int] = {}
    for key in found["different"]:
        for name in compared.columns[key]:
            columns[name] = columns.get(name, 0) + 1
    return Audit(
        connection=connection.name, resource=resource.name, rows_api=heard.rows, rows_table=compared.rows_table,
        found={kind: len(rows) for kind, rows in found.items()},
        examples={kind: tuple(sorted(rows.values())[:EXAMPLES]) for kind, rows in found.items() if rows},
        columns=columns, rejected=compared.rejected, deleted=compared.deleted, requests=requests,
        unverified=_first(list(dict.fromkeys(doubts))), loaded_at=compared.loaded_at,
    )  # fmt: skip


def _first(sentences: list[str]) -> tuple[str, ...]:
    more = len(sentences) - _MOST_SENTENCES
    return (*sentences[:_MOST_SENTENCES], *([f"and {more:,} more like these"] if more > 0 else []))


def unreadable(connection: Connection, resource: Resource, problem: str | RmmError, tenant: str | None = None) -> Audit:
    """Returns the result for a resource that could not be audited."""
    return Audit(connection.name, resource.name, unverified=(str(problem),), tenant=tenant)

"""Reads and loads a profile's resources from its vendor's dialect, and compares rows with the fleet's."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import duckdb
from dlt.common.normalizers.naming.snake_case import NamingConvention
from pydantic import SecretStr

from rmm_assets.config import Connection, profiles
from rmm_assets.http.auth import Secrets
from rmm_assets.loading.outcome import Outcome
from rmm_assets.loading.run import sync
from rmm_assets_tests import syncing
from rmm_assets_tests.http.servers import Scripted
from rmm_assets_tests.syncing import Received, store_in
from rmm_assets_tests.vendors.dialect import Dialect, Millis, Row, Whole

_NAMING = NamingConvention()


def connection_of(dialect: Dialect, url: str, **changes: Any) -> Connection:
    """Returns the connection that a file with the dialect's profile and settings describes, at a server on loopback."""
    written = {"name": "acme", "profile": dialect.profile, "settings": dict(dialect.settings)}
    limits = {"requests_per_minute": None, **changes.pop("limits", {})}
    made = profiles.merged({**written, "limits": limits, "retry": {"backoff_factor": 0.001}, **changes})
    del made["profile"]
    made.pop("settings", None)
    return Connection.model_validate({**made, "client": at_loopback(dialect, made["client"], url)})


def at_loopback(dialect: Dialect, client: Mapping[str, Any], url: str) -> dict[str, Any]:
    """Returns a connection's `client` with the vendor's hosts replaced by a server on loopback."""
    text = json.dumps(client)
    for host in dialect.hosts:
        text = text.replace(f"https://{host}", url)
    # No test may send a request to a vendor.
    assert "https://" not in text, f"the profile names another host than the vendor's: {text}"
    found: dict[str, Any] = json.loads(text)
    assert urlsplit(found["base_url"]).netloc == urlsplit(url).netloc
    return found


def secrets_of(dialect: Dialect) -> Secrets:
    named = {name: SecretStr(value) for name, value in dialect.secrets.items()}
    return Secrets(named.pop("api_key", None), named)


def load(folder: Path, made: Connection, dialect: Dialect, name: str) -> Outcome:
    """Loads a resource into the folder's database.

    Raises:
        Exception: The error that explains the failure, without dlt's wrapper.
    """
    try:
        return sync(made, made.resource(name), secrets_of(dialect), store=store_in(folder))
    except Exception as error:
        cause: BaseException = error
        while (deeper := cause.__cause__ or cause.__context__) is not None:
            cause = deeper
        raise cause from None


def table(folder: Path, name: str) -> list[Row]:
    """Returns a table's rows without dlt's columns and this package's."""
    with duckdb.connect(str(folder / "rmm.duckdb"), read_only=True) as client:
        return _without_own(client.sql(f'SELECT * FROM acme."{name}"').to_arrow_table().to_pylist())


def receive(folder: Path, made: Connection, dialect: Dialect, name: str) -> Received:
    """Reads a resource without loading it; its rows are those of the table that it would become.

    Raises:
        RmmError: The read is not complete.
    """
    received = syncing.receive(folder, made, name, secrets_of(dialect))
    return received._replace(rows=_without_own(received.rows))


def receives_everything(folder: Path, dialect: Dialect, name: str) -> Received:
    """Reads a resource from a server of the dialect, and checks that every row and value is received."""
    with Scripted(dialect.answer) as server:
        received = receive(folder, connection_of(dialect, server.url), dialect, name)
    assert received.report.complete
    assert differences(received.rows, dialect.resources()[name]) == []
    return received


def _without_own(rows: list[Row]) -> list[Row]:
    own = ("_dlt", "_absent", "_content")
    return [{k: v for k, v in row.items() if not k.startswith(own)} for row in rows]


def flat(row: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Yields the columns of a row of the API, named as dlt names them."""
    for name, value in row.items():
        path = f"{above}__{name}" if above else name
        if isinstance(value, Mapping) and not isinstance(value, Whole):
            yield from flat(value, path)
        else:
            yield _NAMING.normalize_path(path), value


def same(received: Any, sent: Any) -> bool:
    """Returns whether a value of a table is what the API sent."""
    if received is None or sent is None:
        return received is None and sent is None
    if isinstance(received, datetime):
        zoned = received.astimezone(UTC)
        if isinstance(sent, Millis):
            sent = sent / 1000
        if isinstance(sent, (int, float)):
            return abs(zoned.timestamp() - sent) < 1e-6
        stated = datetime.fromisoformat(sent)
        return zoned == (stated if stated.tzinfo else stated.replace(tzinfo=UTC))
    if isinstance(sent, Millis):
        return False
    if isinstance(sent, (list, Whole)):
        return bool(json.loads(received) == sent)
    return bool(received == sent and isinstance(received, bool) is isinstance(sent, bool))


def differences(received: list[Row], sent: list[Row]) -> list[str]:
    """Returns how a table differs from the rows that the API has, in any order."""

    wanted = [dict(flat(row)) for row in sent]
    if len(received) != len(wanted):
        return [f"{len(received)} rows instead of {len(wanted)}"]
    names = {name for row in wanted for name in row}
    found = [f"a column {name}" for name in {name for row in received for name in row} - names]
    # Rows are paired by those of their columns that are the same texts and numbers in both.
    plain = sorted(
        name
        for name in names
        if all(isinstance(row.get(name), (str, int)) or row.get(name) is None for row in (*received, *wanted))
    )
    keys = [name for name in plain if not isinstance(next((r[name] for r in received if r.get(name)), None), datetime)]

    def key(row: Row) -> str:
        return json.dumps([row.get(name) for name in keys], default=str)

    for left, right in zip(sorted(received, key=key), sorted(wanted, key=key)):
        found += [
            f"{name}: {left.get(name)!r} instead of {right.get(name)!r}"
            for name in sorted(names)
            if not same(left.get(name), right.get(name))
        ]
    return found[:5]

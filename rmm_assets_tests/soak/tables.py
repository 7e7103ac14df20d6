"""Knows what a table must hold: the kinds of connections of a soak, how their servers change, and how a table is read back.

Nothing here is shared with the loader, so that a mistake of the loader is not repeated here.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import duckdb

Row = dict[str, Any]

# By kind, the keys of the resource `devices`; each connection also has `tickets`, which merge.
KINDS: dict[str, dict[str, Any]] = {
    "merge": {},
    "children": {"child_tables": True, "absent": "remove"},
    "replace": {"write_disposition": "replace"},
    "append": {
        "write_disposition": "append",
        "endpoint": {
            "incremental": {"cursor_path": "number", "start_param": "above", "initial_value": 0, "range_start": "open"}
        },
    },
    "history": {"history": True},
}
RESOURCES = ("devices", "tickets")


def connection(name: str, kind: str, base_url: str, database: str) -> dict[str, Any]:
    """Returns the attributes of a connection of that kind."""
    devices: dict[str, Any] = {"name": "devices", "endpoint": {"path": "/v1/devices"}, "checks": {"not_null": ["id"]}}
    said = KINDS[kind]
    return {
        "name": name,
        "client": {"base_url": base_url, "auth": {"type": "api_key", "name": "X-API-KEY"}},
        "api_key": {"env": variable(name)},
        "retry": {"backoff_factor": 0.01},
        "destination": {"type": "duckdb", "credentials": database},
        "resource_defaults": {
            "primary_key": "id",
            "write_disposition": "merge",
            "endpoint": {"data_selector": "data", "paginator": {"type": "offset", "limit": 100}},
        },
        "resources": [
            {**devices, **said, "endpoint": {**devices["endpoint"], **said.get("endpoint", {})}},
            {"name": "tickets", "endpoint": {"path": "/v1/tickets"}},
        ],
    }


def variable(name: str) -> str:
    """Returns the name of the variable with a connection's key."""
    return f"{name.upper()}_API_KEY"


def first_rows(kind: str, resource: str) -> list[Row]:
    """Returns what a server holds in the beginning."""
    number = {"devices": 350, "tickets": 60}[resource]
    return [_row(kind if resource == "devices" else "merge", i) for i in range(1, number + 1)]


def changed_rows(rng: random.Random, kind: str, resource: str, rows: list[Row]) -> list[Row]:
    """Returns the rows after some have gone, come and changed; of what is appended, none goes or changes."""
    kind = kind if resource == "devices" else "merge"
    last = max(row["id"] for row in rows)
    come = [_row(kind, last + i) for i in range(1, rng.randrange(12))]
    if kind == "append":
        return [*rows, *come]
    stay = [row for row in rows if (len(rows) < 200 and resource == "devices") or rng.random() > 0.03]
    for index in rng.sample(range(len(stay)), len(stay) // 20):
        stay[index] = {**stay[index], "name": f"renamed {rng.randrange(10**6)}"}
    return [*stay, *come]


def _row(kind: str, number: int) -> Row:
    row: Row = {"id": number, "name": f"PC-{number:05}", "status": "online", "organization": {"id": number % 7}}
    if kind == "children":
        row["disks"] = [{"drive": drive, "size": number * 10} for drive in "CDE"[: number % 4]]
    return {**row, "number": number} if kind == "append" else row


class Held(NamedTuple):
    """What a table holds, as rows of the server.

    Attributes:
        present: The rows that are said to be at the source now.
        gone: Those that are kept and marked as gone; none of a table with history.
    """

    present: list[Row]
    gone: list[Row]


def held(database: Path, dataset: str, kind: str, resource: str, *, patience: float = 300) -> Held:
    """Reads a table back; waits while a run writes to the file."""
    if not database.exists():
        return Held([], [])
    until = time.monotonic() + patience
    while True:
        try:
            with duckdb.connect(str(database), read_only=True) as client:
                return _held(client, dataset, kind if resource == "devices" else "merge", resource)
        except duckdb.IOException:
            if time.monotonic() > until:
                raise
        time.sleep(0.05)


def _held(client: duckdb.DuckDBPyConnection, dataset: str, kind: str, resource: str) -> Held:
    def table(name: str) -> list[Row]:
        asked = "SELECT 1 FROM duckdb_tables() WHERE schema_name = ? AND table_name = ?"
        if not client.execute(asked, [dataset, name]).fetchall():
            return []
        rows: list[Row] = client.sql(f'SELECT * FROM "{dataset}"."{name}"').to_arrow_table().to_pylist()
        return rows

    found = table(resource)
    if kind == "history":
        found = [row for row in found if row["_dlt_valid_to"] is None]
    disks: dict[str, list[tuple[int, Row]]] = {}
    for child in table(f"{resource}__disks") if kind == "children" else ():
        value = {"drive": child["drive"], "size": child["size"]}
        disks.setdefault(child["_dlt_parent_id"], []).append((child["_dlt_list_idx"], value))

    def as_sent(row: Row) -> Row:
        sent = {name: row[name] for name in ("id", "name", "status")}
        # dlt's own normalizer, which keeps history, keeps objects whole.
        nested = "organization" in row
        sent["organization"] = json.loads(row["organization"]) if nested else {"id": row["organization__id"]}
        if kind == "children":
            sent["disks"] = [value for _, value in sorted(disks.get(row["_dlt_id"], []), key=lambda item: item[0])]
        return {**sent, "number": row["number"]} if kind == "append" else sent

    return Held(
        [as_sent(row) for row in found if row.get("_absent_since") is None],
        [as_sent(row) for row in found if row.get("_absent_since") is not None],
    )


def texts(rows: list[Row]) -> list[str]:
    """Returns the rows in an order and a form that can be compared."""
    return sorted(json.dumps(row, sort_keys=True) for row in rows)


def faults_of_a_green_table(server: list[Row], table: Held) -> str:
    """Says how a table differs from its server; empty where it does not."""
    there, expected = texts(table.present), texts(server)
    if there == expected:
        return ""
    missing, more = set(expected) - set(there), set(there) - set(expected)
    return f"{len(there)} rows for {len(expected)}: {len(missing)} missing, {len(more)} that are not at the server"


def faults_of_another_table(before: Held, server: list[Row], known: Callable[[str], bool], table: Held) -> str:
    """Says what is wrong with a table after a run that is not green: nothing may be published by halves.

    Args:
        before: The table before the run.
        server: What the server held during the run.
        known: Whether the server ever held a row.
        table: The table after it.
    """
    rows = [*table.present, *table.gone]
    if len({row["id"] for row in rows}) < len(rows):
        return "a row is in the table twice"
    if invented := [text for text in texts(rows) if not known(text)]:
        return f"{len(invented)} rows that the server never held, such as {invented[0]}"
    if texts(table.present) == texts(before.present):
        return ""
    # Published as a whole, and ended before rows that are gone were marked.
    ids = {row["id"] for row in server}
    stayed = [row for row in table.present if row["id"] not in ids]
    new = [row for row in table.present if row["id"] in ids]
    if texts(new) != texts(server) or not set(texts(stayed)) <= set(texts(before.present)):
        return f"half of a load is in the table: {len(table.present)} rows, before {len(before.present)}, server {len(server)}"
    return ""

"""Kills loads into each kind of destination at a statement or a change of a file, and loads again.

`make kills` does so at every one of them; the suite at some.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from typing import Any

import pytest

from rmm_assets.config import Connection
from rmm_assets.loading.run import sync
from rmm_assets.simulator import Simulator
from rmm_assets.tables.store import Store
from rmm_assets.tables.table import Table
from rmm_assets_tests.commands import FORKS
from rmm_assets_tests.loading.test_destinations import HISTORY, store_at, table_format
from rmm_assets_tests.syncing import KEY, Row, connection, devices, resource, store_in

pytestmark = pytest.mark.slow

# How many kills of a first load, and of a later one.
KILLS = int(os.environ.get("RMM_KILLS", "2"))
LIMIT = 600
# Of the disk, not of the databases: Delta and Iceberg write Parquet files in other languages, which Python does not see.
_CHANGES = ("open", "os.rename", "os.mkdir", "os.remove")


def _dies_at(number: int, store: Store, folder: Path) -> Callable[[], int]:
    """Ends this process before it does the step of that number; returns a function that counts the steps."""
    steps = 0

    def step() -> None:
        nonlocal steps
        steps += 1
        if steps == number:
            os._exit(9)

    def change(event: str, arguments: tuple[Any, ...]) -> None:
        if event not in _CHANGES or not str(arguments[0]).startswith(str(folder / "lake")):
            return
        if event != "open" or (isinstance(arguments[1], str) and arguments[1][0] in "wax"):
            step()

    if store.destination == "filesystem":
        sys.addaudithook(change)
        return lambda: steps
    with store.pipeline("any").sql_client() as client:
        kind: Any = type(client)
    execute = kind.execute_query

    @contextmanager
    def counted(*arguments: Any, **options: Any) -> Iterator[Any]:
        step()
        with execute(*arguments, **options) as cursor:
            yield cursor

    kind.execute_query = counted
    return lambda: steps


def _load(pipe: Pipe, made: Connection, store: Store, base_url: str, folder: Path, kill_at: int) -> None:
    steps = _dies_at(kill_at, store, folder)
    sync(made, made.resource("devices"), KEY, base_url=base_url, store=store)
    pipe.send(steps())


def load(made: Connection, store: Store, base_url: str, folder: Path, kill_at: int = 0) -> int:
    """Loads in a process of its own that is killed before that step; returns the number of steps, 0 if it was killed."""
    ours, theirs = FORKS.Pipe(duplex=False)
    process = FORKS.Process(target=_load, args=(theirs, made, store, base_url, folder, kill_at), daemon=True)
    process.start()
    theirs.close()
    process.join(LIMIT)
    assert process.exitcode == (9 if kill_at else 0)
    with ours:
        return 0 if kill_at else int(ours.recv())


def present(store: Store) -> list[tuple[Any, ...]]:
    """Returns the ids and names of the rows that are not marked absent or ended, each once for each of its tags."""
    with store.reading("look") as client:
        table, tags = Table(client, "devices"), Table(client, "devices__tags")
        ends = [name for name in ("_absent_since", "_dlt_valid_to") if name in table.columns()]
        where = " AND ".join(f"{table.quote(name)} IS NULL" for name in ends) or "1 = 1"
        tagged = f"JOIN {tags.source} AS tag ON tag._dlt_parent_id = device._dlt_id" if tags.exists() else ""
        return sorted(table.rows(f"SELECT device.id, device.name FROM {{table}} AS device {tagged} WHERE {where}"))


WAYS: dict[str, list[dict[str, Any]]] = {
    "duckdb": [{"child_tables": True}, {"write_disposition": HISTORY}, {"write_disposition": "append"}],
    "postgres": [{}],
    "mariadb": [{}],
    "delta": [{}],
    "iceberg": [{}],
    "files": [{"write_disposition": "replace"}],
}


@pytest.mark.parametrize(("kind", "way"), [(kind, way) for kind, ways in WAYS.items() for way in ways])
def test_the_next_load_repairs_what_a_killed_one_left(
    kind: str, way: dict[str, Any], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    place = store_in(tmp_path) if kind == "duckdb" else store_at(kind, tmp_path, request)
    made = connection(resource(**way, **table_format(kind)), destination=place.destination)
    appends = way.get("write_disposition") == "append"
    first = devices(40, tags=["a", "b"])
    second = [
        *({**row, "name": "renamed"} if row["id"] % 7 == 0 else row for row in first[3:]),
        *devices(3, 1000, tags=["a", "b"]),
    ]

    def expected(*reads: list[Row]) -> list[tuple[Any, ...]]:
        rows = [row for read in reads for row in read] if appends else reads[-1]
        return sorted((row["id"], row["name"]) for row in rows for _ in range(2 if "child_tables" in way else 1))

    with Simulator(tables={"devices": first}) as server:

        def loaded(store: Store, rows: list[Row], kill_at: int = 0) -> int:
            server.set_rows("devices", rows)
            return load(made, store, server.base_url, tmp_path, kill_at)

        whole = replace(place, dataset="whole")
        for earlier, steps in [([], loaded(whole, first)), ([first], loaded(whole, second))]:
            # The last steps record the load.
            for kill_at in sorted({steps - number * steps // KILLS for number in range(min(KILLS, steps))}):
                store = replace(place, dataset=f"after_{len(earlier)}_{kill_at}")
                for rows in earlier:
                    loaded(store, rows)
                loaded(store, second, kill_at)
                if not earlier:
                    with store.reading("look") as client:
                        assert Table(client, "devices").count() in (0, len(second)), f"after a kill at step {kill_at}"
                loaded(store, second)
                wanted = [expected(*earlier, second)]
                if appends:  # the killed load may have been recorded
                    wanted.append(expected(*earlier, second, second))
                assert present(store) in wanted, f"after a kill at step {kill_at} of {steps}"

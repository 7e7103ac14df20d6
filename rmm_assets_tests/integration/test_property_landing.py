"""Tests that the table matches the server or is unchanged after each run, whatever happens between runs.

It runs sequences of real loads in which rows appear, change, change their type and disappear, reads fail, and the connection
file changes. `RMM_SEQUENCES` sets the number of sequences (default 4); with `RMM_SHRINK`, a failing sequence is shortened,
which takes minutes.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import duckdb
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from rmm_assets.config import Connection
from rmm_assets.errors import RmmError
from rmm_assets.loading.cursor import order_of
from rmm_assets.rows.json_text import plain_text
from rmm_assets_tests.http.servers import Say, Scripted, Seen
from rmm_assets_tests.syncing import Row, connection, resource, run

SEQUENCES = int(os.environ.get("RMM_SEQUENCES", "4"))

VALUES = st.one_of(
    st.none(), st.integers(-5, 5), st.sampled_from([0.5, 1.0, 2.5e10, 2**60]), st.booleans(),
    st.sampled_from(["", "7", "abc", "Grüße", "2024-05-01T10:00:00Z", "true"]),
    st.lists(st.integers(0, 3), max_size=2),
)  # fmt: skip
FAILURES = ["error", "total", "html", "null", "key"]


STRANGER = {"id": 0, "code": "c0", "at": "2024-06-01T00:00:00Z"}


class Server:
    """One server for all sequences; the current sequence sets its responses."""

    def __init__(self) -> None:
        self.machine: Machine | None = None
        self.scripted = Scripted(self._answer)

    def _answer(self, seen: Seen) -> Say:
        assert self.machine is not None
        return self.machine.answer(seen)


SERVER: list[Server] = []


@pytest.fixture(scope="module", autouse=True)
def served() -> Iterator[None]:
    server = Server()
    with server.scripted:
        SERVER.append(server)
        yield
        SERVER.clear()


class Machine(RuleBasedStateMachine):
    """A server, a connection to it, and the table."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="rmm-landing-"))
        self.rows: dict[int, Row] = {}
        self.failure: str | None = None
        SERVER[0].machine = self

    def teardown(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def answer(self, seen: Seen) -> Say:
        rows = self.held(seen)
        if self.failure == "error":
            return Say({"error": "busy"}, status=500)
        if self.failure == "html":
            return Say(b"<html>Please wait</html>", headers=(("Content-Type", "text/html"),))
        if self.failure == "null":
            return Say({"data": None})
        if self.failure == "key":
            # Rows of two kinds with the same key.
            rows = [*rows, {**STRANGER, "name": "a"}, {**STRANGER, "name": "b"}]
        return Say({"data": rows, "total": len(rows) + (self.failure == "total")})

    def held(self, seen: Seen) -> list[Row]:
        return list(self.rows.values())

    def compare(self) -> None:
        """Runs once and compares the table with the server."""
        raise NotImplementedError

    # Rules are chosen evenly, but runs matter most.
    @rule()
    def sync(self) -> None:
        self.compare()

    @rule()
    def sync_too(self) -> None:
        self.compare()

    @rule()
    def sync_as_well(self) -> None:
        self.compare()

    def connection(self) -> Connection:
        raise NotImplementedError

    def load(self) -> bool:
        """Runs once and returns whether the run was green; if not, the table must be unchanged."""
        before = self.table()
        try:
            run(self.folder, SERVER[0].scripted.url, self.connection())
        except RmmError:
            assert self.failure is not None, "red without a reason"
            assert self.table() == before, "a red run changed the table"
            return False
        assert self.failure is None, f"green although the server fails: {self.failure}"
        return True

    def table(self) -> tuple[dict[str, str], list[Row]]:
        """Returns the column types and the rows."""
        path = self.folder / "rmm.duckdb"
        if not path.exists():
            return {}, []
        with duckdb.connect(str(path), read_only=True) as client:
            found = client.execute(
                "SELECT column_name, data_type FROM information_schema.columns "
                "WHERE table_schema = 'acme' AND table_name = 'devices'"
            ).fetchall()
            rows = client.execute("SELECT * FROM acme.devices ORDER BY ALL") if found else None
            names = [column[0] for column in rows.description or ()] if rows else []
            return dict(found), [dict(zip(names, row, strict=True)) for row in rows.fetchall()] if rows else []


def same(columns: dict[str, str], landed: Row, name: str, value: Any) -> bool:
    """Returns whether a field's value is only in its column, or only in the column for values of its type."""
    cells = {
        column: landed[column] for column in columns
        if (column == name or column.startswith(f"{name}__v_")) and landed[column] is not None
    }  # fmt: skip
    if value is None:
        return not cells
    if len(cells) != 1:
        return False
    [(column, cell)] = cells.items()
    kind = columns[column]
    if kind == "JSON":
        return bool(json.loads(cell) == value)
    if kind == "VARCHAR":
        return bool(cell == plain_text(value))
    if kind.startswith("TIMESTAMP"):
        return isinstance(value, str) and bool(cell == datetime.fromisoformat(value))
    return bool(cell == value) and isinstance(cell, bool) == isinstance(value, bool)


ROW: dict[str, Any] = {
    "numbers": st.sets(st.integers(1, 12), min_size=1, max_size=6),
    "value": VALUES,
    "name": st.sampled_from("abc"),
}


class Merging(Machine):
    """Merges, replaces or appends rows while types, keys, policies and normalizers change."""

    def __init__(self) -> None:
        super().__init__()
        self.said: dict[str, Any] = {}
        self.marked: dict[int, Row] = {}  # in the table, and gone at the source
        self.appended: Counter[int] | None = None

    def connection(self) -> Connection:
        endpoint = {"paginator": "single_page"}
        more: dict[str, Any] = {"total_path": "total", "max_absent_share": 1}
        return connection(resource(endpoint=endpoint, **more, **self.said), retry={"max_retries": 0})

    @initialize(**ROW)
    def begin(self, numbers: set[int], value: Any, name: str) -> None:
        self.put(numbers, value, name)

    @rule(**ROW)
    def put(self, numbers: set[int], value: Any, name: str) -> None:
        for number in numbers:
            self.rows[number] = {"id": number, "code": f"c{number}", "name": name, "value": value}

    @rule(numbers=st.sets(st.integers(1, 12), min_size=1, max_size=6))
    def drop(self, numbers: set[int]) -> None:
        for number in numbers:
            self.rows.pop(number, None)

    @rule(absent=st.sampled_from(["mark", "keep", "remove"]))
    def change_policy(self, absent: str) -> None:
        self.said = {**self.said, "absent": absent}

    @rule(key=st.sampled_from(["id", "code", ["id", "code"]]))
    def change_key(self, key: Any) -> None:
        self.said = {**self.said, "primary_key": key}

    @precondition(lambda self: self.appended is None)
    @rule(strategy=st.sampled_from(["upsert", "delete-insert", None]))
    def change_strategy(self, strategy: str | None) -> None:
        disposition = {"disposition": "merge", "strategy": strategy} if strategy else "merge"
        self.said = {**self.said, "write_disposition": disposition}

    @rule()
    def replace_from_now_on(self) -> None:
        self.said = {**self.said, "write_disposition": "replace"}

    @rule()
    def append_from_now_on(self) -> None:
        self.said = {**self.said, "write_disposition": "append"}

    @rule(failure=st.sampled_from(FAILURES))
    def fail(self, failure: str) -> None:
        self.failure = failure
        self.load()
        self.failure = None

    def compare(self) -> None:
        columns, before = self.table()
        had = {int(row["id"]): row for row in before}
        self.load()
        columns, after = self.table()
        disposition = self.said.get("write_disposition", "merge")
        if disposition == "append":
            self.appended = Counter(int(row["id"]) for row in before) + Counter(list(self.rows))
            assert Counter(int(row["id"]) for row in after) == self.appended
            self.marked = {}
            return
        if disposition == "replace":
            self.appended, self.marked, had = None, {}, {}
        gone = {number: row for number, row in had.items() if number not in self.rows}
        policy = self.said.get("absent", "mark")
        if policy == "remove":
            gone = {number: row for number, row in gone.items() if row.get("_absent_since") is None}
        assert sorted(int(row["id"]) for row in after) == sorted({*self.rows, *gone})
        for row in after:
            number, since = int(row["id"]), row.get("_absent_since")
            if number in gone:
                assert (since is not None) or policy == "keep", "a missing row is not marked"
                assert all(row[name] == cell for name, cell in gone[number].items() if name != "_absent_since")
                continue
            assert since is None, "an existing row is marked"
            for name, value in self.rows[number].items():
                assert same(columns, row, name, value), (name, value, row, columns)


class Keeping(Machine):
    """Keeps every version of rows."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[list[Row]] = []

    def connection(self) -> Connection:
        more: dict[str, Any] = {"total_path": "total", "max_absent_share": 1, "history": True}
        return connection(resource(endpoint={"paginator": "single_page"}, **more), retry={"max_retries": 0})

    @initialize(numbers=st.sets(st.integers(1, 6), min_size=1), name=st.sampled_from("abc"))
    def begin(self, numbers: set[int], name: str) -> None:
        self.put(numbers, name)

    @rule(numbers=st.sets(st.integers(1, 6), min_size=1, max_size=3), name=st.sampled_from("abc"))
    def put(self, numbers: set[int], name: str) -> None:
        self.rows |= {number: {"id": number, "name": name} for number in numbers}

    @rule(number=st.integers(1, 6))
    def drop(self, number: int) -> None:
        self.rows.pop(number, None)

    @rule(failure=st.sampled_from(FAILURES))
    def fail(self, failure: str) -> None:
        self.failure = failure
        self.load()
        self.failure = None

    def compare(self) -> None:
        _, before = self.table()
        self.load()
        self.seen.append([dict(row) for row in self.rows.values()])
        _, after = self.table()
        valid = [row for row in after if row["_dlt_valid_to"] is None]
        assert sorted((row["id"], row["name"]) for row in valid) == sorted(
            (r["id"], r["name"]) for r in self.rows.values()
        )
        assert len(after) >= len(before), "a version is lost"
        ever = {(row["id"], row["name"]) for rows in self.seen for row in rows}
        assert {(row["id"], row["name"]) for row in after} == ever


class Continuing(Machine):
    """Reads rows incrementally, with cursors in every format."""

    FORMS = ("z", "offset", "fraction", "naive", "minutes")

    def __init__(self) -> None:
        super().__init__()
        self.clock = datetime(2024, 5, 1, 0, 0, tzinfo=UTC)
        self.lag: float | None = None

    def connection(self) -> Connection:
        incremental = {"cursor_path": "at", "start_param": "since", "initial_value": "2024-01-01T00:00:00Z"}
        if self.lag is not None:
            incremental["lag"] = self.lag  # type: ignore[assignment]
        endpoint = {"paginator": "single_page", "incremental": incremental}
        return connection(resource(endpoint=endpoint, total_path="total"), retry={"max_retries": 0})

    def held(self, seen: Seen) -> list[Row]:
        from urllib.parse import parse_qs, urlsplit

        since = order_of(parse_qs(urlsplit(seen.target).query)["since"][0])
        return [row for row in self.rows.values() if order_of(row["at"]).value >= since.value]

    @initialize(
        numbers=st.sets(st.integers(1, 9), min_size=1), name=st.sampled_from("abc"), form=st.sampled_from(FORMS)
    )
    def begin(self, numbers: set[int], name: str, form: str) -> None:
        self.put(numbers, name, form)

    @rule(numbers=st.sets(st.integers(1, 9), min_size=1), name=st.sampled_from("abc"), form=st.sampled_from(FORMS))
    def put(self, numbers: set[int], name: str, form: str) -> None:
        for number in numbers:
            self.rows[number] = {"id": number, "name": name, "at": self.written(form)}

    @rule(seconds=st.sampled_from([0, 0.5, 1, 90, 4000, 40_000]))
    def wait(self, seconds: float) -> None:
        self.clock += timedelta(seconds=seconds)

    @rule(lag=st.sampled_from([None, 0, 60]))
    def change_lag(self, lag: float | None) -> None:
        self.lag = lag

    def written(self, form: str) -> str:
        if form == "offset":
            return self.clock.astimezone(timezone(timedelta(hours=5, minutes=30))).isoformat()
        if form == "naive":
            return self.clock.strftime("%Y-%m-%d %H:%M:%S.%f")
        if form == "minutes" and not self.clock.second and not self.clock.microsecond:
            return self.clock.strftime("%Y-%m-%dT%H:%MZ")
        plain = form != "fraction" and not self.clock.microsecond
        return self.clock.strftime("%Y-%m-%dT%H:%M:%SZ" if plain else "%Y-%m-%dT%H:%M:%S.%fZ")

    @rule(failure=st.sampled_from(FAILURES))
    def fail(self, failure: str) -> None:
        self.failure = failure
        self.load()
        self.failure = None

    def compare(self) -> None:
        self.load()
        _, after = self.table()
        assert sorted((row["id"], row["name"]) for row in after) == sorted(
            (r["id"], r["name"]) for r in self.rows.values()
        )


@pytest.mark.slow
@pytest.mark.parametrize(("machine", "share"), [(Merging, 2), (Keeping, 4), (Continuing, 4)])
def test_after_every_run_the_table_matches_the_server_or_is_unchanged(machine: type[Machine], share: int) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=max(1, SEQUENCES // share), stateful_step_count=10, derandomize=True, deadline=None, database=None,
            # Every step is a run of dlt, so shrinking takes minutes and is only useful for debugging.
            phases=list(Phase) if "RMM_SHRINK" in os.environ else [Phase.generate],
            suppress_health_check=list(HealthCheck),
        ),
    )  # fmt: skip

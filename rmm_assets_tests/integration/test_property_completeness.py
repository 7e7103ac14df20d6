"""Tests that every row that exists throughout a read is received and no other, or the read is red, whatever the server does.

The generator leaves out the known cases of docs/reliability.md; comments name each. `RMM_SERVERS` sets how many servers are
generated (default 140). A failure names the server's number: `world_of(style, number)` creates it again.
"""

from __future__ import annotations

import logging
import os
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import duckdb
import pytest

from rmm_assets.config import Connection
from rmm_assets.errors import IncompleteError, PagingError, TransportError
from rmm_assets.http.settings import Retry
from rmm_assets.loading.run import sync
from rmm_assets.reading.fetch import Pager, Window
from rmm_assets.tables.store import Store
from rmm_assets_tests.integration.drifting import Api, Style, World, Worlds, paginator_of
from rmm_assets_tests.reading.reading import endpoint_of, pager_to, read_by

RED = (IncompleteError, PagingError, TransportError)
IMPATIENT = Retry(max_retries=2, backoff_factor=0)
# Number of servers per style, of 20.
SHARES: dict[Style, int] = {"offset": 7, "page_number": 5, "keyset": 2, "cursor": 2, "json_link": 2, "header_link": 2}
STYLES = list(SHARES)
ALL = int(os.environ.get("RMM_SERVERS", "140"))
SERVERS: dict[Style, int] = {style: ALL * share // 20 for style, share in SHARES.items()}
END_TO_END = 6


class Dice(random.Random):
    """Draws values from a seed: ten times as fast as Hypothesis, and generated servers are never shrunk."""

    def several(self, options: Sequence[Any], least: int = 0, most: int = 3) -> list[Any]:
        return [self.choice(options) for _ in range(self.randint(least, most))]

    def different(self, options: Sequence[Any], least: int = 0, most: int = 3) -> list[Any]:
        return self.sample(options, self.randint(least, min(most, len(options))))


def restless(dice: Dice, style: Style) -> World:
    """Returns a server whose only fault is that rows appear and disappear while the first pages are read."""
    total = dice.choice([0, 0, None])
    changes: list[Any] = [("delete",), ("insert",), ("move",)]
    if style == "page_number" and total is not None:
        # A delete before the place and an insert behind it, between two requests, cancel out in a total.
        changes = [dice.choice(changes)]
    else:
        changes += [("delete", "insert")] * 3
    limit = dice.randint(4, 20)
    return World(
        style=style, total=total, limit=limit, rows=dice.randint(2 * limit, 7 * limit),
        round_offsets=dice.choice(["no", "no", "floor"]) if style == "offset" else "no",
        window=dice.choice([1, 2, 8, 32]), seed=dice.randint(0, 10_000),
        drift={number: dice.choice(changes) for number in dice.several(range(2, 8), 1)},
    )  # fmt: skip


def wild(dice: Dice, style: Style) -> World:
    """Returns any server within the limits that docs/reliability.md describes."""
    rows = dice.choice([dice.randint(0, 12), dice.randint(13, 300)])
    limit = dice.randint(max(1, rows // dice.choice([30, 30, 90])), 120)
    cap = dice.choice([None, dice.randint(max(1, rows // 40), 100)])
    window = dice.choice([1, 2, 8, 32])
    world: dict[str, Any] = {"style": style, "rows": rows, "limit": limit, "cap": cap, "window": window}
    world["seed"] = dice.randint(0, 10_000)
    world["base"] = dice.randint(0, 1)
    ranged = style in ("offset", "page_number")
    world["mark"] = ranged and dice.choice([True, False]) and dice.choice([True, False])
    world["total"] = dice.choice([0, 0, 0, None, None, 1, 7, -1, -5])
    if style == "offset":
        world["round_offsets"] = dice.choice(["no", "no", "no", "floor", "refuse"])
    if style == "page_number" and world["total"] == 0:
        world["pages_total"] = dice.choice([True, False])
    if dice.randint(0, 3) == 0:
        world["repeat"] = dice.randint(2, 40)
        world["total_counts_repeats"] = dice.choice([True, False])

    stated = world["total"] is not None and not world.get("pages_total")
    honest = world["total"] == 0 and not (world.get("repeat") and world["total_counts_repeats"])
    # A server that states too few rows and caps its pages at that number looks like a small table.
    if stated and not honest and (world["total"] < 0 or world.get("repeat")):
        world["cap"] = None

    kinds: list[str] = ["update"]
    if style == "offset" or (style == "page_number" and not stated):
        kinds += ["insert", "delete", "move"]
    elif style == "page_number" and honest:
        # A delete before the place and an insert behind it, between two requests, cancel out in a total.
        kinds += [dice.choice(["insert", "delete", "move"])]
    elif style == "keyset" and not stated:
        kinds += ["insert", "delete"]
    # Cursors and links that encode a number of rows lose the position as soon as rows move.
    if stated and not honest:
        # A total that is wrong by exactly the number of rows that a move hides confirms the read.
        kinds = [kind for kind in kinds if kind not in ("move", "delete", "insert")]
    drift: dict[int, tuple[str, ...]] = {}
    how = dice.choice(["still", "now and then", "balanced", "for a while", "for ever"])
    if how == "balanced" and {"insert", "delete"} <= set(kinds):
        # Rows disappear and appear together, so the total does not change.
        for number in dice.several(range(2, 9)):
            drift[number] = ("delete", "insert")
    elif how in ("now and then", "balanced"):
        for number in dice.several(range(2, 31), most=4):
            drift[number] = (dice.choice(kinds),)
    elif how == "for a while":
        for number in range(2, dice.randint(3, 40), dice.randint(1, 4)):
            drift[number] = tuple(dice.several(kinds))
    elif how == "for ever":
        often = tuple(dice.several(kinds, 1))
        drift = dict.fromkeys(range(2, 400, dice.randint(1, 5)), often)
    world["drift"] = drift

    counted_by_place = style not in ("keyset",) and not repeats_rows(world)
    names = [
        "link",
        "next",
        "flag",
        "full",
        "cursor",
        *(["header_total", "pages", "range"] if counted_by_place else []),
    ]
    world["signals"] = tuple(dice.different(names))
    if world["total"] is None:
        world["lie"] = dice.choice(["", "", "zero", "minus", "one", "page"])
        if world["lie"] in ("one", "page"):
            # A server that caps pages at a unique size and states that size as the total looks like a small table.
            world["cap"] = dice.choice([None, 20, 25, 50, 100])
    if style == "page_number" and dice.randint(0, 3) == 0:
        world["base_said"] = 1 - world["base"]

    faults: list[str] = ["503", "500", "drop", "cut", "html", "error", "null", "null_rows", "object", "nothing", "204"]
    # Only an overlap or a total contradicts an empty page, and nothing contradicts two in a row.
    may_be_empty = style == "offset" or (stated and honest)
    # Nothing contradicts an end mark on a page that is cut short, either.
    if may_be_empty and not drift and not world["mark"]:
        faults.append("empty")
    if style == "offset" and world["round_offsets"] == "no" and (not stated or honest) and not world["mark"]:
        faults += ["short", "short"]
    numbers = dice.different(range(1, 61), most=6)
    chosen: dict[int, str] = {}
    for number in sorted(numbers):
        fault = dice.choice(faults)
        if fault != "empty" or not any(chosen.get(near) == "empty" for near in range(number - 5, number)):
            chosen[number] = fault
    world["faults"] = chosen
    if dice.randint(0, 19) == 0:
        # The request that shows this is not repeated if it fails.
        world |= {"misread": True, "faults": {}}
    return World(**world)


def repeats_rows(world: dict[str, Any]) -> bool:
    """Returns whether rows are served twice, so that totals count too many."""
    return bool(world.get("repeat"))


def world_of(style: Style, number: int) -> World:
    """Returns the server with this number, the same in every run; half of those with offsets or page numbers only move rows."""
    dice = Dice(f"{style} {number}")
    if style in ("offset", "page_number") and dice.choice([True, False]):
        return restless(dice, style)
    return wild(dice, style)


@pytest.fixture(scope="module")
def served() -> Iterator[Worlds]:
    # Otherwise, tens of thousands of retries are logged.
    for name in ("rmm_assets", "rmm_assets_tests.reading"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    server = Worlds()
    yield server
    server.close()
    for name in ("rmm_assets", "rmm_assets_tests.reading"):
        logging.getLogger(name).setLevel(logging.NOTSET)


@pytest.fixture(scope="module")
def pagers(served: Worlds, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[int, Pager]]:
    """Returns a pager for each window, with threads and connections shared by all worlds."""
    folder = tmp_path_factory.mktemp("pagers")
    with ExitStack() as stack:
        yield {
            window: stack.enter_context(
                pager_to(served.url, folder / str(window), window=window, retry=IMPATIENT, deadline=3600)
            )
            for window in (1, 2, 8, 32)
        }


def total_path_of(world: World) -> str | None:
    """Returns the `total_path` that a connection file would set next to the paginator."""
    return "total" if world.total is not None and not world.pages_total and world.style != "offset" else None


def judge(api: Api, rows: list[dict[str, Any]], world: str) -> None:
    """Asserts that every row that existed throughout was received, and no row or value that never existed."""
    landed = {row["id"]: row["value"] for row in rows}
    assert len(landed) == len(rows), f"a row was loaded twice: {world}"
    assert api.throughout <= landed.keys(), f"lost: {sorted(api.throughout - landed.keys())[:5]}: {world}"
    invented = {key: value for key, value in landed.items() if value not in api.ever.get(key, ())}
    assert not invented, f"invented: {invented}: {world}"


@pytest.mark.slow
@pytest.mark.parametrize("style", SERVERS)
def test_every_row_that_exists_throughout_a_read_is_received_or_the_read_is_red(
    style: Style, served: Worlds, pagers: dict[int, Pager], tmp_path: Path
) -> None:
    verdicts: Counter[str] = Counter()
    rows_compared = 0

    for number in range(SERVERS[style]):
        world = world_of(style, number)
        path, api = served.add(world)
        endpoint = endpoint_of(
            paginator_of(world), path=path, params={"limit": str(world.limit)}, total_path=total_path_of(world)
        )
        pager = pagers[world.window]
        pager.window = Window(world.window)
        pager.transport.on_throttle(pager.window.throttled)
        try:
            found = read_by(pager, tmp_path, endpoint)
        except RED as error:
            verdicts[type(error).__name__] += 1
        else:
            verdicts["complete"] += 1
            rows_compared += len(found.rows)
            judge(api, found.rows, f"{style} {number}: {world}")
    print(f"{style}: {verdicts.total()} servers, {rows_compared} rows compared: {dict(verdicts)}")
    # Most reads must be green, or the test would prove nothing.
    assert verdicts["complete"] >= verdicts.total() / 2


@pytest.mark.slow
def test_the_rows_of_a_generated_server_are_in_the_table_or_it_is_unchanged(served: Worlds, tmp_path: Path) -> None:
    for number in range(END_TO_END):
        world = world_of(STYLES[number % len(STYLES)], number)
        path, api = served.add(world)
        endpoint = {
            "path": path,
            "params": {"limit": world.limit},
            "data_selector": "data",
            "paginator": paginator_of(world),
        }
        resource = {"name": "rows", "endpoint": endpoint, "primary_key": "id", "write_disposition": "merge"}
        if total_path := total_path_of(world):
            resource["total_path"] = total_path
        connection = Connection.model_validate(
            {
                "name": f"w{number}",
                "client": {"base_url": served.url},
                "resources": [resource],
                "retry": {"max_retries": 2, "backoff_factor": 0},
                "limits": {"max_concurrency": world.window},
            }
        )
        store = Store("duckdb", str(tmp_path / "rmm.duckdb"), connection.name, tmp_path / "work")
        try:
            outcome = sync(connection, connection.resource("rows"), None, store=store)
        except Exception as error:
            causes: list[BaseException] = [error]
            while (cause := causes[-1].__cause__ or causes[-1].__context__) is not None:
                causes.append(cause)
            assert any(isinstance(cause, RED) for cause in causes), error
            assert not _tables(tmp_path / "rmm.duckdb", connection.name), "something was published"
        else:
            rows = _tables(tmp_path / "rmm.duckdb", connection.name).get("rows", [])
            assert outcome.row_count == len(rows)
            judge(api, rows, str(world))


def _tables(database: Path, dataset: str) -> dict[str, list[dict[str, Any]]]:
    """Returns the rows of a dataset's tables, except dlt's and `rmm_syncs`."""
    with duckdb.connect(str(database)) as client:
        names = client.execute(
            "SELECT table_name FROM information_schema.tables WHERE table_schema = ? AND table_name <> 'rmm_syncs'"
            " AND NOT starts_with(table_name, '_dlt')",
            [dataset],
        ).fetchall()
        return {
            name: client.sql(f'SELECT * FROM "{dataset}"."{name}"').to_arrow_table().to_pylist() for (name,) in names
        }

"""Whatever a server does: every row that it held throughout a read is there, nothing is invented; or the read is red.

What the generator leaves out are the holes that docs/reliability.md names; the strategies say each where it matters.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rmm_assets.config import Connection
from rmm_assets.errors import IncompleteError, PagingError, TransportError
from rmm_assets.http.settings import Retry
from rmm_assets.loading.run import sync
from rmm_assets.tables.store import Store
from rmm_assets_tests.integration.drifting import Api, Style, World, Worlds, paginator_of
from rmm_assets_tests.reading.reading import endpoint_of, read

RED = (IncompleteError, PagingError, TransportError)
IMPATIENT = Retry(max_retries=2, backoff_factor=0)
SERVERS: dict[Style, int] = {
    "offset": 350, "page_number": 250, "keyset": 100, "cursor": 100, "json_link": 100, "header_link": 100,
}  # fmt: skip
END_TO_END = 24

STEADY: dict[str, Any] = {
    "derandomize": True,
    "deadline": None,
    "database": None,
    "suppress_health_check": [HealthCheck.too_slow, HealthCheck.data_too_large],
}


@st.composite
def restless(draw: Any, style: Style) -> World:
    """Servers without a fault, but for rows that come and go while the first pages are read."""
    total = draw(st.sampled_from([0, 0, None]))
    changes: list[tuple[str, ...]] = [("delete",), ("insert",), ("move",)]
    if style == "page_number" and total is not None:
        # A delete before the place and an insert behind it, between two requests, cancel out in a total.
        changes = [draw(st.sampled_from(changes))]
    else:
        changes += [("delete", "insert")] * 3
    limit = draw(st.integers(4, 20))
    return World(
        style=style, total=total, limit=limit, rows=draw(st.integers(2 * limit, 7 * limit)),
        round_offsets=draw(st.sampled_from(["no", "no", "floor"])) if style == "offset" else "no",
        window=draw(st.sampled_from([1, 2, 8, 32])), seed=draw(st.integers(0, 10_000)),
        drift={n: draw(st.sampled_from(changes)) for n in draw(st.lists(st.integers(2, 7), min_size=1, max_size=3))},
    )  # fmt: skip


@st.composite
def wild(draw: Any, style: Style) -> World:
    """Any server that keeps to what docs/reliability.md asks of a server."""
    rows = draw(st.one_of(st.integers(0, 12), st.integers(13, 300)))
    limit = draw(st.integers(max(1, rows // draw(st.sampled_from([30, 30, 90]))), 120))
    cap = draw(st.one_of(st.none(), st.integers(max(1, rows // 40), 100)))
    window = draw(st.sampled_from([1, 2, 8, 32]))
    world: dict[str, Any] = {"style": style, "rows": rows, "limit": limit, "cap": cap, "window": window}
    world["seed"] = draw(st.integers(0, 10_000))
    world["base"] = draw(st.integers(0, 1))
    ranged = style in ("offset", "page_number")
    world["mark"] = ranged and draw(st.booleans()) and draw(st.booleans())
    world["total"] = draw(st.sampled_from([0, 0, 0, None, None, 1, 7, -1, -5]))
    if style == "offset":
        world["round_offsets"] = draw(st.sampled_from(["no", "no", "no", "floor", "refuse"]))
    if style == "page_number" and world["total"] == 0:
        world["pages_total"] = draw(st.booleans())
    if draw(st.integers(0, 3)) == 0:
        world["repeat"] = draw(st.integers(2, 40))
        world["total_counts_repeats"] = draw(st.booleans())

    stated = world["total"] is not None and not world.get("pages_total")
    honest = world["total"] == 0 and not (world.get("repeat") and world["total_counts_repeats"])
    # A server that states too few rows and sends no more than that at once cannot be told from a small table.
    if stated and not honest and (world["total"] < 0 or world.get("repeat")):
        world["cap"] = None

    kinds: list[str] = ["update"]
    if style == "offset" or (style == "page_number" and not stated):
        kinds += ["insert", "delete", "move"]
    elif style == "page_number" and honest:
        # A delete before the place and an insert behind it, between two requests, cancel out in a total.
        kinds += [draw(st.sampled_from(["insert", "delete", "move"]))]
    elif style == "keyset" and not stated:
        kinds += ["insert", "delete"]
    # Cursors and links that stand for a number of rows lose the place as soon as rows move.
    if stated and not honest:
        # A total that is wrong by as many rows as a move hides confirms it.
        kinds = [kind for kind in kinds if kind not in ("move", "delete", "insert")]
    drift: dict[int, tuple[str, ...]] = {}
    how = draw(st.sampled_from(["still", "now and then", "balanced", "for a while", "for ever"]))
    if how == "balanced" and {"insert", "delete"} <= set(kinds):
        # Rows go and come together, so that no total shows it.
        for number in draw(st.lists(st.integers(2, 8), max_size=3)):
            drift[number] = ("delete", "insert")
    elif how in ("now and then", "balanced"):
        for number in draw(st.lists(st.integers(2, 30), max_size=4)):
            drift[number] = (draw(st.sampled_from(kinds)),)
    elif how == "for a while":
        for number in range(2, draw(st.integers(3, 40)), draw(st.integers(1, 4))):
            drift[number] = tuple(draw(st.lists(st.sampled_from(kinds), max_size=3)))
    elif how == "for ever":
        often = tuple(draw(st.lists(st.sampled_from(kinds), min_size=1, max_size=3)))
        drift = dict.fromkeys(range(2, 400, draw(st.integers(1, 5))), often)
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
    world["signals"] = tuple(draw(st.lists(st.sampled_from(names), max_size=3, unique=True)))
    if world["total"] is None:
        world["lie"] = draw(st.sampled_from(["", "", "zero", "minus", "one", "page"]))
        if world["lie"] in ("one", "page"):
            # A server that cuts its pages to a size nobody else has, and calls that the total, is a small table to everybody.
            world["cap"] = draw(st.sampled_from([None, 20, 25, 50, 100]))
    if style == "page_number" and draw(st.integers(0, 3)) == 0:
        world["base_said"] = 1 - world["base"]

    faults: list[str] = ["503", "500", "drop", "cut", "html", "error", "null", "null_rows", "object", "nothing", "204"]
    # Nothing but an overlap or a total contradicts an empty page, and nothing at all two of them in a row.
    may_be_empty = style == "offset" or (stated and honest)
    if may_be_empty and not drift:
        faults.append("empty")
    if style == "offset" and world["round_offsets"] == "no" and (not stated or honest):
        faults += ["short", "short"]
    numbers = draw(st.lists(st.integers(1, 60), max_size=6, unique=True))
    chosen: dict[int, str] = {}
    for number in sorted(numbers):
        fault = draw(st.sampled_from(faults))
        if fault != "empty" or not any(chosen.get(near) == "empty" for near in range(number - 5, number)):
            chosen[number] = fault
    world["faults"] = chosen
    return World(**world)


def repeats_rows(world: dict[str, Any]) -> bool:
    """Whether rows are served twice, so that what counts them counts too many."""
    return bool(world.get("repeat"))


def worlds(style: Style) -> st.SearchStrategy[World]:
    """Generated servers that page in this style."""
    return st.one_of(restless(style), wild(style)) if style in ("offset", "page_number") else wild(style)


@pytest.fixture(scope="module")
def served() -> Iterator[Worlds]:
    server = Worlds()
    yield server
    server.close()


def total_path_of(world: World) -> str | None:
    """Where a connection file would say that the number of rows stands, beside the paginator."""
    return "total" if world.total is not None and not world.pages_total and world.style != "offset" else None


def judge(api: Api, rows: list[dict[str, Any]]) -> None:
    """Complete and equal: every row that was there throughout, and no row or value that never was."""
    landed = {row["id"]: row["value"] for row in rows}
    assert len(landed) == len(rows), "a row landed twice"
    assert api.throughout <= landed.keys(), f"lost: {sorted(api.throughout - landed.keys())[:5]}"
    invented = {key: value for key, value in landed.items() if value not in api.ever.get(key, ())}
    assert not invented, f"invented: {invented}"


@pytest.mark.slow
@pytest.mark.parametrize("style", SERVERS)
def test_every_row_held_throughout_a_read_is_there_or_the_read_is_red(
    style: Style, served: Worlds, tmp_path: Path
) -> None:
    verdicts: Counter[str] = Counter()
    rows_compared = 0

    @settings(max_examples=SERVERS[style], **STEADY)
    @given(world=worlds(style))
    def hold(world: World) -> None:
        nonlocal rows_compared
        path, api = served.add(world)
        endpoint = endpoint_of(
            paginator_of(world), path=path, params={"limit": str(world.limit)}, total_path=total_path_of(world)
        )
        try:
            found = read(served.url, tmp_path, endpoint, window=world.window, retry=IMPATIENT)
        except RED as error:
            verdict = type(error).__name__
        else:
            verdict = "complete"
            rows_compared += len(found.rows)
            judge(api, found.rows)
        verdicts[verdict] += 1

    hold()
    print(f"{style}: {verdicts.total()} servers, {rows_compared} rows compared: {dict(verdicts)}")
    assert verdicts.total() >= SERVERS[style]
    # Red is a way out, not the way: else everything above would prove nothing.
    assert verdicts["complete"] >= verdicts.total() / 2


@pytest.mark.slow
def test_what_a_generated_server_held_is_in_the_table_or_the_table_is_untouched(served: Worlds, tmp_path: Path) -> None:
    number = itertools.count()

    @settings(max_examples=END_TO_END, **STEADY)
    @given(world=st.one_of(*map(worlds, SERVERS)))
    def hold(world: World) -> None:
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
                "name": f"w{next(number)}",
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
            judge(api, rows)

    hold()


def _tables(database: Path, dataset: str) -> dict[str, list[dict[str, Any]]]:
    """The rows of a dataset's own tables."""
    with duckdb.connect(str(database)) as client:
        names = client.execute(
            "SELECT table_name FROM information_schema.tables WHERE table_schema = ? AND NOT starts_with(table_name, '_dlt')",
            [dataset],
        ).fetchall()
        return {
            name: client.sql(f'SELECT * FROM "{dataset}"."{name}"').to_arrow_table().to_pylist() for (name,) in names
        }

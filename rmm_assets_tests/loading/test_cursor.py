"""Tests incremental reads: where they continue, how cursors are compared, and that dropped rows are counted."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest

from rmm_assets.errors import CursorError
from rmm_assets.loading.cursor import Cursor, Range, bounds_of, order_of
from rmm_assets.loading.outcome import Outcome
from rmm_assets_tests.http.servers import Say, Scripted, Seen
from rmm_assets_tests.syncing import Row, connection, resource, rows_of, run

pytestmark = pytest.mark.slow

START = "2024-01-01T00:00:00Z"


@pytest.mark.parametrize(
    ("earlier", "later"),
    [
        ("2024-05-01T02:10:00+01:00", "2024-05-01T03:20:00+02:00"),
        ("2024-05-01T02:50:00+02:00", "2024-05-01T02:10:00+01:00"),
        ("2024-05-01T10:00:00Z", "2024-05-01T10:00:00.500Z"),
        ("2024-05-01T10:00:00.9Z", "2024-05-01T10:00:00.95Z"),
        ("2024-05-01T10:00:00.1234567Z", "2024-05-01T10:00:00.1234568Z"),
        ("2024-05-01T10:00:00Z", "2024-05-01 10:00:01"),
        ("2024-05-01", "2024-05-01T00:00:01Z"),
        ("2024-05-01T24:00:00Z", "2024-05-02T00:00:01Z"),
        ("2016-12-31T23:59:60Z", "2017-01-01T00:00:01Z"),
        ("9999-12-31T23:59:59+12:00", "9999-12-31T23:59:59-12:00"),
        ("Wed, 01 May 2024 10:00:00 GMT", "Fri, 03 May 2024 10:00:00 GMT"),
        ("/Date(999999999999)/", "/Date(1700000000000)/"),
        ("9", "10"),
        ("-10", "-9"),
        (9, 10.5),
        ("9.5", 10),
        ("abc", "abd"),
    ],
)
def test_cursors_are_compared_as_times_whatever_their_format(earlier: Any, later: Any) -> None:
    assert order_of(earlier).kind == order_of(later).kind
    assert order_of(earlier).value < order_of(later).value
    state: dict[str, Any] = {}
    passing = Range(Cursor("at", keeps_all=False), state)
    passing.admit([[later, 1], [earlier, 2]])
    assert passing.close() == []
    assert state["last_value"] == later


def test_a_row_from_the_future_does_not_hide_those_that_change_before_it(tmp_path: Path) -> None:
    first = [{"id": 1, "at": "2024-05-01T00:00:00Z"}, {"id": 2, "at": "2999-01-01T00:00:00Z"}]
    outcomes, asked = serve(tmp_path, [first, [*first, {"id": 3, "at": "2024-05-02T00:00:00Z"}]])
    assert [row["id"] for row in rows_of(tmp_path)] == [1, 2, 3]
    assert asked == [START, "2024-04-30T23:55:00Z"]
    assert "1 rows have a `at` in the future, such as 2999-01-01T00:00:00Z" in outcomes[0].report.warnings[0]
    # A state that an older version has left in the future is read again from the beginning.
    stuck = {"last_value": "2999-01-01T00:00:00Z"}
    again = Range(Cursor("at", initial=START), stuck)
    assert again.bounds.start_value == START
    again.admit([["2024-05-02T00:00:00Z"]])
    again.close()
    assert stuck["last_value"] == "2024-05-02T00:00:00Z"


@pytest.mark.parametrize(
    ("last", "asked"),
    [
        ("2024-05-01T10:00:00Z", "2024-05-01T09:55:00Z"),
        ("2024-05-01T00:00:00.123+02:00", "2024-04-30T23:55:00.123+02:00"),
        ("2024-05-01 10:00", "2024-05-01 09:55"),
        ("2024-05-01", "2024-05-01"),
        (1714557600, 1714557600),
        ("17", "17"),
        ("v7", "v7"),
    ],
)
def test_a_merge_looks_back_five_minutes_only_for_timestamps(last: Any, asked: Any) -> None:
    assert bounds_of(Cursor("at"), {"last_value": last}).start_value == asked
    assert bounds_of(Cursor("at", keeps_all=False), {"last_value": last}).start_value == last
    assert bounds_of(Cursor("at", lag=0), {"last_value": last}).start_value == last


@pytest.mark.parametrize(
    ("last", "lag", "asked"),
    [
        ("2024-05-01T10:00:00Z", 60, "2024-05-01T09:59:00Z"),
        ("2024-05-01", 2, "2024-04-29"),
        (100, 10, 90),
        (1.5, 0.5, 1.0),
        ("100", 10, "90"),
    ],
)
def test_a_lag_is_seconds_days_or_units_and_keeps_the_format(last: Any, lag: float, asked: Any) -> None:
    assert bounds_of(Cursor("at", lag=lag), {"last_value": last}).start_value == asked


def test_a_lag_never_goes_back_before_the_initial_value() -> None:
    assert bounds_of(Cursor("at", initial=START), {"last_value": "2024-01-01T00:01:00Z"}).start_value == START


def test_a_lag_for_a_text_cursor_is_refused_by_name() -> None:
    with pytest.raises(CursorError, match="`lag` needs a cursor that is a timestamp or a number, and `at` is neither"):
        bounds_of(Cursor("at", lag=5), {"last_value": "v7"})


def serve(
    folder: Path, stages: list[list[Row]], disposition: str = "merge", **cursor: Any
) -> tuple[list[Outcome], list[Any]]:
    """Runs once per stage, each with all rows that the API sends; returns the outcomes and the requested ranges."""
    asked: list[Any] = []
    held: list[Row] = []

    def answer(seen: Seen) -> Say:
        asked.append(dict(parse_qsl(urlsplit(seen.target).query)).get("since"))
        return Say({"data": held})

    incremental = {"cursor_path": "at", "start_param": "since", "initial_value": START, **cursor}
    endpoint = {"paginator": "single_page", "incremental": incremental}
    made = connection(resource(endpoint=endpoint, write_disposition=disposition))
    outcomes = []
    with Scripted(answer) as server:
        for stage in stages:
            held[:] = stage
            outcomes.append(run(folder, server.url, made))
    return outcomes, asked


@pytest.mark.parametrize("normalizer", ["arrow", "dlt"])
def test_a_row_that_changes_within_the_second_of_its_cursor_is_loaded_again(normalizer: str, tmp_path: Path) -> None:
    second = "2024-05-01T10:00:00Z"
    first = [{"id": 1, "status": "open", "at": second}, {"id": 2, "status": "open", "at": second}]
    then = [{"id": 1, "status": "closed", "at": second}, first[1], {"id": 3, "status": "open", "at": second}]
    path = "at" if normalizer == "arrow" else "$.at"
    serve(tmp_path, [first, then], cursor_path=path)
    assert [(row["id"], row["status"]) for row in rows_of(tmp_path)] == [(1, "closed"), (2, "open"), (3, "open")]


def test_a_merge_loads_every_row_that_the_api_sent_whatever_its_cursor(tmp_path: Path) -> None:
    first = [{"id": 1, "at": "2024-05-01T10:00:00Z"}]
    then = [{"id": 2, "at": "2024-04-01T10:00:00Z"}, {"id": 3, "at": "2024-06-01T10:00:00Z"}]
    outcomes, _ = serve(tmp_path, [first, then])
    assert [row["id"] for row in rows_of(tmp_path)] == [1, 2, 3]
    assert outcomes[1].rows_left_out == 0
    [said] = outcomes[1].report.warnings
    assert said.startswith("1 rows have a `at` before the requested start 2024-05-01T09:55:00Z")


def test_what_an_append_leaves_out_is_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    first = [{"id": 1, "at": "2024-05-01T10:00:00Z"}, {"id": 2, "at": "2024-05-01T11:00:00Z"}]
    then = [*first, {"id": 3, "at": "2024-05-01T11:00:00Z"}, {"id": 4, "at": "2024-05-01T12:00:00Z"}]
    caplog.set_level("INFO")
    outcomes, asked = serve(tmp_path, [first, then, then], "append")
    assert [row["id"] for row in rows_of(tmp_path)] == [1, 2, 3, 4]
    assert [outcome.rows_left_out for outcome in outcomes] == [0, 2, 4]
    assert "2 of the rows received did not land" in caplog.text
    assert asked == [START, "2024-05-01T11:00:00Z", "2024-05-01T12:00:00Z"]


def test_an_append_compares_cursors_as_times_not_as_text(tmp_path: Path) -> None:
    first = [{"id": 1, "at": "2024-05-01T02:50:00+02:00"}]
    then = [{"id": 2, "at": "2024-05-01T02:10:00+01:00"}]
    outcomes, asked = serve(tmp_path, [first, then, []], "append")
    assert [row["id"] for row in rows_of(tmp_path)] == [1, 2]
    assert outcomes[1].rows_left_out == 0
    assert asked[1:] == ["2024-05-01T02:50:00+02:00", "2024-05-01T02:10:00+01:00"]


def test_numbers_in_text_are_compared_as_numbers(tmp_path: Path) -> None:
    stages = [[{"id": 1, "at": "9"}], [{"id": 2, "at": "10"}], []]
    _, asked = serve(tmp_path, stages, initial_value="0")
    assert asked == ["0", "9", "10"]


def test_a_cursor_that_moves_backwards_is_reported_and_the_state_unchanged(tmp_path: Path) -> None:
    stages = [[{"id": 1, "at": "2024-05-01T10:00:00Z"}], [{"id": 2, "at": "2024-05-01T09:58:00Z"}], []]
    outcomes, asked = serve(tmp_path, stages)
    [said] = outcomes[1].report.warnings
    assert said.startswith("the newest `at` is 2024-05-01T09:58:00Z, but the last run's was 2024-05-01T10:00:00Z")
    assert asked[2] == "2024-05-01T09:55:00Z"


def test_a_row_with_an_incomparable_cursor_is_loaded_and_reported(tmp_path: Path) -> None:
    stages = [[{"id": 1, "at": "2024-05-01T10:00:00Z"}, {"id": 2, "at": "0000-00-00 00:00:00"}], []]
    outcomes, asked = serve(tmp_path, stages)
    assert [row["id"] for row in rows_of(tmp_path)] == [1, 2]
    assert "1 rows have a `at` that cannot be compared with 2024-05-01T10:00:00Z" in outcomes[0].report.warnings[0]
    assert asked[1] == "2024-05-01T09:55:00Z"


@pytest.mark.parametrize(("missing", "left"), [("include", [1, 2]), ("exclude", [1])])
def test_a_row_without_a_cursor_is_handled_as_configured(missing: str, left: list[int], tmp_path: Path) -> None:
    rows: list[Row] = [{"id": 1, "at": "2024-05-01T10:00:00Z"}, {"id": 2, "at": None}]
    [outcome], _ = serve(tmp_path, [rows], on_cursor_value_missing=missing)
    assert [row["id"] for row in rows_of(tmp_path)] == left
    assert outcome.rows_left_out == 2 - len(left)


def test_a_row_without_a_cursor_is_red_by_default(tmp_path: Path) -> None:
    with pytest.raises(CursorError, match=r"a row has no value at `at`.*on_cursor_value_missing"):
        serve(tmp_path, [[{"id": 1, "at": "2024-05-01T10:00:00Z"}, {"id": 2}]])
    assert rows_of(tmp_path) == []


def test_an_end_value_leaves_out_later_rows_and_does_not_change_the_state(tmp_path: Path) -> None:
    rows = [{"id": number, "at": f"2024-05-0{number}T00:00:00Z"} for number in (1, 2, 3)]
    outcomes, asked = serve(tmp_path, [rows, rows], end_value="2024-05-03T00:00:00Z")
    assert [row["id"] for row in rows_of(tmp_path)] == [1, 2]
    assert [outcome.rows_left_out for outcome in outcomes] == [1, 1]
    assert asked == [START, START]


def test_a_range_that_replaces_is_refused_at_load() -> None:
    endpoint = {"incremental": {"cursor_path": "at", "start_param": "since"}}
    with pytest.raises(
        ValueError, match="reads only changes, so `write_disposition: replace` would drop all other rows"
    ):
        connection(resource(endpoint=endpoint, write_disposition="replace"))


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"write_disposition": {"disposition": "merge", "strategy": "cdc"}}, "would delete all other rows"),
        (
            {"write_disposition": {"disposition": "merge", "strategy": "delete-insert", "destination_scope": "1 = 1"}},
            "all other rows of the scope would",
        ),
        ({"history": True, "merge_key": "site"}, "history would end all other rows with the same merge key"),
    ],
)
def test_a_range_that_deletes_or_ends_all_other_rows_is_refused_at_load(more: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        connection(resource(endpoint={"incremental": {"cursor_path": "at", "start_param": "since"}}, **more))
    whole = "site IN (SELECT site FROM {staging_table})"
    for allowed in (
        {"write_disposition": {"disposition": "merge", "strategy": "cdc"}, "merge_key": "site"},
        {"write_disposition": {"disposition": "merge", "strategy": "delete-insert", "destination_scope": whole}},
    ):
        connection(resource(endpoint={"incremental": {"cursor_path": "at", "start_param": "since"}}, **allowed))

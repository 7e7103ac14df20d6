"""Tests the numbers of charts from tables of any vendor: missing columns are noted, absent rows are not counted."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb
import pytest

from rmm_assets.overview.charts import Chart, Overview, read_overview
from rmm_assets.tables.store import Store
from rmm_assets.tables.table import Table

# The load id of every row: 2026-03-10 12:00 UTC.
LOADED = "1773144000.5"
DAY = 86_400


@contextmanager
def tables(folder: Path, **ddl: str) -> Iterator[dict[str, Table]]:
    """Returns tables as a load leaves them: the result of a SELECT each, with a load id."""
    file = folder / "fleet.duckdb"
    with duckdb.connect(str(file)) as db:
        db.execute("CREATE SCHEMA acme")
        for name, select in ddl.items():
            db.execute(f"CREATE TABLE acme.{name} AS SELECT *, '{LOADED}' AS _dlt_load_id FROM ({select})")
    store = Store("duckdb", str(file), "acme", folder / "work")
    with store.pipeline("fleet", read_only=True).sql_client() as client:
        yield {name: Table(client, name) for name in ("devices", "alerts", "patches", "organizations")}


def chart(overview: Overview, name: str) -> Chart:
    return next(chart for chart in overview.charts if chart.name == name)


DEVICES = f"""
SELECT * FROM (VALUES
  (1, 'PC-1', 'online', 'Contoso', to_timestamp({LOADED}), NULL),
  (2, 'PC-2', 'offline', 'Contoso', to_timestamp({LOADED}) - INTERVAL 3 DAY, NULL),
  (3, 'PC-3', 'online', 'Zeta', to_timestamp({LOADED}) - INTERVAL 2 HOUR, NULL),
  (4, 'PC-4', NULL, NULL, NULL, NULL),
  (5, 'gone', 'offline', 'Gone Ltd', to_timestamp({LOADED}) - INTERVAL 90 DAY, to_timestamp({LOADED}))
) AS t (id, name, status, organization__name, last_seen_at, _absent_since)"""


def test_devices_are_counted_by_organization_and_state_without_absent_ones(tmp_path: Path) -> None:
    with tables(tmp_path, devices=DEVICES) as found:
        overview = read_overview("acme", found)
    drawn = chart(overview, "status_by_organization")
    assert drawn.labels == ("Contoso", "Zeta", "not stated")
    assert drawn.series == {"online": (1, 1, 0), "offline": (1, 0, 0), "not stated": (0, 0, 1)}
    assert drawn.headline == "4 devices, 50% of them online"

    silent = chart(overview, "agents_not_seen")
    assert silent.labels == ("PC-2 · Contoso",) and silent.series == {"days": (3.0,)}
    assert silent.headline == "1 agent was not seen for more than a day"
    assert silent.note == "1 agent was never seen."


def test_large_and_small_organizations_are_all_counted(tmp_path: Path) -> None:
    many = "SELECT i AS id, 'PC' AS name, 'online' AS status, 'Org ' || (i % 30) AS site_name FROM range(100) r(i)"
    with tables(tmp_path, devices=many) as found:
        drawn = chart(read_overview("acme", found), "status_by_organization")
    assert len(drawn.labels) == 13 and drawn.labels[-1] == "18 others"
    assert sum(drawn.series["online"]) == 100


@pytest.mark.parametrize(
    ("devices", "alerts", "organizations"),
    [
        (
            f"SELECT i AS id, 'PC-' || i AS system_name, i = 0 AS offline, 7 AS organization_id,"
            f" {LOADED}::DOUBLE - i * 2 * {DAY} AS last_contact FROM range(3) r(i)",
            f"SELECT i AS uid, 'CRITICAL' AS severity, {LOADED}::DOUBLE - i * {DAY} AS create_time FROM range(5) r(i)",
            "SELECT 7 AS id, 'Contoso' AS name",
        ),
        (
            f"SELECT i AS uid, 'PC-' || i AS hostname, i > 0 AS online, 'Contoso' AS site_name,"
            f" ({LOADED}::DOUBLE - i * 2 * {DAY})::BIGINT * 1000 AS last_seen FROM range(3) r(i)",
            f"SELECT i AS alert_uid, 'Critical' AS priority, ({LOADED}::DOUBLE - i * {DAY})::BIGINT * 1000 AS timestamp"
            " FROM range(5) r(i)",
            None,
        ),
        (
            f"SELECT i AS id, 'PC-' || i AS agent_name, i > 0 AS online, 'Contoso' AS customer_name,"
            f" strftime(to_timestamp({LOADED}::DOUBLE - i * 2 * {DAY}) AT TIME ZONE 'UTC', '%Y-%m-%dT%H:%M:%SZ')"
            " AS last_seen FROM range(3) r(i)",
            f"SELECT i AS id, 'critical' AS severity, (to_timestamp({LOADED}::DOUBLE - i * {DAY})"
            " AT TIME ZONE 'UTC')::DATE AS created FROM range(5) r(i)",
            None,
        ),
    ],
    ids=["seconds since 1970 and keys", "milliseconds since 1970 and flags", "text and dates"],
)
def test_other_names_and_other_kinds_of_time_give_the_same_charts(
    tmp_path: Path, devices: str, alerts: str, organizations: str | None
) -> None:
    more = {"organizations": organizations} if organizations else {}
    with tables(tmp_path, devices=devices, alerts=alerts, **more) as found:
        overview = read_overview("acme", found)
    status = chart(overview, "status_by_organization")
    assert status.labels == ("Contoso",) and status.series == {"online": (2,), "offline": (1,)}
    silent = chart(overview, "agents_not_seen")
    assert silent.labels == ("PC-2 · Contoso", "PC-1 · Contoso")
    assert silent.series["days"] == pytest.approx((4, 2), abs=0.1)
    over_time = chart(overview, "alerts_by_severity")
    assert over_time.headline == "5 alerts, 5 of them critical"
    assert sum(over_time.series["critical"]) == 5
    assert over_time.note.startswith("no column for whether an alert is open; looked for `status`")


def test_pending_patches_are_counted_by_age(tmp_path: Path) -> None:
    patches = f"""
    SELECT i AS id, CASE WHEN i % 2 = 0 THEN 'pending' ELSE 'Installed' END AS status, 'major' AS severity,
      (to_timestamp({LOADED}) AT TIME ZONE 'UTC')::DATE - (i * 10)::INTEGER AS release_date FROM range(12) r(i)"""
    with tables(tmp_path, patches=patches) as found:
        drawn = chart(read_overview("acme", found), "patch_age")
    # 0 | 20 | 40, 60 | 80 | 100 days
    assert drawn.series == {"major": (1, 1, 2, 1, 1)}
    assert drawn.headline == "6 pending patches"


def test_alerts_outside_of_the_chart_are_counted_in_its_note(tmp_path: Path) -> None:
    alerts = f"""
    SELECT to_timestamp({LOADED}) - INTERVAL 1 DAY AS opened_at, 'minor' AS severity
    UNION ALL SELECT to_timestamp({LOADED}) - INTERVAL 400 DAY, 'minor'
    UNION ALL SELECT to_timestamp({LOADED}) + INTERVAL 90 DAY, 'minor'
    UNION ALL SELECT NULL, 'minor'"""
    with tables(tmp_path, alerts=alerts) as found:
        drawn = chart(read_overview("acme", found), "alerts_by_severity")
    assert drawn.headline == "1 alert"
    assert drawn.note.endswith(". 3 alerts have no time, or one outside of the chart.")


@pytest.mark.parametrize(
    "columns",
    [
        "CASE WHEN i < 7 THEN 'Resolved' ELSE 'triggered' END AS status",
        "i < 7 AS resolved",
        "(i < 7)::INTEGER AS is_resolved",
        f"CASE WHEN i < 7 THEN to_timestamp({LOADED}) - INTERVAL (i) MINUTE END AS resolved_at",
    ],
    ids=["word", "flag", "number", "time"],
)
def test_only_open_alerts_count_as_critical(tmp_path: Path, columns: str) -> None:
    alerts = (
        f"SELECT to_timestamp({LOADED}) - INTERVAL (i) HOUR AS opened_at, {columns},"
        " CASE WHEN i % 2 = 0 THEN 'critical' ELSE 'minor' END AS severity FROM range(10) r(i)"
    )
    with tables(tmp_path, alerts=alerts) as found:
        drawn = chart(read_overview("acme", found), "alerts_by_severity")
    assert drawn.headline == "10 alerts, 3 of them open, 1 critical" and not drawn.note
    assert sum(map(sum, drawn.series.values())) == 10


def test_a_chart_refers_to_the_last_load_of_its_own_table(tmp_path: Path) -> None:
    loaded = datetime.fromtimestamp(float(LOADED), UTC)
    devices = f"SELECT i AS id, 'PC-' || i AS name, to_timestamp({LOADED}) - INTERVAL (i) HOUR AS last_seen FROM range(48) r(i)"
    alerts = f"SELECT to_timestamp({LOADED}) AS opened_at, 'minor' AS severity"
    with tables(tmp_path, devices=devices, alerts=alerts) as found:
        # Alerts were loaded three days after the devices, whose table says nothing about those days.
        later = read_overview("acme", found, loaded_at={"alerts": loaded + timedelta(days=3)})
    silent = chart(later, "agents_not_seen")
    assert silent.headline == "23 agents were not seen for more than a day" and len(later.silent) == 23
    assert silent.as_of == loaded.replace(microsecond=0)
    assert chart(later, "alerts_by_severity").as_of == loaded + timedelta(days=3)
    assert len(silent.labels) == 12 and silent.note == "Only the 12 agents not seen for longest are drawn."


@pytest.mark.parametrize("ddl", [{}, {"devices": "SELECT 1 AS id WHERE false", "alerts": "SELECT 1 AS id WHERE false"}])
def test_empty_tables_are_noted_without_an_error(tmp_path: Path, ddl: dict[str, str]) -> None:
    with tables(tmp_path, **ddl) as found:
        overview = read_overview("acme", found)
    assert [chart.series for chart in overview.charts] == [{}, {}, {}, {}]
    assert all(chart.note.startswith("Not drawn: ") for chart in overview.charts)


def test_the_note_about_a_missing_column_lists_its_possible_names(tmp_path: Path) -> None:
    with tables(tmp_path, devices="SELECT 1 AS id, 'PC' AS name", alerts="SELECT 1 AS id") as found:
        overview = read_overview("acme", found)
    assert "no column for the state of a device; looked for `status`" in overview.charts[0].note
    assert "no column for when an agent was last seen, or its name; looked for" in overview.charts[1].note
    assert "no column for when an alert was raised; looked for `opened_at`" in overview.charts[2].note


def test_a_value_that_is_not_a_time_is_noted(tmp_path: Path) -> None:
    devices = "SELECT 1 AS id, 'PC' AS name, 'online' AS status, 'yesterday' AS last_seen"
    with tables(tmp_path, devices=devices) as found:
        assert chart(read_overview("acme", found), "agents_not_seen").note == "Not drawn: `last_seen` is not a time."


def test_hidden_columns_are_not_shown(tmp_path: Path) -> None:
    with tables(tmp_path, devices=DEVICES) as found:
        overview = read_overview("acme", found, hidden={"devices": {"organization__name", "name"}})
    assert "Contoso" not in repr(overview) and "PC-2" not in repr(overview)
    assert chart(overview, "agents_not_seen").labels == ("2",)


def test_the_charts_do_not_depend_on_the_time_zone_of_the_session(tmp_path: Path) -> None:
    alerts = (
        f"SELECT 'minor' AS severity, to_timestamp({LOADED}) - INTERVAL (i * 7) HOUR AS opened_at FROM range(100) r(i)"
    )
    with tables(tmp_path, devices=DEVICES, alerts=alerts) as found:
        here = read_overview("acme", found)
        found["devices"].client.execute_sql("SET TimeZone = 'Pacific/Auckland'")
        assert read_overview("acme", found) == here
    assert len(chart(here, "alerts_by_severity").labels) > 20

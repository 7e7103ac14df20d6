"""Tests the profile of Zabbix on Zabbix: its own API over a database of PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg2  # type: ignore[import-untyped]
import pytest
from psycopg2.extras import execute_batch  # type: ignore[import-untyped]

from rmm_assets.config import profiles
from rmm_assets.config.resource import Resource
from rmm_assets.errors import RmmError
from rmm_assets.reading.report import Evidence
from rmm_assets_tests.http.servers import Scripted
from rmm_assets_tests.postgres import new_database
from rmm_assets_tests.vendors.dialect import KEY, Rows, Whole
from rmm_assets_tests.vendors.loading import connection_of, differences, load, table
from rmm_assets_tests.vendors.zabbix import Zabbix, running

pytestmark = pytest.mark.slow

GROUPS, HOSTS, EVENTS, PROBLEMS = 57, 230, 3210, 2000
NUMBERS = {
    "host_groups": GROUPS, "hosts": HOSTS, "items": 2 * HOSTS, "triggers": HOSTS, "problems": PROBLEMS, "events": EVENTS,
    "maintenances": 1,
}  # fmt: skip
FIRST = 1_700_000_000  # seconds since 1970


@pytest.fixture(scope="module")
def database(postgres_server: str) -> Iterator[str]:
    with new_database(postgres_server) as url:
        yield url


@pytest.fixture(scope="module")
def filled(database: str) -> Iterator[Zabbix]:
    """Yields a Zabbix with hosts, items, triggers, maintenances and events."""
    with running(database) as zabbix:
        groups = zabbix.call("hostgroup.create", [{"name": f"Group {at}"} for at in range(GROUPS)], token=zabbix.token)
        of = [{"groupid": groups["groupids"][0]}, {"groupid": groups["groupids"][1]}]
        hosts = zabbix.call("host.create", [
            {"host": f"host-{at}", "name": f"Hôst {at}", "groups": of[: at % 2 + 1], "tags": [{"tag": "site", "value": str(at)}],
             "interfaces": [{"type": 1, "main": 1, "useip": 1, "ip": "192.0.2.1", "dns": "", "port": "10050"}],
             **({"inventory_mode": 0, "inventory": {"serialno_a": f"S{at}"}} if at % 3 == 0 else {})}
            for at in range(HOSTS)
        ], token=zabbix.token)["hostids"]  # fmt: skip
        zabbix.call("item.create", [
            {"name": f"Item {key}", "key_": f"trap[{key}]", "hostid": host, "type": 2, "value_type": 3}
            for host in hosts for key in range(2)
        ], token=zabbix.token)  # fmt: skip
        # Items and triggers of templates are not those of a host.
        template = zabbix.call("template.create", {"host": "template", "groups": of[:1]}, token=zabbix.token)[
            "templateids"
        ]
        item = {"name": "Item", "key_": "trap[0]", "hostid": template[0], "type": 2, "value_type": 3}
        zabbix.call("item.create", item, token=zabbix.token)
        zabbix.call(
            "trigger.create", {"description": "-", "expression": "last(/template/trap[0])>5"}, token=zabbix.token
        )
        triggers = zabbix.call("trigger.create", [
            {"description": f"Too much on {at}", "expression": f"last(/host-{at}/trap[0])>5", "priority": at % 6}
            for at in range(HOSTS)
        ], token=zabbix.token)["triggerids"]  # fmt: skip
        zabbix.call("maintenance.create", [
            {"name": "Patch night", "active_since": FIRST, "active_till": FIRST + 86_400, "hostids": hosts[:3],
             "timeperiods": [{"timeperiod_type": 0, "start_date": FIRST, "period": 3600}]}
        ], token=zabbix.token)  # fmt: skip
        # Events come from the server that polls hosts, which does not run.
        add_events(database, [(100 + at, triggers[at % HOSTS], FIRST + 60 * at) for at in range(EVENTS)], PROBLEMS)
        yield zabbix


def add_events(database: str, events: list[tuple[int, str, int]], problems: int = 0) -> None:
    """Adds events, of which the first are problems that are not resolved: their numbers, triggers and times."""
    names = "eventid, objectid, clock, source, object, name, severity"
    with closing(psycopg2.connect(database)) as client, client, client.cursor() as cursor:
        for table_name, rows in (("events", events), ("problem", events[:problems])):
            statement = f"INSERT INTO {table_name} ({names}) VALUES (%s, %s, %s, 0, 0, 'Too much', 3)"
            execute_batch(cursor, statement, rows, 1000)
        tags = [(number, number, "scope", "availability") for number, _, _ in events]
        execute_batch(cursor, "INSERT INTO event_tag VALUES (%s, %s, %s, %s)", tags, 1000)


def execute(database: str, statement: str) -> None:
    with closing(psycopg2.connect(database)) as client, client, client.cursor() as cursor:
        cursor.execute(statement)


def rows_of(zabbix: Zabbix, resource: Resource) -> Rows:
    """Returns all rows of a resource, by one call without pages, with the types that its columns declare."""
    sent: dict[str, Any] = resource.endpoint.json_body or {}
    paging = ("limit", "sortfield", "sortorder", "time_from")
    params = {name: value for name, value in sent["params"].items() if name not in paging}
    numbers = {name for name, hints in resource.columns.items() if hints.data_type == "bigint" or hints.unit}

    def typed(name: str, value: Any) -> Any:
        return Whole(value) if isinstance(value, dict) else int(value) if name in numbers else value

    rows = zabbix.call(sent["method"], params, token=zabbix.token)
    return [{name: typed(name, value) for name, value in row.items()} for row in rows]


@pytest.mark.parametrize(("name", "number"), NUMBERS.items())
def test_a_resource_has_every_row_and_value(name: str, number: int, filled: Zabbix, tmp_path: Path) -> None:
    with Scripted(filled.answer) as server:
        made = connection_of(filled, server.url)
        outcome = load(tmp_path, made, filled, name)
    wanted = rows_of(filled, made.resource(name))
    # Zabbix has some groups of its own.
    assert len(wanted) == number or (name == "host_groups" and len(wanted) > number)
    assert differences(table(tmp_path, name), wanted) == []
    assert outcome.report.complete
    assert outcome.report.evidence is Evidence.STATED_TOTAL
    assert outcome.rows_rejected == 0
    # A page of events begins with the last row of the page before.
    assert (outcome.report.duplicates > 0) is (name in ("problems", "events"))
    assert outcome.report.warnings == []


def test_every_resource_is_loaded_from_the_server() -> None:
    assert set(NUMBERS) == set(profiles.profile_named("zabbix").resources)


def test_pages_of_events_are_as_large_as_asked_and_a_second_run_reads_those_of_a_week(
    filled: Zabbix, database: str, tmp_path: Path
) -> None:
    with Scripted(filled.answer) as server:
        made = connection_of(filled, server.url)
        filled.answered.clear()
        load(tmp_path, made, filled, "events")
        assert [rows for _, rows in filled.answered[:3]] == [1000, 1000, 1000]
        execute(database, "UPDATE events SET acknowledged = 1 WHERE eventid = 3000")
        assert load(tmp_path, made, filled, "events").rows_written == 1
        trigger = filled.call("trigger.get", {"output": ["triggerid"], "limit": 1}, token=filled.token)[0]["triggerid"]
        add_events(database, [(90_000, trigger, FIRST + 30 * 86_400)])
        assert load(tmp_path, made, filled, "events").rows_new == 1
        add_events(database, [(90_001, trigger, FIRST + 30 * 86_400 + 1)])
        filled.answered.clear()
        assert load(tmp_path, made, filled, "events").rows_new == 1
    assert max(rows for _, rows in filled.answered) == 2
    assert differences(table(tmp_path, "events"), rows_of(filled, made.resource("events"))) == []


def test_a_wrong_token_is_red_and_is_not_in_the_error(filled: Zabbix, tmp_path: Path) -> None:
    token, filled.token = filled.token, "wr0ng"
    try:
        with Scripted(filled.answer) as server, pytest.raises(RmmError) as raised:
            load(tmp_path, connection_of(filled, server.url), filled, "hosts")
    finally:
        filled.token = token
    assert KEY not in str(raised.value)

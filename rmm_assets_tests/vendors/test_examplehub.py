"""Tests that a vendor which mixes the known ways to sign in and to page takes a file and no Python: that of the docs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

import rmm_assets
from rmm_assets.config import Connection, profiles
from rmm_assets_tests.http.servers import Say, Scripted
from rmm_assets_tests.vendors.dialect import Asked, Millis
from rmm_assets_tests.vendors.examplehub import Examplehub
from rmm_assets_tests.vendors.loading import at_loopback, differences, load, table

pytestmark = pytest.mark.slow

PAGE = Path(rmm_assets.__file__).parents[1] / "docs" / "how-to" / "own-rmm-example.md"


def connection(dialect: Examplehub, url: str) -> Connection:
    """Returns the connection of the docs, at a server on loopback."""
    written = (
        PAGE.read_text(encoding="utf-8").partition("<!-- test: examplehub -->\n```yaml\n")[2].partition("\n```")[0]
    )
    made = profiles.merged(yaml.safe_load(written)["attributes"])
    made.pop("settings")
    made["retry"] = {"backoff_factor": 0.001}
    return Connection.model_validate({**made, "client": at_loopback(dialect, made["client"], url)})


@pytest.mark.parametrize("name", ["customers", "devices", "alerts", "programs"])
def test_the_file_of_the_docs_loads_every_row_and_value(name: str, tmp_path: Path) -> None:
    dialect = Examplehub()
    with Scripted(dialect.answer) as server:
        outcome = load(tmp_path, connection(dialect, server.url), dialect, name)
    assert differences(table(tmp_path, name), dialect.resources()[name]) == []
    assert outcome.report.complete
    assert outcome.rows_rejected == 0
    assert dialect.strange == set()
    if name != "programs":
        assert len(dialect.answered) >= 3


def test_the_file_has_a_resource_for_each_list_that_the_page_describes() -> None:
    dialect = Examplehub()
    assert {each.name for each in connection(dialect, "http://127.0.0.1:9").resources} == set(dialect.resources())


def test_a_slow_down_with_status_200_is_waited_for_and_an_ended_session_renewed(tmp_path: Path) -> None:
    dialect = Examplehub()
    slow_down = Say({"fault": {"code": "SLOW_DOWN", "wait": 1}})

    def fault(asked: Asked, number: int) -> Say | None:
        if number == 4:
            dialect.tokens.clear()
        return slow_down if number == 3 else None

    dialect.faults = fault
    with Scripted(dialect.answer) as server:
        outcome = load(tmp_path, connection(dialect, server.url), dialect, "devices")
    assert outcome.traffic.throttled == 1
    assert outcome.seconds > 1, "the body says how long to wait"
    assert dialect.logins == 2
    assert differences(table(tmp_path, "devices"), dialect.resources()["devices"]) == []


def test_pages_that_the_vendor_cuts_lose_no_rows(tmp_path: Path) -> None:
    dialect = Examplehub()
    vars(dialect)["lists"] = {name: replace(found, most=found.most // 3) for name, found in dialect.lists.items()}
    with Scripted(dialect.answer) as server:
        for name in ("customers", "devices", "alerts"):
            load(tmp_path, connection(dialect, server.url), dialect, name)
            assert differences(table(tmp_path, name), dialect.resources()[name]) == []


def test_a_second_run_requests_the_alerts_that_changed(tmp_path: Path) -> None:
    dialect = Examplehub()
    rows = dialect.lists["alerts"].rows
    with Scripted(dialect.answer) as server:
        made = connection(dialect, server.url)
        load(tmp_path, made, dialect, "alerts")
        rows[3]["changed"] = Millis(max(row["changed"] for row in rows) + 60_000)
        dialect.answered.clear()
        outcome = load(tmp_path, made, dialect, "alerts")
    assert outcome.rows_written == 1
    assert sum(number for _, number in dialect.answered) < 100
    assert differences(table(tmp_path, "alerts"), dialect.resources()["alerts"]) == []

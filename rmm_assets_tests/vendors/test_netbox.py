"""Tests what NetBox's API does besides sending pages: renamed rows, changes that appear late, and 403 for a wrong token."""

from __future__ import annotations

from pathlib import Path

import pytest

from rmm_assets.errors import RmmError
from rmm_assets_tests.http.servers import Say, Scripted
from rmm_assets_tests.vendors.dialect import KEY, Asked
from rmm_assets_tests.vendors.loading import connection_of, differences, load, table
from rmm_assets_tests.vendors.netbox import NetBox

pytestmark = pytest.mark.slow


def test_a_row_that_is_renamed_in_mid_read_moves_no_other(tmp_path: Path) -> None:
    """In the order of names, which is NetBox's own, it would be missed, so that all would be read again."""
    dialect = NetBox()
    rows = dialect.lists["/dcim/sites/"].rows
    rows[-1]["display"] = "zz"

    def rename(asked: Asked, number: int) -> Say | None:
        if number == 2:
            rows[-1]["display"] = ""
        return None

    dialect.faults = rename
    with Scripted(dialect.answer) as server:
        report = load(tmp_path, connection_of(dialect, server.url), dialect, "sites").report
    assert report.complete
    assert len(dialect.answered) == 3
    assert {row["id"] for row in table(tmp_path, "sites")} == {row["id"] for row in rows}


def test_changes_of_a_request_that_ended_late_are_read(tmp_path: Path) -> None:
    dialect = NetBox()
    rows = dialect.lists["/core/object-changes/"].rows
    late, new = rows.pop(-700), {**rows[-1], "id": rows[-1]["id"] + 1}
    with Scripted(dialect.answer) as server:
        made = connection_of(dialect, server.url)
        load(tmp_path, made, dialect, "object_changes")
        rows += [late, new]
        dialect.answered.clear()
        assert load(tmp_path, made, dialect, "object_changes").rows_new == 2
    assert sum(number for _, number in dialect.answered) < 1100
    assert differences(table(tmp_path, "object_changes"), rows) == []


def test_a_wrong_token_is_red_and_is_not_in_the_error(tmp_path: Path) -> None:
    dialect = NetBox()

    def as_with_another_token(asked: Asked, number: int) -> Say:
        return dialect.respond(Asked(asked.method, asked.path, asked.query, {"authorization": "Token other"}, b""))

    dialect.faults = as_with_another_token
    with Scripted(dialect.answer) as server, pytest.raises(RmmError, match=r"403.*Invalid v1 token") as raised:
        load(tmp_path, connection_of(dialect, server.url), dialect, "sites")
    assert KEY not in str(raised.value)

"""Tests that every profile loads every row and value of its vendor's API, as its dialect speaks it, in the vendor's pages."""

from __future__ import annotations

from pathlib import Path

import pytest

from rmm_assets.config import profiles
from rmm_assets_tests.http.servers import Scripted
from rmm_assets_tests.vendors import lists
from rmm_assets_tests.vendors.dialect import Dialect
from rmm_assets_tests.vendors.loading import connection_of, differences, load, table

pytestmark = pytest.mark.slow

DIALECTS: dict[str, type[Dialect]] = {
    each.profile: each
    for each in (
        lists.Level, lists.Atera, lists.Syncro, lists.Tactical, lists.Hudu, lists.VsaX, lists.ConnectWise, lists.Jamf,
    )
}  # fmt: skip

CASES = [(profile, resource) for profile in DIALECTS for resource in profiles.profile_named(profile).resources]


@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(case))
def test_a_resource_has_every_row_and_value(case: tuple[str, str], tmp_path: Path) -> None:
    profile, name = case
    dialect = DIALECTS[profile]()
    wanted = dialect.resources()
    with Scripted(dialect.answer) as server:
        made = connection_of(dialect, server.url)
        outcome = load(tmp_path, made, dialect, name)
    assert differences(table(tmp_path, name), wanted[name]) == []
    assert outcome.report.complete
    assert outcome.rows_rejected == 0
    assert dialect.strange == set(), "the vendor does not document these parameters"
    # Pages are as large as the vendor allows or the profile explains, and there are at least three.
    most = max(rows for _, rows in dialect.answered)
    assert most == getattr(dialect, "page_size", most)
    assert len(dialect.answered) >= 3


def test_every_profile_has_a_dialect_and_every_resource_rows() -> None:
    assert set(DIALECTS) == set(profiles.names()) - {"generic"}
    for profile, dialect in DIALECTS.items():
        assert set(dialect().resources()) == set(profiles.profile_named(profile).resources), profile

"""Tests the soak: in short, and that it notices what it looks for."""

from __future__ import annotations

from pathlib import Path

import pytest

from rmm_assets_tests.soak.run import Soak
from rmm_assets_tests.soak.tables import Held, faults_of_a_green_table, faults_of_another_table, first_rows, texts

ROWS = first_rows("merge", "devices")


@pytest.mark.slow
def test_after_a_few_bad_days_nothing_is_stuck_wrong_or_leaked(tmp_path: Path) -> None:
    soak = Soak(tmp_path / "soak", seed=7, connections=2)  # with a kill, a wrong key and a full disk
    try:
        report = soak.run(6)
    finally:
        soak.close()
    assert report.problems == [], "\n".join(report.lines())
    assert report.runs.total() == 8
    assert report.green >= 2 * 5 and report.compared > 1000 and report.searched > 50
    assert {day for day, _ in report.runs} >= {"kill -9", "a wrong key", "a full disk"}


def test_a_green_table_that_differs_from_its_server_is_noticed() -> None:
    assert faults_of_a_green_table(ROWS, Held(ROWS, [])) == ""
    assert "1 missing" in faults_of_a_green_table(ROWS, Held(ROWS[1:], []))
    assert "1 missing, 1 that are not" in faults_of_a_green_table(ROWS, Held([{**ROWS[0], "name": "x"}, *ROWS[1:]], []))
    assert faults_of_a_green_table(ROWS, Held([*ROWS, ROWS[0]], []))
    assert faults_of_a_green_table(ROWS, Held(ROWS[1:], ROWS[:1]))


def test_half_of_a_load_is_noticed_and_a_whole_one_is_not() -> None:
    before, server = Held(ROWS[:100], []), ROWS[50:200]
    known = {*texts(ROWS)}.__contains__

    def faults(*present: int, gone: list[int] | None = None) -> str:
        held = Held([ROWS[number] for number in present], [ROWS[number] for number in gone or []])
        return faults_of_another_table(before, server, known, held)

    assert faults(*range(100)) == "", "nothing was published"
    assert faults(*range(200)) == "", "published, and rows that are gone are not marked yet"
    assert faults(*range(50, 200), gone=list(range(50))) == ""
    assert "half of a load" in faults(*range(150))
    assert "half of a load" in faults(*range(99))
    assert "twice" in faults(*range(100), 0)
    assert "never held" in faults_of_another_table(before, server, known, Held([{**ROWS[0], "name": "x"}], []))

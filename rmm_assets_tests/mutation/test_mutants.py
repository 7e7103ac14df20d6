"""Tests that mutants match existing code and tests; `make mutants` shows whether they are noticed."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

from rmm_assets_tests.mutation.mutants import MUTANTS, Mutant
from rmm_assets_tests.mutation.run import ROOT, is_chosen, verdict_of


@cache
def functions_of(path: Path) -> frozenset[str]:
    """Returns the names of a test file's functions."""
    tree = ast.parse(path.read_text())
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))


@pytest.mark.parametrize("mutant", MUTANTS, ids=str)
def test_a_mutant_changes_existing_code_and_names_existing_tests(mutant: Mutant) -> None:
    text = (ROOT / "rmm_assets" / mutant.file).read_text()
    assert text.count(mutant.old) == 1, f"stale: the text occurs {text.count(mutant.old)} times in {mutant.file}"
    assert mutant.old != mutant.new
    compile(text.replace(mutant.old, mutant.new), mutant.file, "exec")
    assert mutant.tests
    for test in mutant.tests:
        file, _, name = test.partition("::")
        assert name.partition("[")[0] in functions_of(ROOT / "rmm_assets_tests" / file), f"{test} does not exist"


def test_each_promise_is_named_once() -> None:
    names = [str(mutant) for mutant in MUTANTS]
    assert len(set(names)) == len(names)


def test_a_surviving_mutant_needs_a_reason_and_a_reason_a_survivor() -> None:
    mutant = MUTANTS[0]._replace(survives_because="")
    excused = mutant._replace(survives_because="nothing depends on it")
    assert [verdict_of(mutant, code) for code in (1, 0, 2, None)] == ["killed", "survived", "error", "hung"]
    assert [verdict_of(excused, code) for code in (1, 0)] == ["killed, despite reason", "survived, with reason"]


def test_a_word_selects_by_promise_and_by_file() -> None:
    mutant = MUTANTS[0]
    assert is_chosen(mutant, []) and is_chosen(mutant, [mutant.file.partition("/")[0], "nothing like this"])
    assert not is_chosen(mutant, ["nothing like this"])

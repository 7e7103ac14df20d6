"""Tests that docs/security.md names an existing test in each line."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

TESTS = Path(__file__).parent
PAGE = TESTS.parent / "docs" / "security.md"


def test_every_line_of_the_security_page_names_existing_tests() -> None:
    rows = [
        row for row in PAGE.read_text(encoding="utf-8").splitlines() if row.startswith("| ") and "| Test |" not in row
    ]
    assert len(rows) > 25
    for row in rows:
        named = re.findall(r"`([\w/]+\.py)::(test_\w+)`", row.rpartition(" | ")[2])
        assert named, f"no test: {row}"
        for module, name in named:
            tree = ast.parse((TESTS / module).read_text(encoding="utf-8"))
            assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, f"{module}::{name}"

"""Converts names in a connection file to table and column names, with dlt's snake_case naming convention."""

from __future__ import annotations

from functools import cache
from typing import Any


@cache
def _naming() -> Any:
    from dlt.common.normalizers.naming.snake_case import NamingConvention

    return NamingConvention()


def normalized_table(name: str) -> str:
    """Normalizes a table's name; in `a__b`, the double underscore still separates a nested table."""
    return str(_naming().normalize_tables_path(name))


def normalized_column(path: str) -> str:
    """Normalizes a column's name; in `a__b`, the double underscore still separates a nested field."""
    return str(_naming().normalize_path(path))

"""Turns names of a connection file into the names of tables and columns, as dlt's snake_case naming makes them."""

from __future__ import annotations

from functools import cache
from typing import Any


@cache
def _naming() -> Any:
    from dlt.common.normalizers.naming.snake_case import NamingConvention

    return NamingConvention()


def normalized_table(name: str) -> str:
    """A table's name as dlt's snake_case naming makes it; `a__b` stays a nested one."""
    return str(_naming().normalize_tables_path(name))


def normalized_column(path: str) -> str:
    """A column's name as dlt's snake_case naming makes it; `a__b` stays the path of a nested field."""
    return str(_naming().normalize_path(path))

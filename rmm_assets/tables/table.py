"""Queries one table in SQL at the destination."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any

from dlt.common.schema.typing import C_DLT_LOAD_ID
from dlt.destinations.exceptions import DatabaseException, DatabaseUndefinedRelation
from dlt.destinations.sql_client import SqlClientBase
from sqlglot import exp

# dlt reads Arrow from a cursor of DuckDB; that this copies the rows once more is of no importance.
warnings.filterwarnings("ignore", "Arrow output on a DB-API result", UserWarning)

LOAD_ID = C_DLT_LOAD_ID
ABSENT_SINCE = "_absent_since"


class Table:
    """One table at the destination, queried in SQL; rows are counted there and never fetched for it.

    Args:
        client: dlt's open SQL client of the dataset.
        name: Normalized name of the table.
    """

    def __init__(self, client: SqlClientBase[Any], name: str) -> None:
        self.client = client
        self.name = name

    @property
    def qualified(self) -> str:
        """The quoted name, `database.dataset.table`."""
        return self.client.make_qualified_table_name(self.name)

    @property
    def full_name(self) -> str:
        """The unquoted name, such as `rmm.acme.devices`."""
        path = self.client.make_qualified_table_name_path(self.name, quote=False)
        if len(path) < 3:
            with suppress(DatabaseException):  # destinations that have no databases
                path = [str(self.rows("SELECT current_database()")[0][0]), *path]
        return ".".join(path)

    def quote(self, column: str) -> str:
        """Quotes a column's name."""
        return self.client.escape_column_name(column)

    def as_text(self, column: str, alias: str) -> str:
        """Returns SQL for a column as text, in the destination's dialect.

        Args:
            alias: Name of the table in the query.
        """
        text = exp.cast(exp.column(column, table=alias, quoted=True), "text")
        return text.sql(dialect=self.client.capabilities.sqlglot_dialect)

    def exists(self) -> bool:
        """Returns whether the table exists."""
        try:
            self.client.execute_sql(f"SELECT 1 FROM {self.qualified} WHERE 1 = 0")
        except DatabaseUndefinedRelation:
            return False
        return True

    def columns(self) -> tuple[str, ...]:
        """Returns the columns' names; empty if there is no table."""
        try:
            with self.client.execute_query(f"SELECT * FROM {self.qualified} WHERE 1 = 0") as cursor:
                # A result of SQLAlchemy names its columns in another way than the other drivers' cursors.
                keys = getattr(cursor.native_cursor, "keys", None)
                return tuple(keys()) if keys else tuple(column[0] for column in cursor.description or ())
        except DatabaseUndefinedRelation:
            return ()

    def rows(self, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """Runs a query and returns its rows; `{table}` is replaced with this table's name."""
        found = self.client.execute_sql(sql.replace("{table}", self.qualified), *parameters)
        return [tuple(row) for row in found or ()]

    def change(self, sql: str, *parameters: Any) -> None:
        """Runs a statement without a result; `{table}` is replaced with this table's name."""
        self.client.execute_sql(sql.replace("{table}", self.qualified), *parameters)

    def first(self, count: int, order: Sequence[str]) -> tuple[tuple[str, ...], tuple[tuple[Any, ...], ...]]:
        """Returns the columns' names and the first `count` rows, sorted by the columns in `order`."""
        columns = self.columns()
        known = [self.quote(name) for name in order if name in columns]
        ordered = f" ORDER BY {', '.join(known)}" if known else ""
        rows = self.rows(f"SELECT * FROM {{table}}{ordered} LIMIT {count}") if columns else []
        return columns, tuple(rows)

    def count(self, where: str = "") -> int:
        """Returns the number of rows that meet a condition, 0 if there is no table."""
        try:
            found = self.rows(f"SELECT count(*) FROM {{table}} {f'WHERE {where}' if where else ''}")
        except DatabaseUndefinedRelation:
            return 0
        return int(found[0][0])


def empty_staging(client: SqlClientBase[Any], names: Iterable[str]) -> None:
    """Empties tables of dlt's staging dataset after a load, so that it keeps no second copy of the rows.

    dlt's own `truncate_staging_dataset` is not used: it creates an empty dataset if there is none, and refreshing a
    resource then fails (1.31.0).
    """
    with client.with_staging_dataset():
        if client.has_dataset() and (there := [name for name in names if Table(client, name).exists()]):
            client.truncate_tables(*there)

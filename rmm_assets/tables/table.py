"""Queries one table in SQL at the destination."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import pyarrow as pa
from dlt.common.data_types import TDataType
from dlt.common.destination.dataset import DBApiCursor
from dlt.common.destination.exceptions import DestinationUndefinedEntity
from dlt.common.schema.typing import C_DLT_LOAD_ID
from dlt.destinations.exceptions import DatabaseException
from dlt.destinations.sql_client import SqlClientBase

from rmm_assets.tables.dialects import created, extended, quoted, statement_for

# dlt reads Arrow from a cursor of DuckDB; that this copies the rows once more is of no importance.
warnings.filterwarnings("ignore", "Arrow output on a DB-API result", UserWarning)

_log = logging.getLogger("rmm_assets.sql")

_BATCH_ROWS = 50_000

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
        """The quoted name, `database.dataset.table`, in the destination's dialect."""
        return self.client.make_qualified_table_name(self.name)

    @property
    def source(self) -> str:
        """The quoted name as statements of this project have it."""
        return quoted(*self.client.make_qualified_table_name_path(self.name, quote=False))

    @property
    def full_name(self) -> str:
        """The unquoted name, such as `rmm.acme.devices`."""
        path = self.client.make_qualified_table_name_path(self.name, quote=False)
        if hasattr(self.client, "remote_client"):  # files, as views in a database in memory
            path = path[-2:]
        elif self.client.catalog_name() is None:
            with suppress(DatabaseException):  # destinations that have no databases
                path = [str(self.rows("SELECT current_database()")[0][0]), *path]
        return ".".join(path)

    def quote(self, column: str) -> str:
        """Quotes a column's name."""
        return quoted(column)

    def exists(self) -> bool:
        """Returns whether the table exists."""
        try:
            self.rows("SELECT 1 FROM {table} WHERE 1 = 0")
        except DestinationUndefinedEntity:
            return False
        return True

    def prepare(self, columns: Mapping[str, TDataType]) -> None:
        """Creates the table, or adds the columns that it lacks, as those that a newer version of this package writes.

        Args:
            columns: dlt's types of the columns, all of which are nullable.
        """
        there = self.columns()
        if there:
            added = {name: data_type for name, data_type in columns.items() if name not in there}
            for statement in extended(self.client, self.name, added):
                self.client.execute_sql(statement)
            return
        try:
            if not self.client.has_dataset():  # before a connection's first load
                self.client.create_dataset()
        except DatabaseException:  # another run was faster
            if not self.client.has_dataset():
                raise
        try:
            self.client.execute_sql(created(self.client, self.name, columns))
        except DatabaseException:
            if not self.columns():
                raise

    def columns(self) -> tuple[str, ...]:
        """Returns the columns' names; empty if there is no table."""
        try:
            with self.cursor("SELECT * FROM {table} WHERE 1 = 0") as cursor:
                return self.names(cursor)
        except DestinationUndefinedEntity:
            return ()

    def names(self, cursor: DBApiCursor) -> tuple[str, ...]:
        """Returns the names of a result's columns."""
        # A result of SQLAlchemy names its columns in another way than the other drivers' cursors.
        keys = getattr(cursor.native_cursor, "keys", None)
        names = tuple(keys()) if keys else tuple(column[0] for column in cursor.description or ())
        # dlt's names are in lower case, whatever the destination makes of them.
        return tuple(map(str.lower, names)) if self.client.capabilities.casefold_identifier is str.upper else names

    @contextmanager
    def cursor(self, sql: str, *parameters: Any) -> Iterator[DBApiCursor]:
        """Runs a query and yields its cursor, from which rows are fetched in batches.

        Args:
            sql: One statement for DuckDB, which is translated for the destination. `{table}` is replaced with this table's
                name; `%s` is a parameter.
            parameters: The parameters.
        """
        text, ordered = self._statement(sql, parameters)
        with self.client.execute_query(text, *ordered) as cursor:
            yield cursor

    def batches(self, sql: str, *parameters: Any) -> Iterator[pa.Table]:
        """Runs a query, with the arguments of `cursor`, and yields its rows as Arrow tables of `_BATCH_ROWS` rows at most.

        The client can run no other statement meanwhile.
        """
        if self.client.capabilities.sqlglot_dialect == "postgres":
            yield from self._declared(sql, parameters)
            return
        with self._streaming(), self.cursor(sql, *parameters) as cursor:
            yield from cursor.iter_arrow(_BATCH_ROWS)

    @contextmanager
    def _streaming(self) -> Iterator[None]:
        """Lets a database behind SQLAlchemy send the rows of queries as they are fetched, which it would send all at once."""
        set_options = getattr(self.client.native_connection, "execution_options", None)
        if set_options is None:
            yield
            return
        set_options(stream_results=True)
        try:
            yield
        finally:
            set_options(stream_results=False)

    def _declared(self, sql: str, parameters: Sequence[Any]) -> Iterator[pa.Table]:
        """Yields the rows of a query in PostgreSQL, whose client receives all rows at once unless a cursor is declared."""
        text, ordered = self._statement(sql, parameters)
        self.client.execute_sql(f"DECLARE rmm_rows CURSOR WITH HOLD FOR {text}", *ordered)
        try:
            rows = _BATCH_ROWS
            while rows == _BATCH_ROWS:
                rows = 0
                with self.client.execute_query(f"FETCH FORWARD {_BATCH_ROWS} FROM rmm_rows") as cursor:
                    for batch in cursor.iter_arrow(_BATCH_ROWS):
                        rows += len(batch)
                        yield batch
        finally:
            self.client.execute_sql("CLOSE rmm_rows")

    def rows(self, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """Runs a query, with the arguments of `cursor`, and returns its rows."""
        text, ordered = self._statement(sql, parameters)
        return [tuple(row) for row in self.client.execute_sql(text, *ordered) or ()]

    def change(self, sql: str, *parameters: Any) -> None:
        """Runs a statement without a result, with the arguments of `cursor`."""
        text, ordered = self._statement(sql, parameters)
        self.client.execute_sql(text, *ordered)

    def _statement(self, sql: str, parameters: Sequence[Any]) -> tuple[str, list[Any]]:
        sql = sql.replace("{table}", self.source)
        _log.debug("%s", sql)
        return statement_for(self.client, sql, parameters)

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
        except DestinationUndefinedEntity:
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

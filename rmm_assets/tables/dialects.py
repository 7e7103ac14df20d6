"""Translates the SQL of this project, which is all written for DuckDB, into the SQL of the destination."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

import sqlglot
from dlt.common.data_types import TDataType
from dlt.destinations.sql_client import SqlClientBase
from sqlglot import exp

# The dialect that statements are written in; for destinations with this dialect, they are not even parsed.
WRITTEN_IN = "duckdb"
_VALUE = re.compile(r"__value_(\d+)__")


def quoted(*names: str) -> str:
    """Returns a name, such as `"dataset"."table"`, as it is written in this project's statements."""
    return ".".join('"' + name.replace('"', '""') + '"' for name in names)


def statement_for(client: SqlClientBase[Any], sql: str, parameters: Sequence[Any]) -> tuple[str, list[Any]]:
    """Returns a statement in the destination's dialect, and its parameters in the order in which it has them.

    Args:
        client: dlt's SQL client of the destination.
        sql: One statement for DuckDB, with `%s` for each parameter.
        parameters: The parameters.
    """
    capabilities = client.capabilities
    text, order = translated(sql, capabilities.sqlglot_dialect, capabilities.casefold_identifier)
    return text, list(parameters) if order is None else [parameters[index] for index in order]


@lru_cache(maxsize=256)
def translated(
    sql: str, dialect: str | None, casefold: Callable[[str], str] = str
) -> tuple[str, tuple[int, ...] | None]:
    """Returns a statement in a dialect, and which parameter each of its `%s` is; None if they are as in `sql`.

    Args:
        sql: One statement for DuckDB, with `%s` for each parameter.
        dialect: sqlglot's name of the dialect.
        casefold: How the destination spells names.
    """
    if dialect == WRITTEN_IN:
        return sql, None
    first, *others = sql.split("%s")
    numbered = first + "".join(f"__value_{number}__{text}" for number, text in enumerate(others))
    tree = sqlglot.parse_one(numbered, read=WRITTEN_IN)
    for name in tree.find_all(exp.Identifier):
        if name.quoted:
            name.set("this", casefold(name.name))
    text = tree.sql(dialect=dialect)
    if dialect == "clickhouse" and isinstance(tree, exp.Update):
        changes = ", ".join(change.sql(dialect=dialect) for change in tree.expressions)
        text = (
            f"ALTER TABLE {tree.this.sql(dialect=dialect)} UPDATE {changes} {tree.args['where'].sql(dialect=dialect)}"
        )
        text = f"{text.strip()} SETTINGS mutations_sync = 1"
    return _VALUE.sub("%s", text), tuple(int(number) for number in _VALUE.findall(text))


def created(client: SqlClientBase[Any], table: str, columns: Mapping[str, TDataType]) -> str:
    """Returns the statement that creates a table, in the destination's dialect.

    Args:
        client: dlt's SQL client of the dataset.
        table: Name of the table.
        columns: dlt's types of the columns, all of which are nullable, as not all warehouses can add others.
    """
    schema = exp.Schema(this=_named(client, table), expressions=_defined(client, table, columns))
    properties = None
    if client.capabilities.sqlglot_dialect == "clickhouse":
        # It has no default of either.
        order = exp.Order(expressions=[exp.Ordered(this=exp.Tuple(expressions=[]))])
        properties = exp.Properties(expressions=[exp.EngineProperty(this=exp.var("MergeTree")), order])
    return exp.Create(this=schema, kind="TABLE", properties=properties).sql(client.capabilities.sqlglot_dialect)


def extended(client: SqlClientBase[Any], table: str, columns: Mapping[str, TDataType]) -> Iterator[str]:
    """Yields the statements that add columns to a table, with the same arguments."""
    for column in _defined(client, table, columns):
        alter = exp.Alter(this=_named(client, table), kind="TABLE", actions=[column])
        yield alter.sql(client.capabilities.sqlglot_dialect)


def moved(client: SqlClientBase[Any], table: str, dataset: str) -> str | None:
    """Returns the statement that moves a table to another dataset; None if there is none, as in DuckDB (2.0.0)."""
    if client.capabilities.sqlglot_dialect != "postgres":
        return None
    schema = client.capabilities.escape_identifier(dataset)
    return f"ALTER TABLE {client.make_qualified_table_name(table)} SET SCHEMA {schema}"


def _named(client: SqlClientBase[Any], table: str) -> exp.Expression:
    path = client.make_qualified_table_name_path(table, quote=False)
    return exp.Table(**{
        part: exp.to_identifier(name, quoted=True)
        for part, name in zip(("this", "db", "catalog"), reversed(path), strict=False)
    })  # fmt: skip


def _defined(client: SqlClientBase[Any], table: str, columns: Mapping[str, TDataType]) -> list[exp.ColumnDef]:
    types, casefold = client.capabilities.get_type_mapper(), client.capabilities.casefold_identifier
    defined = []
    for name, data_type in columns.items():
        column: Any = {"name": name, "data_type": data_type, "nullable": True}
        kind: Any = types.to_destination_type(column, {"name": table})
        if hasattr(kind, "compile"):  # a type of SQLAlchemy
            kind = kind.compile(dialect=client.dialect)
        identifier = exp.to_identifier(casefold(name), quoted=True)
        defined.append(exp.ColumnDef(this=identifier, kind=exp.var(str(kind))))
    return defined

"""Gives the columns of databases behind SQLAlchemy types that keep every value as it is.

With dlt's own types (1.31.0), text in MySQL and MariaDB has the character set and the collation of the server: it may lack most
characters, "a", "A", "á" and "a " are one key, and it ends after 64 KB. MariaDB checks JSON to a depth of 32 only. In SQLite, a
JSON column keeps fifteen digits of a number.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from dlt.common.destination import DestinationCapabilitiesContext
from dlt.common.schema.typing import TColumnSchema
from dlt.destinations import sqlalchemy
from dlt.destinations.impl.sqlalchemy.type_mapper import MysqlVariantTypeMapper, SqlalchemyTypeMapper
from sqlalchemy.ext.compiler import compiles

_LONGEST = 2**32 - 1  # bytes in MySQL and MariaDB
# Collations without padding, by which "a" and "a " differ. MariaDB reads the first comment, MySQL from version 8 the second: dlt
# also writes statements before it has connected, when nobody knows which of them it is.
_CHARACTERS = "CHARACTER SET utf8mb4 /*M! COLLATE utf8mb4_nopad_bin */ /*!80000 COLLATE utf8mb4_0900_bin */"


class _Text(sa.Text):
    """Text of any length."""


class _Varchar(sa.String):
    """Text with a maximum."""


class _Json(sa.JSON):
    """JSON, stored as text."""


@compiles(_Text, "mysql", "mariadb")
@compiles(_Varchar, "mysql", "mariadb")
@compiles(_Json, "mysql", "mariadb")
def _exact_text(kind: Any, compiler: Any, **_options: Any) -> str:
    if isinstance(kind, _Json):
        return "/*M! LONGTEXT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin */ /*!80000 JSON */"
    name = f"VARCHAR({kind.length})" if isinstance(kind, _Varchar) else "LONGTEXT"
    return f"{name} {_CHARACTERS}"


@compiles(_Json, "sqlite")
def _json_text(_kind: Any, _compiler: Any, **_options: Any) -> str:
    # SQLite takes columns whose type contains this word as text, and those of the type JSON as numbers.
    return "JSON TEXT"


class _ForMysql(MysqlVariantTypeMapper):
    def db_type_from_text_type(self, column: TColumnSchema, table: Any) -> Any:
        length = getattr(super().db_type_from_text_type(column, table), "length", None)
        return _Text() if length is None else _Varchar(length)

    def db_type_from_json_type(self, column: TColumnSchema, table: Any) -> Any:
        return _Json(none_as_null=True)

    def db_type_from_binary_type(self, column: TColumnSchema, table: Any) -> Any:
        return sa.LargeBinary(column.get("precision") or _LONGEST)


class _ForSqlite(SqlalchemyTypeMapper):
    def db_type_from_json_type(self, column: TColumnSchema, table: Any) -> Any:
        return _Json(none_as_null=True)


class SqlDatabase(sqlalchemy):
    """dlt's destination for SQLAlchemy, with these types."""

    @classmethod
    def adjust_capabilities(
        cls, caps: DestinationCapabilitiesContext, config: Any, naming: Any
    ) -> DestinationCapabilitiesContext:
        caps = super().adjust_capabilities(caps, config, naming)
        mappers: dict[Any, Any] = {MysqlVariantTypeMapper: _ForMysql, SqlalchemyTypeMapper: _ForSqlite}
        if caps.sqlglot_dialect in ("mysql", "sqlite"):
            caps.type_mapper = mappers[caps.type_mapper]
        return caps

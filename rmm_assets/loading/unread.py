"""Says which rows of a table a read does not show to be gone, as their parents could not be read, and refuses to lose them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from rmm_assets.errors import IncompleteError
from rmm_assets.loading.plan import LoadPlan
from rmm_assets.rows.json_text import plain_text
from rmm_assets.rows.shape import RowShape
from rmm_assets.rows.targets import column_type
from rmm_assets.tables.absences import is_valid
from rmm_assets.tables.differences import Spared, rows_of_parents
from rmm_assets.tables.table import Table

UNKNOWN_PARENTS = "some belong to parents that could not be read, and the table does not show which"


class Unread(NamedTuple):
    """What a read may lack.

    Attributes:
        spared: The parents whose children may be missing from it.
        why: Why these cannot be identified; empty if they can.
    """

    spared: Spared = Spared()
    why: str = ""


def unread_of(parents: Sequence[Mapping[str, Any]] | str, columns: Mapping[str, Any]) -> Unread:
    """Returns what a read may lack.

    Args:
        parents: The keys of the parents whose children may be missing, by the table's columns; or why they are unknown.
        columns: The table's dlt column schemas.
    """
    if isinstance(parents, str):
        return Unread(why=parents)
    keys = []
    for parent in parents:
        key = tuple(_as_held(value, columns.get(name, {}).get("data_type")) for name, value in parent.items())
        if None in key:
            return Unread(why=UNKNOWN_PARENTS)
        keys.append(key)
    return Unread(Spared(tuple(parents[0]), keys) if parents else Spared())


def refuse_unread(
    plan: LoadPlan, unread: Unread, table: Table, shape: RowShape, where: str = "1 = 1", parameters: Sequence[Any] = ()
) -> None:
    """Refuses a load that loses all rows that were not received, if some of them may exist.

    Args:
        plan: How the resource is landed.
        unread: What the read may lack.
        table: The table.
        shape: Describes its rows.
        where: An SQL condition for the rows of the table that the read is about.
        parameters: Its parameters.

    Raises:
        IncompleteError: Ignored responses do not show whether some of the table's rows are gone.
    """
    spared = unread.spared
    if not plan.loses_rows or not (unread.why or spared.keys):
        return
    if plan.history is not None and plan.history.valid_to in table.columns():
        valid, values = is_valid(table, plan.history.valid_to, plan.history.open_end)
        where, parameters = f"{where} AND {valid}", [*parameters, *values]
    types = {name: column_type(shape.known[name]) for name in spared.columns}
    rows = rows_of_parents(table, spared, types, where, parameters)
    if rows:
        name, columns = plan.resource.name, ", ".join(spared.columns)
        why = unread.why or (
            f"the API refused the requests for {len(spared.keys)} parents, such as ({columns}) = "
            f"({', '.join(map(str, spared.keys[0]))}), with a status that does not mean that there are no rows"
        )
        verbs = {"replace": "replace would delete", "merge": "this merge would delete"}
        lost = "history would end" if plan.history is not None else verbs[plan.resource.disposition]
        raise IncompleteError(
            f"{name}: {lost} {rows} rows that may still exist: {why}. A plain write_disposition: merge keeps them"
        )


def _as_held(value: Any, data_type: str | None) -> str | None:
    """Returns a value as text, as a column of that type stores it; None if that is uncertain."""
    if data_type == "text" and isinstance(value, (str, int)):
        return plain_text(value)
    return str(value) if data_type == "bigint" and type(value) is int else None

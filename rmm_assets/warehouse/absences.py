"""After a complete load: rows that the API no longer holds to marks, or to nothing.

Every row of a load carries its load id, so what a complete full read did not bring is what carries another one. Marking
is one statement that a later run repeats in full: a run killed before, during or after it is put right by the next.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rmm_assets.warehouse.pipeline import ABSENT_SINCE, LOAD_ID, Table

Policy = Literal["keep", "mark", "remove"]


@dataclass(frozen=True)
class Absences:
    """What became of rows that are gone at the source.

    Attributes:
        gone: Rows that this read did not hold and that were there before it.
        marked: Rows newly marked `_absent_since`.
        removed: Rows deleted.
        held_back: More than the allowed share would have gone, so nothing was done.
    """

    gone: int = 0
    marked: int = 0
    removed: int = 0
    held_back: bool = False


def rows_of_last_load(table: Table) -> int:
    """Rows that the last complete read held, 0 where there was none."""
    if LOAD_ID not in table.columns():
        return 0
    # Load ids are seconds since 1970 as text of one length, so the greatest one is the latest.
    load_id = table.quote(LOAD_ID)
    return table.count(f"{load_id} = (SELECT max({load_id}) FROM {table.qualified})")


def settle(table: Table, load_id: str, policy: Policy, *, max_share: float) -> Absences:
    """Mark or remove what this load did not bring.

    Args:
        load_id: Of the load that holds a complete full read.
        max_share: The share (0 to 1) of rows alive before that may go at once.
    """
    if policy == "keep":
        return Absences()
    columns = table.columns()
    if LOAD_ID not in columns or (policy == "mark" and ABSENT_SINCE not in columns):
        return Absences()
    other = f"{table.quote(LOAD_ID)} <> %s"
    alive = f" AND {table.quote(ABSENT_SINCE)} IS NULL" if ABSENT_SINCE in columns else ""
    gone = int(table.rows(f"SELECT count(*) FROM {{table}} WHERE {other}{alive}", load_id)[0][0])
    if not gone:
        return Absences()
    if gone > max_share * table.count(f"{table.quote(ABSENT_SINCE)} IS NULL" if alive else ""):
        return Absences(gone=gone, held_back=True)
    if policy == "remove":
        table.rows(f"DELETE FROM {{table}} WHERE {other}", load_id)
        return Absences(gone=gone, removed=gone)
    table.rows(
        f"UPDATE {{table}} SET {table.quote(ABSENT_SINCE)} = CURRENT_TIMESTAMP WHERE {other}{alive}", load_id
    )
    return Absences(gone=gone, marked=gone)

"""Reads what the connection file says an answer states: totals, end marks, and whether a page repeats another one."""

from __future__ import annotations

from typing import Any

from dlt.common.utils import str2bool

from rmm_assets.reading.answers import ABSENT, Answer
from rmm_assets.rows.decode import Page
from rmm_assets.rows.keys import NO_KEY, row_keys, same_rows
from rmm_assets.rows.layout import RowShape


def whole_number(answer: Answer, path: str | None) -> int | None:
    """Returns the number that stands at a path beside the rows, None where there is none."""
    value = answer.beside_rows(path) if path else None
    try:
        return int(value) if value is not None and value is not ABSENT and not isinstance(value, bool) else None
    except (TypeError, ValueError):
        return None


def more_mark(answer: Answer, path: str | None) -> Any:
    """Returns the API's word on whether more follows: True, False, None for null, `ABSENT` where it says nothing."""
    value = answer.beside_rows(path) if path else ABSENT
    if isinstance(value, str):
        return str2bool(value) if value else None
    return value if value is ABSENT or value is None else bool(value)


def repeats(page: Page, other: Page, shape: RowShape) -> bool:
    """Whether the page holds the other one's rows, in the same order."""
    if not page.rows or not same_rows(page, other, shape):
        return False
    # Rows without a key are all alike to their keys.
    return bool((row_keys(page, shape) != NO_KEY).all()) or page.objects() == other.objects()

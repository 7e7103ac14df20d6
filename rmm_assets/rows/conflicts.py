"""Finds rows that share a primary key but differ, and describes examples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from rmm_assets.rows.distinct import Mask
from rmm_assets.rows.keys import Keys, may_repeat
from rmm_assets.rows.stored_keys import StoredKeys

# Examples in a message.
EXAMPLES = 2
_MOST_COLUMNS = 3
_LONGEST_VALUE = 40


class Pair(NamedTuple):
    """Holds the indices of two rows that share a key and differ."""

    first: int
    second: int


def repeated(keys: StoredKeys) -> Mask | None:
    """Marks the rows that share their key with another row; None if there are none."""
    mask = np.zeros(len(keys), np.bool_)
    for places, part in keys.parts():
        if may_repeat(part["key"]):
            ordered = np.sort(part["key"])
            mask[places[np.isin(part["key"], ordered[1:][ordered[1:] == ordered[:-1]])]] = True
    return mask if mask.any() else None


def differing(keys: Keys, contents: Keys) -> list[Pair]:
    """Returns one pair of rows for each key whose rows differ, in the order in which the keys were received."""
    # By key, and within a key in the order received.
    order = np.argsort(keys, kind="stable")
    ordered, said = keys[order], contents[order]
    starts = np.concatenate(([True], ordered[1:] != ordered[:-1]))
    first = np.maximum.accumulate(np.where(starts, np.arange(len(ordered)), 0))
    other = np.flatnonzero(said != said[first])
    _, one_each = np.unique(first[other], return_index=True)
    pairs = [Pair(int(order[first[index]]), int(order[index])) for index in other[one_each]]
    return sorted(pairs)


def sentence(key: dict[str, str], pages: tuple[int, int], columns: Sequence[str]) -> str:
    """Describes two rows that differ by their key, pages and differing columns, without any other value."""
    names = ", ".join(f"{name}={value[:_LONGEST_VALUE]}" for name, value in key.items())
    where = f"two rows of page {pages[0]}" if pages[0] == pages[1] else f"page {pages[0]} and page {pages[1]}"
    more = f" and {len(columns) - _MOST_COLUMNS} more" if len(columns) > _MOST_COLUMNS else ""
    return f"{names}: {where} differ in {', '.join(columns[:_MOST_COLUMNS])}{more}"


def and_more(sentences: list[str], pairs: int) -> list[str]:
    """Appends the number of keys that are not described."""
    left = pairs - len(sentences)
    return [*sentences, f"and {left} more keys like this"] if left > 0 else sentences

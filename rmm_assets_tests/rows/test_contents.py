"""Tests that the hash of a row's content depends on nothing else, and is the one that earlier loads have stored."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import pyarrow as pa

from rmm_assets.rows.contents import LASTING_KEY, contents, lasting

BEGAN = datetime(2026, 11, 29, tzinfo=UTC)


def stored(table: pa.Table) -> list[int]:
    return [int(value) for value in lasting(contents(table, len(table), key=LASTING_KEY))]


def test_the_hash_of_each_type_is_that_of_earlier_loads() -> None:
    # If one of them changes, the next load of every table with such a column writes all of its rows.
    columns = {
        "text": pa.array(["PC-1"]),
        "bigint": pa.array([7]),
        "double": pa.array([0.5]),
        "bool": pa.array([True]),
        "timestamp": pa.array([BEGAN], pa.timestamp("us", "UTC")),
        "date": pa.array([date(2026, 11, 29)]),
        "decimal": pa.array([Decimal("1.50")], pa.decimal128(10, 2)),
        "binary": pa.array([b"\0\1"]),
    }
    assert {name: stored(pa.table({name: array}))[0] for name, array in columns.items()} == {
        "text": 4791327977001882421,
        "bigint": 4360184102629411350,
        "double": -4799066265354703475,
        "bool": 1480832197705119389,
        "timestamp": -5181182391248123449,
        "date": 6036160145423651657,
        "decimal": 5432455912836354259,
        "binary": 3809421150142170402,
    }


def test_a_hash_does_not_depend_on_the_other_rows() -> None:
    # Of columns whose first values differ, the values are hashed one by one, of others each distinct value once.
    numbers = [*range(2000), *[5] * 1000]
    for order in (numbers, numbers[::-1]):
        table = pa.table(
            {
                "number": pa.array(order),
                "text": pa.array([None if number == 9 else f"PC-{number}" for number in order]),
                "seen": pa.array([BEGAN + timedelta(seconds=number) for number in order], pa.timestamp("us", "UTC")),
            }
        )
        alone = [stored(table.slice(index, 1))[0] for index in range(0, 3000, 100)]
        assert stored(table)[::100] == alone

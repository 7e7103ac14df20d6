"""Tests that Arrow's decoder and the reference give the same tables, keys and rejects for any rows."""

from __future__ import annotations

import json
import re
import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from rmm_assets.errors import BodyError
from rmm_assets.rows.decode import read_page, read_pages
from rmm_assets.rows.keys import row_keys
from rmm_assets.rows.shape import Nesting, RowShape
from rmm_assets.rows.spool import Spool
from rmm_assets.rows.type_memory import TypeMemory
from rmm_assets_tests.examples import examples

pytestmark = pytest.mark.slow

NAMES = st.sampled_from(["id", "name", "Name", "a", "b", "a b", "__x", "", "organization", "x_", "ünï", "a__b", "tags"])
STAMPS = st.sampled_from(
    [
        "2024-01-01",
        "2024-01-01T00:00:00Z",
        "2024-01-01 10:00",
        "2024-05-01T10:11:12.1234567+02:00",
        "10:00",
        "2024-13-01",
    ]
)
NUMBERS = st.sampled_from([2**53, 2**53 + 1, -(2**53) - 1, 2**63 - 1, 2**63, -(2**63), 2**65, 1e22, 1e300, -0.0, 1.0])
TEXTS = st.one_of(st.text(max_size=4), st.sampled_from(["1", "007", "true", "\0", '"q"', "\\", "😀", "\ud800"]))
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-5, 5),
    NUMBERS,
    st.floats(allow_nan=False, allow_infinity=False),
    TEXTS,
    STAMPS,
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(NAMES, inner, max_size=3)),
    max_leaves=6,
)
SMALL = st.sampled_from(["id", "n"])
KINDS = [
    st.integers(-100, 100),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False, allow_infinity=False, width=32),
    st.text(max_size=4),
    STAMPS,
    st.booleans(),
    st.lists(st.text(max_size=3), max_size=3),
    st.lists(st.integers(0, 9) | st.none(), max_size=3),
    st.dictionaries(SMALL, st.integers(0, 5) | st.none(), max_size=2),
    st.lists(st.dictionaries(SMALL, st.integers(0, 5), max_size=2), max_size=2),
    VALUES,
]


@st.composite
def tables(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Generates rows whose columns mostly have one kind of values, as in APIs."""
    columns = {
        name: draw(st.sampled_from(KINDS)) for name in draw(st.lists(NAMES, min_size=1, max_size=4, unique=True))
    }
    return [
        {name: draw(st.none() | kind) for name, kind in columns.items() if draw(st.integers(0, 7))}
        for _ in range(draw(st.integers(0, 5)))
    ]


PAGES = st.lists(
    st.one_of(tables(), st.lists(st.dictionaries(NAMES, VALUES, max_size=5), max_size=3)), min_size=1, max_size=3
)
SHAPES = st.sampled_from(
    [
        RowShape("t"),
        RowShape("t", ("id",)),
        RowShape(
            "t",
            ("id",),
            {
                "a": {"data_type": "bigint"},
                "b": {"data_type": "timestamp"},
                "name": {"data_type": "text", "nullable": False},
                "organization": {"data_type": "json"},
            },
        ),
        RowShape(
            "t",
            ("organization.id",),
            max_table_nesting=1,
            known={
                "a": {"data_type": "bigint"},
                "b": {"data_type": "text"},
                "name": {"data_type": "timestamp"},
                "tags": {"data_type": "json"},
                "a__v_text": {"data_type": "text", "variant": True},
            },
        ),
        RowShape("t", ("id", "name"), {"id": {"data_type": "bigint"}}, 0, {"x": {"data_type": "bool"}}),
        RowShape(
            "t", ("id",), {"id": {"data_type": "decimal"}, "a": {"data_type": "date"}, "b": {"data_type": "double"}}
        ),
    ]
)
NESTED = st.sampled_from(
    [
        RowShape("t", ("id",), row_ids="key", nesting=Nesting()),
        RowShape("t", row_ids="random", nesting=Nesting(rooted=False)),
        RowShape("t", ("id",), max_table_nesting=2, row_ids="key", nesting=Nesting()),
        RowShape(
            "t",
            ("id",),
            {"id": {"data_type": "bigint"}},
            known={"b": {"data_type": "json"}, "a": {"data_type": "bool"}},
            row_ids="key",
            nesting=Nesting(
                {
                    "t__tags": {"parent": "t", "columns": {"value": {"data_type": "text"}}},
                    "t__a": {"parent": "t", "columns": {"id": {"data_type": "bool"}, "value": {"data_type": "bigint"}}},
                    "t__a__b": {"parent": "t", "columns": {}},
                }
            ),
        ),
    ]
)
WRAPS: dict[str | None, Any] = {
    "data": lambda rows: {"data": rows, "total": len(rows), "next": None},
    "r.items": lambda rows: {"at": "2024-01-01T00:00:00", "r": {"items": rows, "n": "2024-01-01"}},
    None: lambda rows: rows,
}


def outcome(
    bodies: list[bytes],
    selector: str | None,
    shape: RowShape,
    hints: TypeMemory | None,
    batch_rows: int,
    at_once: bool = False,
) -> Any:
    """Returns the whole result of a read: with `hints` by Arrow's decoder, without by the reference."""
    with tempfile.TemporaryDirectory() as folder:
        spool = Spool(shape, Path(folder), batch_rows)
        pages = []
        together = read_pages(bodies, selector, hints) if at_once and hints is not None else None
        for number, body in enumerate(bodies):
            try:
                page = together[number] if together else read_page(body, selector, hints, exact=hints is None)
            except BodyError as error:
                return error.reason
            pages.append((page.rows, page.envelope))
            spool.add(page, row_keys(page, shape) if batch_rows == 1 else None)
        landed: dict[str, list[pa.Table]] = {}
        for name, part in spool.tables():
            landed.setdefault(name, []).append(part)
        tables = {name: pa.concat_tables(parts) for name, parts in landed.items()}
        rejects = [
            (json.loads(row["row_json"]), row["reason"], row["page"])
            for part in spool.rejected()
            for row in part.to_pylist()
        ]
        return (
            pages,
            {name: shown(table, shape) for name, table in tables.items()},
            rejects,
            (spool.rows, spool.distinct, spool.keyless, spool.rejected_rows, spool.fingerprint()),
            spool.columns(),
            {name: child for name, child in spool.children().items() if name in tables},
            spool.changed_types(),
        )


def shown(table: pa.Table, shape: RowShape) -> Any:
    """Returns a table's columns and rows, without random ids."""
    table.validate(full=True)
    if shape.row_ids == "random":
        table = table.drop_columns([name for name in table.column_names if re.fullmatch("_dlt_.*id", name)])
    return (
        {field.name: (str(field.type), field.nullable) for field in table.schema},
        [{name: repr(value) for name, value in row.items()} for row in table.to_pylist()],
    )


@settings(
    max_examples=examples(50, 250),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(PAGES, SHAPES, st.sampled_from(list(WRAPS)), st.booleans(), st.sampled_from([1, 3, 1000]))
@example([[{"a": -0.0}, {"a": 1}]], RowShape("t"), "data", False, 1)
@example(
    [[{"id": [], "b": 0}], [{}, {"id": 0}]], RowShape("t", ("id",), {"id": {"data_type": "decimal"}}), None, False, 3
)
@example([[], [{"name": []}], [{}, {"Name": 0}]], RowShape("t", ("id",)), "data", False, 1000)
@example([[{"Name": "2024-01-01T00:00:00Z"}, {}]], RowShape("t", ("id", "name")), "data", False, 1)
def test_both_decoders_give_the_same_tables(
    pages: list[Any], shape: RowShape, selector: str | None, pretty: bool, batch_rows: int
) -> None:
    bodies = [json.dumps(WRAPS[selector](rows), indent=2 if pretty else None).encode() for rows in pages]
    expected = outcome(bodies, selector, shape, None, 1000)
    assert outcome(bodies, selector, shape, TypeMemory(), batch_rows) == expected
    assert outcome(bodies, selector, shape, TypeMemory(), batch_rows, at_once=True) == expected


LISTS = st.lists(VALUES | st.dictionaries(NAMES, VALUES, max_size=2), max_size=3)


@settings(
    max_examples=examples(50, 250),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(
    st.lists(
        tables() | st.lists(st.dictionaries(NAMES, LISTS | VALUES, max_size=4), max_size=3), min_size=1, max_size=3
    ),
    NESTED,
    st.sampled_from([1, 3, 1000]),
)
@example(
    [[{"a": {"b": [1]}}, {"a": [{"b": [2]}]}], [{"a__b": [3]}]], RowShape("t", row_ids="random", nesting=Nesting()), 1
)
def test_both_decoders_give_the_same_child_tables(pages: list[Any], shape: RowShape, batch_rows: int) -> None:
    bodies = [json.dumps(rows).encode() for rows in pages]
    expected = outcome(bodies, None, shape, None, 1000)
    assert outcome(bodies, None, shape, TypeMemory(), batch_rows) == expected
    assert outcome(bodies, None, shape, TypeMemory(), batch_rows, at_once=True) == expected

"""Tests that a value is loaded exactly or its row rejected, and that one odd row does not affect other rows."""

from __future__ import annotations

import datetime
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from rmm_assets.rows.decode import read_page
from rmm_assets.rows.shape import RowShape
from rmm_assets.rows.spool import Spool
from rmm_assets_tests.rows.landing import Landed, land


def both(folder: Path, body: bytes, **shape: Any) -> Landed:
    """Returns the result of a page of rows with the key `id`, which must be equal for both decoders."""
    one, other = (land(folder / str(exact), [body], key="id", exact=exact, **shape) for exact in (False, True))
    assert (one.types, one.rows, one.rejected) == (other.types, other.rows, other.rejected)
    return one


@pytest.mark.parametrize(
    "number",
    [
        "0.1234567890123456789", "0.12345678901234567", "0.1000000000000000001", "1.0000000000000000001", "1e400", "-1e400",
        "1e-400", "4e-324", "12345678901234567.5", "1234567890123456.3", "-0.1234567890123456789e-5", "100000000000000000.1",
    ],
)  # fmt: skip
def test_a_number_that_no_double_represents_keeps_its_digits_or_is_rejected(tmp_path: Path, number: str) -> None:
    body = f'[{{"id":1,"v":{number}}},{{"id":2,"v":0.5}}]'.encode()
    result = both(tmp_path / "free", body)
    assert result.types["v"] == "text"
    assert [Decimal(row["v"]) for row in result.rows] == [Decimal(number), Decimal("0.5")]
    result = both(tmp_path / "declared", body, columns={"v": {"data_type": "double"}})
    assert [row["id"] for row in result.rows] == [2]
    assert [reason for _, reason in result.rejected] == [
        "v: a number that neither 64 bits nor a double holds does not fit double"
    ]
    result = both(tmp_path / "known", body, known={"id": {"data_type": "bigint"}, "v": {"data_type": "double"}})
    assert Decimal(result.rows[0]["v__v_text"]) == Decimal(number)
    assert result.rows[1] == {"id": 2, "v": 0.5}


@pytest.mark.parametrize(
    "number",
    ["0.1", "0.10000000000000001", "0.10000000000000000555", "51.507400000000004", "5e-324", "1.7976931348623157e308",
     "1.00000000000000000000", "1e22", "0.0", "-0.0", "0.00000000000000000000", "100.25000000000000000000"],
)  # fmt: skip
def test_a_number_that_a_double_represents_is_stored_as_one_in_any_notation(tmp_path: Path, number: str) -> None:
    result = both(tmp_path, f'[{{"id":1,"v":{number}}},{{"id":2,"v":0.5}}]'.encode())
    assert result.types["v"] == "double"
    assert result.rows[0]["v"] == float(number)


def test_digits_in_text_do_not_need_the_slow_decoder() -> None:
    body = b'[{"id":"12345678901234567890.5","at":"2024-01-01T00:00:00.123456789Z","v":0.5,"w":1712345678901}]'
    assert read_page(body, None).structs is not None


@pytest.mark.parametrize("text", ["remote-0001", "5a1e-1234", "x 2e-300", "0,2e-30", "E-100"])
def test_text_that_ends_like_a_small_number_does_not_need_the_slow_decoder(text: str) -> None:
    assert read_page(json.dumps([{"id": text, "v": 0.0}]).encode(), None).structs is not None


@pytest.mark.parametrize("filler", [0, 65_520, 65_530, 65_536, 65_545, 131_060])
@pytest.mark.parametrize("number", ["1e-400", "-0.1234567890123456789", "1.0E-310"])
def test_a_number_that_no_double_represents_is_found_anywhere_in_a_body(filler: int, number: str) -> None:
    for more in range(24):
        body = b'[{"v":0.0,"t":"%s"},{"v":%s}]' % (b"x" * (filler + more), number.encode())
        assert read_page(body, None).structs is None


@pytest.mark.parametrize("text", ["2024", "2024-05", "2024-W05", "2024W05"])
@pytest.mark.parametrize("data_type", ["timestamp", "date"])
@pytest.mark.parametrize("declared", [True, False])
def test_a_year_month_or_week_is_not_stored_as_its_first_day(
    tmp_path: Path, text: str, data_type: str, declared: bool
) -> None:
    hints: dict[str, Any] = {"v": {"data_type": data_type}}
    rows = [{"id": 1, "v": text}, {"id": 2, "v": "2024-05-01"}]
    result = both(tmp_path, json.dumps(rows).encode(), **{"columns" if declared else "known": hints})
    if declared:
        assert result.rejected == [(rows[0], f"v: this text does not fit {data_type}")]
    else:
        assert result.rows[0] == {"id": 1, "v__v_text": text}
    assert result.rows[-1]["v"] == (
        datetime.date(2024, 5, 1) if data_type == "date" else datetime.datetime(2024, 5, 1, tzinfo=datetime.UTC)
    )


@pytest.mark.parametrize(
    ("hint", "value"),
    [
        ({"data_type": "date"}, "2024-05-01T10:00:00Z"),
        ({"data_type": "date"}, 1.5),
        ({"data_type": "double"}, "0.1234567890123456789"),
        ({"data_type": "double"}, 12345678901234567891),
        ({"data_type": "bigint"}, "1.5"),
        ({"data_type": "bigint"}, 1.5),
    ],
)
def test_values_that_a_declared_type_would_change_are_rejected(
    tmp_path: Path, hint: dict[str, Any], value: Any
) -> None:
    result = both(tmp_path, json.dumps([{"id": 1, "v": value}]).encode(), columns={"v": hint})
    assert result.rows == []
    assert result.rejected[0][0] == {"id": 1, "v": value}


def test_a_fraction_is_not_stored_in_an_integer_column(tmp_path: Path) -> None:
    known = {"id": {"data_type": "bigint"}, "v": {"data_type": "bigint"}}
    assert both(tmp_path, b'[{"id":1,"v":1.5},{"id":2,"v":2.0}]', known=known).rows == [
        {"id": 1, "v__v_double": 1.5},
        {"id": 2, "v": 2},
    ]


JSON_KNOWN = {"id": {"data_type": "bigint"}, "location__city": {"data_type": "text"}, "location": {"data_type": "json"}}


def test_one_empty_list_does_not_move_other_rows_objects_out_of_their_columns(tmp_path: Path) -> None:
    rows: list[Any] = [{"id": 1, "location": {"city": "a"}}, {"id": 2, "location": []}, {"id": 3, "location": {}}]
    body = json.dumps(rows).encode()
    assert both(tmp_path / "first", body).rows == [
        {"id": 1, "location__city": "a"},
        {"id": 2, "location": "[]"},
        {"id": 3, "location": "{}"},
    ]
    assert both(tmp_path / "then", body, known=JSON_KNOWN).rows == [
        {"id": 1, "location__city": "a"},
        {"id": 2, "location": "[]"},
        {"id": 3, "location": "{}"},
    ]
    for number, pages in enumerate([rows[:1], rows[2:], [rows[2], rows[0]], [{"id": 4, "location": {"city": None}}]]):
        result = both(tmp_path / str(number), json.dumps(pages).encode(), known=JSON_KNOWN)
        assert [row.get("location__city") for row in result.rows] == [row["location"].get("city") for row in pages]
        assert [row.get("location") for row in result.rows] == ["{}" if not row["location"] else None for row in pages]


@pytest.mark.parametrize("spaced", [False, True])
@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize(
    ("other", "stored"), [([], "[]"), ([1, {"a": {}}], '[1,{"a":{}}]'), ("x", None), (1, None), (None, None)]
)
def test_an_empty_object_is_kept_in_the_load_that_makes_its_column_json(
    other: Any, stored: str | None, together: bool, exact: bool, spaced: bool, tmp_path: Path
) -> None:
    values: list[Any] = [{}, {"a": None}, {"a": {}}, {"a": {"b": 1}}, None, other, {}]
    rows = [{"id": number, "v": value} for number, value in enumerate(values)]
    pages = [rows] if together else [[row] for row in rows]
    bodies = [
        json.dumps(page, indent=2 if spaced else None).replace("{}", "{ \n }" if spaced else "{}").encode()
        for page in pages
    ]
    result = land(tmp_path, bodies, key="id", exact=exact)
    empty = {} if stored is None else {"v": "{}"}
    plain = {} if other is None else {"v": other}
    # Only the objects in a JSON column are kept: `v__a` has none.
    assert result.rows == [
        {"id": 0, **empty},
        {"id": 1},
        {"id": 2},
        {"id": 3, "v__a__b": 1},
        {"id": 4},
        {"id": 5, **(plain if stored is None else {"v": stored})},
        {"id": 6, **empty},
    ]
    assert result.types.get("v") == {"x": "text", 1: "bigint", None: None}.get(other if stored is None else "", "json")


def test_an_object_that_contains_only_null_is_not_an_empty_one(tmp_path: Path) -> None:
    # Arrow decodes the first page, in which both look alike.
    first = [{"id": 0, "v": {}}, {"id": 1, "v": {"a": None}}, {"id": 2, "v": {"a": 1}}, {"id": 3}]
    assert read_page(json.dumps(first).encode(), None).structs is not None
    result = land(tmp_path, [first, [{"id": 4, "v": []}]], key="id")
    assert result.rows == [{"id": 0, "v": "{}"}, {"id": 1}, {"id": 2, "v__a": 1}, {"id": 3}, {"id": 4, "v": "[]"}]


def test_a_row_of_which_only_empty_objects_are_received_is_rejected(tmp_path: Path) -> None:
    result = land(tmp_path, [[{"v": {}}, {"v": [1]}]])
    assert result.rows == [{"v": "[1]"}]
    assert result.rejected == [({"v": {}}, "no value in it")]


def test_a_declared_json_column_stores_objects_whole(tmp_path: Path) -> None:
    body = b'[{"id":1,"location":{"city":"a"}},{"id":2,"location":{}},{"id":3,"location":[]}]'
    result = both(tmp_path, body, columns={"location": {"data_type": "json"}}, known=JSON_KNOWN)
    assert [row["location"] for row in result.rows] == ['{"city":"a"}', "{}", "[]"]


def test_text_that_looks_like_json_is_not_an_object(tmp_path: Path) -> None:
    result = both(tmp_path, b'[{"id":1,"location":"{}"},{"id":2,"location":[]}]', known=JSON_KNOWN)
    assert [row["location"] for row in result.rows] == ['"{}"', "[]"]


def test_a_deleted_row_only_needs_its_key(tmp_path: Path) -> None:
    columns: dict[str, Any] = {
        "gone": {"data_type": "bool", "hard_delete": True},
        "name": {"data_type": "text", "nullable": False},
        "at": {"data_type": "timestamp", "nullable": False},
        "cost": {"data_type": "decimal", "nullable": False},
        "free": {"nullable": False},
    }
    full = {"id": 1, "gone": False, "name": "a", "at": "2024-01-01", "cost": 1, "free": 5}
    rows: list[Any] = [
        full,
        {"id": 2, "gone": True},
        {"id": 3, "gone": False},
        {"gone": True},
        {"id": 5, "gone": True, "cost": "x"},
    ]
    result = both(tmp_path, json.dumps(rows).encode(), columns=columns)
    assert [row["id"] for row in result.rows] == [1, 2, 5]
    assert [row["id"] for row, _ in result.rejected if "id" in row] == [3]
    spool = Spool(RowShape("t", ("id",), columns), tmp_path / "alone")
    spool.add(read_page(b'[{"id":2,"gone":true}]', None))
    [(_, table)] = spool.tables()
    assert all(table[field.name].null_count == 0 for field in table.schema if not field.nullable)


def test_a_hard_delete_column_need_not_be_boolean(tmp_path: Path) -> None:
    columns = {"gone_at": {"data_type": "timestamp", "hard_delete": True}, "name": {"nullable": False}}
    body = b'[{"id":1,"gone_at":null},{"id":2,"gone_at":"2024-01-01T00:00:00Z"},{"id":3,"name":"x"}]'
    assert [row["id"] for row in both(tmp_path, body, columns=columns).rows] == [2, 3]


def test_rejected_rows_have_the_same_keys_as_loaded_rows(tmp_path: Path) -> None:
    columns = {"bad": {"data_type": "bigint"}}
    rows = [
        {"deviceId": "003", "Org": {"siteNo": 1.0}, "at": "2024-01-01T02:00:00+02:00", "bad": "x"},
        {"deviceId": "004", "Org": {"siteNo": 1.5}, "at": "2024-01-01T00:00:00Z", "bad": 1},
        {"deviceId": None, "Org": {"siteNo": 1.5}, "at": "2024-01-01T00:00:00Z", "bad": "x"},
        "text",
    ]
    result = land(tmp_path, [rows], key=("deviceId", "Org.siteNo", "at"), columns=columns)
    assert result.spool.rejected_keys().to_pylist() == [
        {"device_id": "003", "org__site_no": 1.0, "at": datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC)}
    ]
    good = [{**row, "bad": 1} for row in rows[:1]]  # type: ignore[dict-item]
    landed = land(tmp_path / "good", [good, rows[1:2]], key=("deviceId", "Org.siteNo", "at"), columns=columns)
    [first, _] = landed.rows
    assert {
        name: first[name] for name in ("device_id", "org__site_no", "at")
    } == result.spool.rejected_keys().to_pylist()[0]
    assert land(tmp_path / "none", [[{"deviceId": "1"}]], key="deviceId").spool.rejected_keys().num_rows == 0
    assert pa.types.is_string(result.spool.rejected_keys().schema.field("device_id").type)

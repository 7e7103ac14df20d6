"""Tests that columns get dlt's names, and a type that fits every received value."""

from __future__ import annotations

import datetime
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from dlt.common.schema.detections import is_iso_timestamp
from dlt.common.time import ensure_datetime_in_tz
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rmm_assets.rows.layout import Layout
from rmm_assets.rows.shape import RowShape
from rmm_assets.rows.timestamps import are_timestamps, read_timestamps
from rmm_assets_tests.examples import examples
from rmm_assets_tests.rows.landing import land

UTC = datetime.UTC


def test_names_are_those_of_dlt(tmp_path: Path) -> None:
    row = {
        "id": 1,
        "Name With Space": 2,
        "order": 3,
        "__x": 4,
        "": 5,
        "ünï": 6,
        "camelCase": 7,
        "x_": 8,
        "1st": 9,
        "organization": {"id": 10, "Full Name": 11, "__y": {"z": 12}},
    }
    landed = land(tmp_path, [[row]])
    assert landed.rows == [
        {
            "id": 1,
            "name_with_space": 2,
            "order": 3,
            "x": 4,
            "_empty": 5,
            "_nx": 6,
            "camel_case": 7,
            "xx": 8,
            "_1st": 9,
            "organization__id": 10,
            "organization__full_name": 11,
            "organization__y__z": 12,
        }
    ]


def test_a_long_name_is_shortened_like_dlt_s(tmp_path: Path) -> None:
    landed = land(tmp_path, [[{"a" * 80: {"b" * 80: 1}}]], max_identifier_length=63)
    (name,) = landed.rows[0]
    assert len(name) == 63


def test_two_fields_with_the_same_column_name_are_both_loaded(tmp_path: Path) -> None:
    landed = land(tmp_path / "a", [[{"name": "a", "Name": "b"}, {"Name": "c", "name": "d"}]])
    other = (set(landed.types) - {"name"}).pop()
    assert landed.rows == [{"name": "a", other: "b"}, {"name": "d", other: "c"}]
    landed = land(tmp_path / "b", [[{"Name": "a", "name": None}, {"name": "b"}, {"Name": "c", "name": "c"}]])
    assert landed.rows == [{"name": "a"}, {"name": "b"}, {"name": "c"}], "without a clash, names are as in dlt"
    landed = land(tmp_path / "c", [[{"a": {"b": 1}, "a__b": 2}]])
    assert sorted(landed.rows[0].values()) == [1, 2]
    assert landed.rows[0]["a__b"] == 2


def test_a_field_that_is_always_null_creates_no_column(tmp_path: Path) -> None:
    landed = land(tmp_path, [[{"id": 1, "a": None, "b": {}, "c": {"d": None}}], [{"id": 2, "a": None}]])
    assert landed.types == {"id": "bigint"}


def test_max_table_nesting_works_as_in_dlt(tmp_path: Path) -> None:
    row = {"a": {"b": {"c": 1}}}
    assert land(tmp_path / "0", [[row]], max_table_nesting=0).rows == [{"a": '{"b":{"c":1}}'}]
    assert land(tmp_path / "1", [[row]], max_table_nesting=1).rows == [{"a__b": '{"c":1}'}]
    assert land(tmp_path / "2", [[row]], max_table_nesting=2).rows == [{"a__b__c": 1}]


@pytest.mark.parametrize(
    "value",
    [
        [],
        ["a", "ü", "😀"],
        ['"', "\\", "\n", "\0"],
        [1, -(2**63)],
        [True, False],
        [1, 2.5, "x", None],
        [2**53 + 1, 0.5],
        [2**70],
        [{"a": 1}, {"b": None}, {}],
        [[], [[1]]],
        ["2024-01-01", "2024-01-01T00:00:00Z"],
    ],
)
def test_lists_are_stored_as_equal_json(tmp_path: Path, value: list[Any]) -> None:
    landed = land(tmp_path, [[{"id": 1, "v": value}, {"id": 2}], [{"id": 3, "v": []}]])
    assert landed.types["v"] == "json"
    assert json.loads(landed.rows[0]["v"]) == value
    assert "v" not in landed.rows[1]
    assert landed.rows[2]["v"] == "[]"


@pytest.mark.parametrize(
    ("values", "data_type", "landed"),
    [
        ([None, 1, 2], "bigint", [None, 1, 2]),
        ([2**53 + 1, 2**63 - 1], "bigint", [2**53 + 1, 2**63 - 1]),
        ([1, 1.5], "double", [1.0, 1.5]),
        ([1, None, 2**53, 1.5], "double", [1.0, None, 2.0**53, 1.5]),
        ([1, 1.5, 2**53 + 1], "text", ["1", "1.5", "9007199254740993"]),
        ([1, 2**63], "text", ["1", "9223372036854775808"]),
        ([0.5, 2**70], "text", ["0.5", str(2**70)]),
        ([1, "one"], "text", ["1", "one"]),
        (["007", 7], "text", ["007", "7"]),
        ([True, "yes"], "text", ["true", "yes"]),
        ([True, 1], "text", ["true", "1"]),
        ([1.0, "x", 1e22], "text", ["1", "x", "1e+22"]),
        (["2024-01-01T00:00:00Z", None], "timestamp", [datetime.datetime(2024, 1, 1, tzinfo=UTC), None]),
        (["2024-01-01T00:00:00Z", "never"], "text", ["2024-01-01T00:00:00Z", "never"]),
        (["2024-01-01T00:00:00Z", 5], "text", ["2024-01-01T00:00:00Z", "5"]),
        (["2024-01-01"], "text", ["2024-01-01"]),
        ([""], "text", [""]),
        ([[1], "x", 5], "json", ["[1]", '"x"', "5"]),
    ],
)
@pytest.mark.parametrize("spread", [True, False])
def test_a_column_gets_a_type_that_fits_all_its_values(
    tmp_path: Path, values: list[Any], data_type: str, landed: list[Any], spread: bool
) -> None:
    rows = [{"id": n, "v": value} for n, value in enumerate(values)]
    for exact in (False, True):
        result = land(tmp_path / str(exact), [[row] for row in rows] if spread else [rows], exact=exact)
        assert result.types["v"] == data_type
        assert [row.get("v") for row in result.rows] == landed
        assert not result.rejected


def test_an_object_and_a_scalar_in_one_field_get_separate_columns(tmp_path: Path) -> None:
    for name, pages in (("one", [[{"v": {"a": 1}}, {"v": "x"}]]), ("two", [[{"v": {"a": 1}}], [{"v": "x"}]])):
        assert land(tmp_path / name, pages).rows == [{"v__a": 1}, {"v": "x"}]


@pytest.mark.parametrize(
    ("hint", "value", "landed"),
    [
        ({"data_type": "bigint"}, "12", 12),
        ({"data_type": "bigint"}, "007", 7),
        ({"data_type": "bigint"}, 3.0, 3),
        ({"data_type": "bigint"}, "9007199254740993", 2**53 + 1),
        ({"data_type": "text"}, 12, "12"),
        ({"data_type": "text"}, 2**70, str(2**70)),
        ({"data_type": "text"}, True, "true"),
        ({"data_type": "text"}, "2024-01-01T00:00:00Z", "2024-01-01T00:00:00Z"),
        ({"data_type": "text"}, [1, "a"], '[1,"a"]'),
        ({"data_type": "double"}, 1, 1.0),
        ({"data_type": "double"}, "1.5", 1.5),
        ({"data_type": "bool"}, "yes", True),
        ({"data_type": "bool"}, 0, False),
        ({"data_type": "timestamp"}, "2024-01-01", datetime.datetime(2024, 1, 1, tzinfo=UTC)),
        ({"data_type": "timestamp"}, 1700000000, datetime.datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)),
        # dlt rejects numbers that cannot be seconds; here, they are milliseconds or microseconds.
        ({"data_type": "timestamp"}, 1700000000123, datetime.datetime(2023, 11, 14, 22, 13, 20, 123000, tzinfo=UTC)),
        ({"data_type": "timestamp"}, 1700000000123456, datetime.datetime(2023, 11, 14, 22, 13, 20, 123456, tzinfo=UTC)),
        ({"data_type": "timestamp", "timezone": False}, "2024-01-01T01:00:00+01:00", datetime.datetime(2024, 1, 1)),  # noqa: DTZ001
        (
            {"data_type": "timestamp", "precision": 3},
            "2024-01-01T00:00:00.1239Z",
            datetime.datetime(2024, 1, 1, 0, 0, 0, 123000, tzinfo=UTC),
        ),
        ({"data_type": "date"}, "2024-01-31", datetime.date(2024, 1, 31)),
        ({"data_type": "time"}, "10:30:00", datetime.time(10, 30)),
        ({"data_type": "decimal", "precision": 10, "scale": 2}, 19.99, Decimal("19.99")),
        ({"data_type": "decimal"}, "19.99", Decimal("19.99")),
        ({"data_type": "json"}, {"a": None}, '{"a":null}'),
        ({"data_type": "json"}, '{"a": 1}', '{"a":1}'),
        ({"data_type": "json"}, "text", '"text"'),
        ({"data_type": "binary"}, "aGk=", b"hi"),
    ],
)
def test_a_declared_type_is_applied_as_dlt_coerces(
    tmp_path: Path, hint: dict[str, Any], value: Any, landed: Any
) -> None:
    for exact in (False, True):
        result = land(tmp_path / str(exact), [[{"id": 1, "v": value}]], columns={"v": hint}, exact=exact)
        assert not result.rejected
        assert result.rows[0]["v"] == landed
        assert result.types["v"] == hint["data_type"]


@pytest.mark.parametrize(
    ("hint", "value"),
    [
        ({"data_type": "bigint"}, "twelve"),
        ({"data_type": "bigint"}, 1.5),
        ({"data_type": "bigint"}, 2**63),
        ({"data_type": "bigint"}, True),
        ({"data_type": "bigint", "precision": 16}, 40000),
        ({"data_type": "bigint"}, [1]),
        ({"data_type": "double"}, 2**53 + 1),
        ({"data_type": "double"}, "NaN"),
        ({"data_type": "bool"}, 5),
        ({"data_type": "timestamp"}, "never"),
        ({"data_type": "timestamp"}, 1e300),
        ({"data_type": "timestamp"}, 2**63 - 1),
        ({"data_type": "date"}, 6.7e16),
        ({"data_type": "decimal", "precision": 4, "scale": 1}, "1.25"),
        ({"data_type": "bigint", "nullable": False}, None),
    ],
)
def test_a_value_that_does_not_fit_its_declared_type_rejects_only_its_row(
    tmp_path: Path, hint: dict[str, Any], value: Any
) -> None:
    good = {"id": 2, **({"v": "1"} if hint["data_type"] not in ("timestamp", "date", "decimal") else {})}
    for exact in (False, True):
        result = land(tmp_path / str(exact), [[{"id": 1, "v": value}, good]], columns={"v": hint}, exact=exact)
        assert [row["id"] for row in result.rows] == [2]
        ((row, reason),) = result.rejected
        assert row == {"id": 1, "v": value}
        assert reason.startswith("v: ")
        assert result.spool.rejected_rows == 1


def test_a_column_can_be_declared_by_its_name_in_the_source_or_in_the_table(tmp_path: Path) -> None:
    for name in ("Serial No", "serial_no"):
        assert land(tmp_path / name, [[{"Serial No": 7}]], columns={name: {"data_type": "text"}}).rows == [
            {"serial_no": "7"}
        ]


KNOWN: dict[str, dict[str, Any]] = {
    "n": {"data_type": "bigint"},
    "t": {"data_type": "text"},
    "b": {"data_type": "bool"},
    "d": {"data_type": "double"},
    "s": {"data_type": "timestamp"},
}


def test_values_that_do_not_fit_the_table_go_to_variant_columns(tmp_path: Path) -> None:
    rows = [
        {"n": 1, "t": 5, "b": True, "d": 2, "s": "2024-01-01T00:00:00Z"},
        {"n": "12", "d": "1.5"},
        {"n": "007", "b": "yes", "d": 2**53 + 1, "s": "never"},
        {"n": 1.5, "b": 1, "d": "x", "s": 5},
        {"n": [1], "t": [1]},
    ]
    for exact, pages in ((False, [rows]), (False, [[row] for row in rows]), (True, [rows])):
        result = land(tmp_path / f"{exact}{len(pages)}", pages, known=KNOWN, exact=exact)
        assert not result.rejected
        assert result.rows == [
            {"n": 1, "t": "5", "b": True, "d": 2.0, "s": datetime.datetime(2024, 1, 1, tzinfo=UTC)},
            {"n": 12, "d": 1.5},
            {"n__v_text": "007", "b__v_text": "yes", "d__v_bigint": 2**53 + 1, "s__v_text": "never"},
            {"n__v_double": 1.5, "b__v_bigint": 1, "d__v_text": "x", "s__v_bigint": 5},
            {"n__v_json": "[1]", "t": "[1]"},
        ]
        assert result.spool.changed_types() == {
            "n": ("bigint", "json"),
            "b": ("bool", "text"),
            "d": ("double", "text"),
            "s": ("timestamp", "text"),
        }


def test_variants_of_pages_that_are_decoded_together_are_the_texts_that_were_sent(tmp_path: Path) -> None:
    """Columns are slices then, of which pyarrow before 24 makes other texts (see `nulls_like`)."""
    pages = [[{"n": "a"}, {"n": "bb"}, {"n": "3"}], [{"n": "c"}, {"n": "4"}, {"n": "dd"}]]
    result = land(tmp_path, pages, known=KNOWN, together=True)
    texts: list[dict[str, Any]] = [{"n__v_text": "a"}, {"n__v_text": "bb"}, {"n": 3}]
    assert result.rows == [*texts, {"n__v_text": "c"}, {"n": 4}, {"n__v_text": "dd"}]


def test_a_key_that_does_not_fit_the_table_is_rejected(tmp_path: Path) -> None:
    result = land(tmp_path, [[{"id": "a"}, {"id": 2}]], key="id", known={"id": {"data_type": "bigint"}})
    assert result.rows == [{"id": 2}]
    assert result.rejected == [({"id": "a"}, "id: this text does not fit bigint")]


def test_an_unknown_type_is_refused_immediately() -> None:
    with pytest.raises(ValueError, match="number"):
        Layout(RowShape("t", columns={"a": {"data_type": "number"}}))


DATES = st.sampled_from(["2024-01-15", "2024-02-30", "0001-01-01", "9999-12-31", "20240115", "2024-W05-2", "2024-015"])
TIMES = st.sampled_from(["10:11:12", "23:59:59", "24:00:00", "10:11", "10", "1:2:3", "101112", "10:61:00"])
FRACTIONS = st.sampled_from(["", "", ".1", ".123456", ".1234567", ".123456789", ".1234567891", ",5", "."])
ZONES = st.sampled_from(["", "Z", "z", "+00:00", "+02:00", "-05:30", "+0200", "+02", "+24:00", "+14:00", " Z", "UTC"])
STAMPS = st.builds("".join, st.tuples(DATES, st.sampled_from(["T", " ", "t", "_"]), TIMES, FRACTIONS, ZONES))
COMMON = st.builds(
    "{}T{}{}{}".format,
    st.dates().map(str),
    st.times().map(lambda t: t.strftime("%H:%M:%S")),
    st.sampled_from(["", ".5", ".123", ".123456", ".1234567"]),
    st.sampled_from(["Z", "+02:00", "-11:30"]),
)


@settings(max_examples=examples(100, 500), deadline=None)
@given(st.lists(st.one_of(STAMPS, COMMON), min_size=1, max_size=3))
@example(["0001-01-01T00:00:00+14:00"])
@example(["9999-12-31T23:59:59-05:00"])
@example(["0000-12-31T23:00:00-02:00"])
@example(["2024-01-01T00:00:00", "2024-01-01T00:00:00Z"])
@example(["1969-12-31T23:59:59.9999999Z"])
def test_timestamps_are_recognized_as_in_dlt(texts: list[str]) -> None:
    expected: list[Any] | None = []
    for text in texts:
        if is_iso_timestamp(str, text) != "timestamp":
            expected = None
            break
        try:
            assert expected is not None
            expected.append(ensure_datetime_in_tz(text))
        except (ValueError, OverflowError):
            expected = None
            break
    array = pa.array(texts)
    assert are_timestamps(array) is (expected is not None)
    if expected is not None:
        assert read_timestamps(array).to_pylist() == expected

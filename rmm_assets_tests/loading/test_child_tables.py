"""Tests child tables end to end: after every load, they match the API's lists."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from dlt.common.configuration.container import Container
from dlt.common.destination import DestinationCapabilitiesContext
from dlt.common.schema import Schema

from rmm_assets.config import Connection
from rmm_assets.errors import ChildTablesError, IncompleteError
from rmm_assets.loading.outcome import Outcome
from rmm_assets.loading.plan import plan_load
from rmm_assets.rows.decode import read_page
from rmm_assets.rows.shape import Nesting, RowShape
from rmm_assets.rows.spool import Spool
from rmm_assets.rows.type_memory import TypeMemory
from rmm_assets.simulator import Simulator
from rmm_assets.simulator.faults import Faults
from rmm_assets_tests.syncing import Row, connection, resource, rows_of, run

pytestmark = pytest.mark.slow


class Fleet:
    """A server whose rows change between runs, and the tables that they are loaded into."""

    def __init__(self, folder: Path, **changes: Any) -> None:
        self.folder, self.connection = folder, self.made(**changes)
        self.server = Simulator(tables={"devices": []})

    @staticmethod
    def made(**changes: Any) -> Connection:
        return connection(resource(**{"child_tables": True, "max_absent_share": 1, **changes}))

    def holds(self, *rows: Row, made: Connection | None = None) -> Outcome:
        """Runs once while the server has these rows."""
        self.server.set_rows("devices", list(rows))
        return run(self.folder, self.server.base_url, made or self.connection)

    def items(self, path: str = "disks", value: str = "value") -> Counter[tuple[Any, ...]]:
        """Returns the items of a list as (key of the root row, index at each level, ..., value), by the links between tables."""
        tables = path.split(".")
        found: dict[str, tuple[Any, ...]] = {row["_dlt_id"]: (row["id"],) for row in rows_of(self.folder, own=True)}
        rows: list[Row] = []
        for depth in range(len(tables)):
            rows = rows_of(self.folder, "__".join(["devices", *tables[: depth + 1]]), own=True)
            found = {row["_dlt_id"]: (*found[row["_dlt_parent_id"]], row["_dlt_list_idx"]) for row in rows}
        return Counter((*found[row["_dlt_id"]], row.get(value)) for row in rows)


def expected(rows: list[Row], name: str = "disks") -> Counter[tuple[Any, ...]]:
    """Returns the expected items of one level, from the rows."""
    return Counter((row["id"], index, item) for row in rows for index, item in enumerate(row.get(name) or ()))


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    return Fleet(tmp_path)


STRATEGIES: list[Any] = ["merge", {"disposition": "merge", "strategy": "delete-insert"}]


@pytest.mark.parametrize("disposition", [*STRATEGIES, "replace"])
def test_added_removed_and_changed_items_are_updated_in_their_table(disposition: Any, tmp_path: Path) -> None:
    fleet = Fleet(tmp_path, write_disposition=disposition)
    first = [{"id": 1, "disks": ["C", "D", "E"]}, {"id": 2, "disks": ["C"]}, {"id": 3, "disks": ["X", "Y"]}]
    fleet.holds(*first)
    assert fleet.items() == expected(first)
    second = [
        {"id": 1, "disks": ["D"]},
        {"id": 2, "disks": ["C", "D"]},
        {"id": 3, "disks": []},
        {"id": 4, "disks": ["Z"]},
    ]
    fleet.holds(*second)
    assert fleet.items() == expected(second)
    # No list has an item, so no file of the child table is loaded.
    fleet.holds({"id": 1, "disks": []}, {"id": 2}, {"id": 3, "disks": None}, {"id": 4, "disks": []})
    assert not fleet.items()


def test_inner_lists_follow_their_outer_ones(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path)
    fleet.holds({"id": 1, "disks": [{"parts": [{"size": 5}, {"size": 6}]}, {"parts": [{"size": 7}]}]}, {"id": 2})
    assert fleet.items("disks.parts", "size") == {(1, 0, 0, 5): 1, (1, 0, 1, 6): 1, (1, 1, 0, 7): 1}
    fleet.holds({"id": 1, "disks": [{"parts": [{"size": 8}]}]}, {"id": 2, "disks": [{}, {"parts": [{"size": 9}]}]})
    assert fleet.items("disks.parts", "size") == {(1, 0, 0, 8): 1, (2, 1, 0, 9): 1}
    assert sum(fleet.items().values()) == 3


# `test_absences.py` marks and removes rows of the fast path, and removes those of dlt's normalizer.
@pytest.mark.parametrize(
    ("policy", "left", "normalizer"), [("mark", {1, 2}, "dlt"), ("remove", {1}, "arrow"), ("keep", {1, 2}, "arrow")]
)
def test_children_are_kept_or_deleted_with_their_row(
    policy: str, left: set[int], normalizer: str, tmp_path: Path
) -> None:
    fleet = Fleet(tmp_path, absent=policy, normalizer=normalizer)
    fleet.holds({"id": 1, "disks": [{"parts": [1]}]}, {"id": 2, "disks": [{"parts": [2, 3]}]})
    for _ in range(2):
        fleet.holds({"id": 1, "disks": [{"parts": [1]}]})
    assert {key for key, *_ in fleet.items()} == left
    assert {key for key, *_ in fleet.items("disks.parts")} == left


def test_a_row_received_twice_has_the_children_of_the_loaded_version(tmp_path: Path) -> None:
    # The spool needs more than one batch, so a row and its repetition are in different ones.
    shape = RowShape("t", ("id",), row_ids="key", nesting=Nesting())
    spool = Spool(shape, tmp_path, batch_rows=2)
    for rows in (
        [{"id": 1, "disks": ["old", "older"]}, {"id": 2, "disks": ["C"]}],
        [{"id": 3, "disks": []}, {"id": 1, "disks": ["new"]}],
        [{"id": 2, "disks": []}],
    ):
        spool.add(read_page(json.dumps(rows).encode(), None))
    found: dict[str, list[Row]] = {}
    for name, table in spool.tables():
        found.setdefault(name, []).extend(table.to_pylist())
    keys = {row["_dlt_id"]: row["id"] for row in found["t"]}
    assert sorted(keys.values()) == [1, 2, 3]
    assert [(keys[row["_dlt_parent_id"]], row["value"]) for row in found["t__disks"]] == [(1, "new")]


def test_rows_repeated_across_pages_are_loaded_once_with_their_children(fleet: Fleet) -> None:
    rows = [{"id": number, "disks": [f"{number}"] * (number % 3)} for number in range(1, 251)]
    fleet.server.set_faults(Faults(duplicate_every=100))
    outcome = fleet.holds(*rows)
    assert outcome.report.duplicates
    assert fleet.items() == expected(rows)


def test_the_children_of_a_rejected_row_are_not_loaded(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path, columns={"age": {"data_type": "bigint"}})
    rows = [
        {"id": key, "age": "?" if key % 2 else key, "disks": [{"name": f"{key}", "parts": [key]}]} for key in range(6)
    ]
    assert fleet.holds(*rows).rows_rejected == 3
    assert fleet.items(value="name") == {(key, 0, f"{key}"): 1 for key in (0, 2, 4)}
    assert fleet.items("disks.parts") == {(key, 0, 0, key): 1 for key in (0, 2, 4)}


def test_a_row_with_a_child_that_cannot_be_loaded_is_rejected_as_a_whole(tmp_path: Path) -> None:
    spool = Spool(RowShape("t", ("id",), row_ids="key", nesting=Nesting()), tmp_path)
    inner = {"parts": [{"name": "C"}, {"name": "\ud800"}]}
    spool.add(read_page(json.dumps([{"id": 1, "disks": [{}]}, {"id": 2, "disks": [{}, inner]}]).encode(), None))
    assert {name: len(table) for name, table in spool.tables()} == {"t": 1, "t__disks": 1}
    [rejected] = [row for table in spool.rejected() for row in table.to_pylist()]
    assert json.loads(rejected["row_json"]) == {"id": 2, "disks": [{}, inner]}
    assert rejected["reason"] == "it holds text that is not Unicode (half of a surrogate pair)"


def test_appended_twice_no_two_rows_share_an_id_and_each_has_its_children(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path, write_disposition="append")
    rows = [{"id": key, "disks": ["C", "D"]} for key in range(1, 4)]
    fleet.holds(*rows)
    fleet.holds(*rows)
    roots = rows_of(tmp_path, own=True)
    children = rows_of(tmp_path, "devices__disks", own=True)
    assert len({row["_dlt_id"] for row in roots}) == len(roots) == 6
    assert len({row["_dlt_id"] for row in children}) == len(children) == 12
    assert Counter(row["_dlt_parent_id"] for row in children) == {row["_dlt_id"]: 2 for row in roots}
    assert "_dlt_root_id" not in children[0]


@pytest.mark.parametrize("disposition", ["append", "replace"])
def test_without_a_primary_key_rows_that_differ_only_in_a_list_are_distinct(disposition: str, tmp_path: Path) -> None:
    fleet = Fleet(tmp_path, write_disposition=disposition, primary_key=None)
    # More than one page: equal rows within a page are separate rows; those on another page are repetitions.
    rows: list[Row] = [{"disks": ["E"]}, *({"name": "a", "disks": [f"{number}"]} for number in range(250))]
    fleet.holds(*rows)
    assert Counter(row.get("name") for row in rows_of(tmp_path)) == {"a": 250, None: 1}
    assert {row["value"] for row in rows_of(tmp_path, "devices__disks")} == {"E", *(f"{n}" for n in range(250))}


def test_nothing_is_loaded_from_an_incomplete_read(fleet: Fleet) -> None:
    fleet.server.set_faults(Faults(total_off=1))
    with pytest.raises(IncompleteError):
        fleet.holds({"id": 1, "disks": ["C"]})
    assert rows_of(fleet.folder) == rows_of(fleet.folder, "devices__disks") == []


# Types and names


def test_types_are_inferred_from_the_whole_read(fleet: Fleet) -> None:
    rows: list[Row] = [
        {"id": key, "disks": [{"size": 0.5 if key == 250 else key, "at": "2024-01-01"}]} for key in range(1, 251)
    ]
    rows[100]["disks"][0]["at"] = None
    fleet.holds(*rows)
    assert all(isinstance(row["size"], float) for row in rows_of(fleet.folder, "devices__disks"))
    assert fleet.items(value="size") == {(row["id"], 0, row["disks"][0]["size"]): 1 for row in rows}


def test_values_that_do_not_fit_a_child_column_go_to_a_variant_column(fleet: Fleet) -> None:
    fleet.holds({"id": 1, "disks": [{"size": 1}]})
    outcome = fleet.holds({"id": 1, "disks": [{"size": "big"}, {"size": "2"}]})
    assert outcome.changed_types == {"devices__disks.size": ("bigint", "text")}
    assert fleet.items(value="size") == {(1, 0, None): 1, (1, 1, 2): 1}
    assert fleet.items(value="size__v_text") == {(1, 0, "big"): 1, (1, 1, None): 1}


def test_lists_that_are_always_null_missing_or_empty_create_no_table(fleet: Fleet) -> None:
    fleet.holds({"id": 1, "disks": []}, {"id": 2, "disks": None}, {"id": 3})
    assert rows_of(fleet.folder) == [{"id": 1}, {"id": 2}, {"id": 3}]
    assert rows_of(fleet.folder, "devices__disks", own=True) == []


def test_a_field_that_is_a_list_an_object_or_a_value_is_loaded_in_each_form(fleet: Fleet) -> None:
    fleet.holds(
        {"id": 1, "disks": [{"name": "C", "parts": [1]}]}, {"id": 2, "disks": {"name": "D", "parts": [2]}},
        {"id": 3, "disks": "E"},
    )  # fmt: skip
    one, two, three = rows_of(fleet.folder)
    assert (one["disks"], two["disks__name"], three["disks"]) == (None, "D", "E")
    assert fleet.items(value="name") == {(1, 0, "C"): 1}
    # Both lists would be `devices__disks__parts`, and in dlt, rows of that table have two different parent tables.
    landed = {name: rows_of(fleet.folder, name, own=True) for name in tables_of(fleet.folder)}
    [outer] = [name for name in landed if name.startswith("devices__disks__parts_")]
    assert [row["value"] for row in landed["devices__disks__parts"]] == [2]
    assert [row["value"] for row in landed[outer]] == [1]


def tables_of(folder: Path) -> list[str]:
    import duckdb

    with duckdb.connect(str(folder / "rmm.duckdb"), read_only=True) as client:
        query = "SELECT table_name FROM information_schema.tables WHERE table_schema = 'acme'"
        return [str(name) for (name,) in client.execute(query).fetchall()]


def test_two_lists_with_the_same_table_name_are_both_loaded(fleet: Fleet) -> None:
    fleet.holds({"id": 1, "disks": ["C"], "Disks": ["D"]})
    found = {row["value"] for name in tables_of(fleet.folder) if "disks" in name for row in rows_of(fleet.folder, name)}
    assert found == {"C", "D"}
    assert fleet.items() == {(1, 0, "C"): 1}


def test_fields_named_like_dlt_s_own_columns_get_other_columns(fleet: Fleet) -> None:
    fleet.holds({"id": 1, "_dlt_id": "mine", "disks": [{"_dlt_parent_id": "his", "_dlt_list_idx": 7}]})
    assert sum(fleet.items().values()) == 1
    assert "mine" in rows_of(fleet.folder, own=True)[0].values()
    assert {"his", 7} <= set(rows_of(fleet.folder, "devices__disks", own=True)[0].values())


def test_max_table_nesting_leaves_deeper_lists_as_json(tmp_path: Path) -> None:
    rows = [{"id": 1, "disks": [{"parts": [1, 2]}], "a": {"b": [3]}}]
    flat = Fleet(tmp_path / "0", max_table_nesting=0)
    flat.holds(*rows)
    assert json.loads(rows_of(flat.folder)[0]["disks"]) == [{"parts": [1, 2]}]
    one = Fleet(tmp_path / "1", max_table_nesting=1)
    one.holds(*rows)
    assert [json.loads(row["parts"]) for row in rows_of(one.folder, "devices__disks")] == [[1, 2]]
    assert json.loads(rows_of(one.folder)[0]["a__b"]) == [3]


def test_names_and_ids_match_dlt_s_if_names_are_shortened(tmp_path: Path) -> None:
    row = {"id": "a", "very_long_name" * 4: [{"another_long_name" * 4: [1, [2]]}], "short": [{"n" * 70: 1}]}
    capabilities = DestinationCapabilitiesContext.generic_capabilities()
    capabilities.max_identifier_length = 63
    capabilities.supported_merge_strategies = ["upsert"]
    with Container().injectable_context(capabilities):
        schema = Schema("s")
        key: Any = {"id": {"name": "id", "primary_key": True, "data_type": "text", "nullable": False}}
        upsert: Any = {"x-merge-strategy": "upsert", "write_disposition": "merge"}
        schema.update_table({"name": "devices", "columns": key, **upsert})  # type: ignore[typeddict-item]
        stock = list(schema.normalize_data_item(row, "1", "devices"))
    theirs = {(name[0], item["_dlt_id"], *sorted(item)) for name, item in stock}
    shape = RowShape("devices", ("id",), max_identifier_length=63, row_ids="key", nesting=Nesting())
    spool = Spool(shape, tmp_path)
    spool.add(read_page(json.dumps([row]).encode(), None))
    ours = {
        (name, item["_dlt_id"], *sorted([*item, *(["_dlt_load_id"] if name == "devices" else [])]))
        for name, table in spool.tables()
        for item in table.to_pylist()
    }
    # A column that is always null is not created; the list in the list has none.
    drop = {"value", "_dlt_root_id"}
    assert {tuple(x for x in found if x not in drop) for found in ours} == {
        tuple(x for x in found if x not in drop) for found in theirs
    }
    assert max(len(name) for name, *_ in ours) == 63


def test_lists_nested_too_deeply_stay_json(tmp_path: Path) -> None:
    deep: Any = 1
    for _ in range(300):
        deep = [deep]
    for exact in (False, True):
        spool = Spool(RowShape("t", ("id",), row_ids="key", nesting=Nesting()), tmp_path / str(exact))
        spool.add(read_page(json.dumps([{"id": 1, "deep": deep}]).encode(), None, exact=exact))
        tables = dict(spool.tables())
        assert 40 < len(tables) < 110
        [last] = [table for table in tables.values() if "list" in table.column_names]
        assert json.loads(last["list"][0].as_py())


# Existing tables


def test_a_row_keeps_its_id_across_loads(fleet: Fleet) -> None:
    fleet.holds({"id": 1, "name": "a", "disks": ["C"]})
    before = rows_of(fleet.folder, own=True), rows_of(fleet.folder, "devices__disks", own=True)
    fleet.holds({"id": "1", "name": "b", "disks": ["C"]}, {"id": 2, "disks": []})
    assert rows_of(fleet.folder, own=True)[0]["_dlt_id"] == before[0][0]["_dlt_id"]
    assert rows_of(fleet.folder, "devices__disks", own=True) == before[1]


def test_children_that_dlt_s_normalizer_loaded_are_replaced(fleet: Fleet) -> None:
    fleet.holds({"id": 1, "disks": ["C", "D"]}, {"id": 2, "disks": ["E"]}, made=fleet.made(normalizer="dlt"))
    rows = [{"id": 1, "disks": ["C"]}, {"id": 2, "disks": []}]
    fleet.holds(*rows)
    assert fleet.items() == expected(rows)
    fleet.holds(*rows[::-1], made=fleet.made(normalizer="dlt"))
    assert fleet.items() == expected(rows)


def test_the_error_says_that_a_table_with_json_columns_cannot_get_child_tables(fleet: Fleet) -> None:
    flat = fleet.made(child_tables=False)
    fleet.holds({"id": 1, "disks": ["C"]}, made=flat)
    with pytest.raises(ChildTablesError, match="Drop the table"):
        fleet.holds({"id": 1, "disks": ["C"]})
    fleet.holds({"id": 1, "disks": ["D"]}, made=flat)
    assert json.loads(rows_of(fleet.folder)[0]["disks"]) == ["D"]


def test_children_are_loaded_even_if_the_first_load_had_no_rows(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path, columns={"id": {"data_type": "bigint"}, "name": {"data_type": "text"}})
    fleet.holds()
    fleet.holds({"id": "none", "disks": ["C"]})
    fleet.holds({"id": 1, "disks": ["C"]})
    assert fleet.items() == {(1, 0, "C"): 1}


def test_rows_still_have_ids_after_switching_lists_back_to_json(fleet: Fleet) -> None:
    fleet.holds({"id": 1, "disks": ["C"]}, {"id": 2})
    ids = [row["_dlt_id"] for row in rows_of(fleet.folder, own=True)]
    fleet.holds({"id": 1, "disks": ["D"]}, {"id": 2}, made=fleet.made(child_tables=False))
    assert [row["_dlt_id"] for row in rows_of(fleet.folder, own=True)] == ids
    assert json.loads(rows_of(fleet.folder)[0]["disks"]) == ["D"]


def test_child_tables_with_contracts_or_hints_use_dlt_s_normalizer(tmp_path: Path) -> None:
    for rule in (
        {"schema_contract": {"data_type": "freeze"}},
        {"nested_hints": {"disks": {"columns": {"value": {"data_type": "text"}}}}},
    ):
        made = Fleet.made(**rule)
        assert not plan_load(made, made.resource("devices")).arrow
        fleet = Fleet(tmp_path / next(iter(rule)), **rule)
        fleet.holds({"id": 1, "disks": ["C"]})
        assert fleet.items() == {(1, 0, "C"): 1}


# Memory


def bodies(count: int) -> Iterator[bytes]:
    for page in range(count):
        rows = [
            {"id": page * 200 + n, "disks": [{"name": f"disk {k}", "parts": [k, n]} for k in range(3)]}
            for n in range(200)
        ]
        yield json.dumps(rows).encode()


@pytest.mark.slow
def test_memory_does_not_grow_with_the_children(tmp_path: Path) -> None:
    import pyarrow as pa

    def peak(pages: int) -> int:
        shape = RowShape("t", ("id",), row_ids="key", nesting=Nesting())
        spool, hints, most, rows = Spool(shape, tmp_path / str(pages), 2000), TypeMemory(), 0, Counter[str]()
        for body in bodies(pages):
            spool.add(read_page(body, None, hints))
            most = max(most, pa.total_allocated_bytes())
        for name, table in spool.tables():
            rows[name] += len(table)
            most = max(most, pa.total_allocated_bytes())
        assert rows == {"t": pages * 200, "t__disks": pages * 600, "t__disks__parts": pages * 1200}
        return most

    peak(20)
    assert peak(160) < 1.3 * peak(20)

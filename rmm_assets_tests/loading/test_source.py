"""Tests resources from requests to tables: parents and children, incremental ranges, schema contracts."""

from __future__ import annotations

import shutil
import threading
import time
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
from dlt.common.schema.exceptions import DataValidationError

from rmm_assets.errors import IncompleteError, SchemaContractError
from rmm_assets.loading.plan import plan_load
from rmm_assets.reading.report import Evidence
from rmm_assets.simulator import Simulator
from rmm_assets.simulator.faults import Faults
from rmm_assets_tests.http.servers import Say, Scripted, Seen
from rmm_assets_tests.syncing import absent, connection, devices, ids, read, resource, rows_of, run

pytestmark = pytest.mark.slow

ORGANIZATIONS = [{"id": i, "name": f"Org {i}", "status": "active"} for i in range(1, 31)]
DEVICES = [{**row, "organization_id": 1 + row["id"] % 30} for row in devices(450)]


def children(**changes: Any) -> dict[str, Any]:
    """Returns a resource that requests devices per organization."""
    endpoint = {"path": "/v1/organizations/{resources.organizations.id}/devices", **changes.pop("endpoint", {})}
    return resource("devices", endpoint=endpoint, **changes)


def fleet_server(faults: Any = ()) -> Simulator:
    return Simulator(tables={"organizations": ORGANIZATIONS, "devices": DEVICES}, faults=faults)


def query_of(seen: Seen) -> dict[str, str]:
    return dict(parse_qsl(urlsplit(seen.target).query))


# Parents and children


@pytest.mark.parametrize("normalizer", ["arrow", "dlt"])
def test_children_of_every_parent_have_the_parent_s_fields(normalizer: str, tmp_path: Path) -> None:
    made = connection(resource("organizations"), children(include_from_parent=["id", "name"], normalizer=normalizer))
    with fleet_server(Faults(delay=0.003)) as server:
        outcome = run(tmp_path, server.base_url, made)
        assert server.most_at_once <= 8
    assert rows_of(tmp_path) == [
        {**row, "_organizations_id": row["organization_id"], "_organizations_name": f"Org {row['organization_id']}"}
        for row in DEVICES
    ]
    assert outcome.report.complete
    assert outcome.report.reason == "every one of 30 organizations was read to the end"
    assert outcome.report.last_total == 450


@pytest.mark.parametrize("child", [False, True])
def test_an_endpoint_s_own_max_concurrency_is_not_exceeded(child: bool, tmp_path: Path) -> None:
    limits = {"max_concurrency": 8}
    made = connection(resource("organizations"), children(max_concurrency=2), limits=limits)
    if not child:
        made = connection(
            resource("devices", max_concurrency=2, endpoint={"paginator": {"type": "offset", "limit": 5}})
        )
    with fleet_server(Faults(delay=0.003)) as server:
        _, rows = read(tmp_path, server.base_url, made)
        # The parents' endpoint has one page.
        assert server.most_at_once == 2
    assert len(rows) == 450


def test_parents_can_be_used_in_parameters_headers_and_bodies(tmp_path: Path) -> None:
    def answer(seen: Seen) -> Say:
        if seen.method == "GET":
            return Say({"data": ORGANIZATIONS[:3], "total": 3})
        organization = int(query_of(seen)["org"])
        assert seen.headers["x-org"] == f"Org {organization}"
        assert b'"id": %d' % organization in seen.body
        return Say({"data": [{"id": 100 * organization + i} for i in range(5)], "total": 5})

    child = resource(
        endpoint={
            "path": "/v1/devices", "method": "POST", "params": {"org": "{resources.organizations.id}"},
            "headers": {"X-Org": "{resources.organizations.name}"},
            "json": {"filter": {"id": "{resources.organizations.id}"}},
        }
    )  # fmt: skip
    with Scripted(answer) as server:
        _, rows = read(tmp_path, server.url, connection(resource("organizations"), child))
    assert ids(rows) == [100 * i + j for i in (1, 2, 3) for j in range(5)]


def test_children_of_children_are_read(tmp_path: Path) -> None:
    def answer(seen: Seen) -> Say:
        parts = urlsplit(seen.target).path.split("/")[1:]
        row = {"orgs": [{"org": 1}, {"org": 2}], "sites": [{"site": "a"}, {"site": "b"}]}.get(parts[-1])
        return Say({"data": row or [{"id": f"{parts[1]}-{parts[3]}-{i}"} for i in range(3)]})

    single = {"paginator": "single_page"}
    made = connection(
        resource("orgs", endpoint={"path": "/orgs", **single}, primary_key="org"),
        resource("sites", endpoint={"path": "/orgs/{resources.orgs.org}/sites", **single},
                 primary_key=["_orgs_org", "site"], include_from_parent=["org"]),
        resource("devices", endpoint={
            "path": "/orgs/{resources.sites._orgs_org}/sites/{resources.sites.site}/devices", **single}),
    )  # fmt: skip
    with Scripted(answer) as server:
        run(tmp_path, server.url, made)
        assert ids(rows_of(tmp_path)) == [f"{org}-{site}-{i}" for org in (1, 2) for site in "ab" for i in range(3)]
        assert len(server.seen) == 1 + 2 + 4


def test_a_key_with_the_parent_distinguishes_equal_children_of_two_parents(tmp_path: Path) -> None:
    def answer(seen: Seen) -> Say:
        is_parent = seen.target.startswith("/v1/organizations?")
        return Say({"data": ORGANIZATIONS[:2], "total": 2} if is_parent else {"data": devices(3), "total": 3})

    child = children(primary_key=["_organizations_id", "id"], include_from_parent=["id"])
    with Scripted(answer) as server:
        outcome = run(tmp_path, server.url, connection(resource("organizations"), child))
    assert outcome.row_count == 6
    assert outcome.report.duplicates == 0


def test_a_parent_without_the_child_s_key_uses_its_own_key(tmp_path: Path) -> None:
    def answer(seen: Seen) -> Say:
        if seen.target.startswith("/v1/organizations?"):
            offset = int(query_of(seen)["offset"])
            rows = [{"code": f"c{i}"} for i in range(250)]
            return Say({"data": rows[offset : offset + 100], "total": 250})
        return Say({"data": [{"id": seen.target.split("/")[3]}], "total": 1})

    made = connection(
        resource("organizations", primary_key="code"),
        resource(endpoint={"path": "/v1/organizations/{resources.organizations.code}/devices"}),
    )
    with Scripted(answer) as server:
        assert len(read(tmp_path, server.url, made)[1]) == 250


def test_the_children_of_a_repeated_parent_are_requested_once(tmp_path: Path) -> None:
    with fleet_server(Faults(resource="organizations", duplicate_every=10)) as server:
        _, rows = read(tmp_path, server.base_url, connection(resource("organizations"), children()))
        assert len(rows) == 450
        assert len([request for request in server.requests if request.resource == "devices"]) == 30


def test_a_parent_s_404_is_no_rows(tmp_path: Path) -> None:
    with fleet_server() as server:
        # The simulator knows no organization 31.
        server.set_rows("organizations", [*ORGANIZATIONS, {"id": 31, "name": "gone"}])
        server.set_faults(Faults(resource="devices", status=404, skip=12, times=1))
        report, rows = read(tmp_path, server.base_url, connection(resource("organizations"), children()))
        assert (len(rows), report.complete) == (450 - 15, True)
        assert (report.parents, report.parents_missing, report.parents_refused) == (31, 1, 0)
        assert "30 of 31 organizations were read to the end; the API has nothing for 1 (HTTP 404: " in report.reason
        assert report.evidence is not Evidence.USER


def test_if_one_child_stays_incomplete_nothing_is_published(tmp_path: Path) -> None:
    with fleet_server(Faults(resource="devices", total_off=1, skip=20)) as server:
        with pytest.raises(IncompleteError, match="reports 16 rows; 15 distinct rows"):
            run(tmp_path, server.base_url, connection(resource("organizations"), children()))
        assert rows_of(tmp_path) == []


def test_an_incomplete_child_is_loaded_and_named_with_on_incomplete_warn(tmp_path: Path) -> None:
    def answer(seen: Seen) -> Say:
        parts = urlsplit(seen.target).path.split("/")
        if parts[-1] == "organizations":
            return Say({"data": ORGANIZATIONS, "total": 30})
        rows = devices(5, first=10 * int(parts[3]))[int(query_of(seen)["offset"]) :]
        return Say({"data": rows, "total": 6 if parts[3] == "7" else 5})

    child = children(on_incomplete="warn")
    with Scripted(answer) as server:
        outcome = run(tmp_path, server.url, connection(resource("organizations"), child))
    assert outcome.row_count == 150
    assert not outcome.report.complete
    assert "reports 6 rows; 5 distinct rows" in outcome.report.reason
    assert "/v1/organizations/7/devices" in outcome.report.reason


def test_only_a_few_children_wait_for_their_turn(tmp_path: Path) -> None:
    landed, most, lock = [0], [0], threading.Lock()

    def answer(seen: Seen) -> Say:
        parts = urlsplit(seen.target).path.split("/")
        if parts[-1] == "organizations":
            return Say({"data": [{"id": i} for i in range(80)], "total": 80})
        if parts[3] == "0":
            time.sleep(0.5)  # later ones must not pile up meanwhile
            most[0] = landed[0]
        with lock:
            landed[0] += 1
        return Say({"data": [{"id": int(parts[3])}], "total": 1})

    made = connection(resource("organizations"), children(), limits={"max_concurrency": 4})
    with Scripted(answer) as server:
        assert len(read(tmp_path, server.url, made)[1]) == 80
    assert most[0] <= 2 * 4


# Incremental ranges

STAMPED = [{**row, "updated_at": f"2024-01-{1 + row['id'] // 10:02}T00:00:00Z"} for row in devices(100)]
RANGE = {"cursor_path": "updated_at", "start_param": "updated_since", "initial_value": "2024-01-01T00:00:00Z"}


@pytest.mark.parametrize(
    "endpoint",
    [
        {"incremental": RANGE},
        {"params": {"updated_since": {"type": "incremental", "cursor_path": "updated_at",
                                      "initial_value": "2024-01-01T00:00:00Z"}}},
        {"params": {"updated_since": "{incremental.start_value}"},
         "incremental": {"cursor_path": "updated_at", "initial_value": "2024-01-01T00:00:00Z"}},
    ],
    ids=["incremental", "parameter", "placeholder"],
)  # fmt: skip
def test_a_second_run_requests_changes_even_without_its_working_folder(
    endpoint: dict[str, Any], tmp_path: Path
) -> None:
    made = connection(resource(endpoint=endpoint))
    with Simulator(tables={"devices": STAMPED}) as server:
        run(tmp_path, server.base_url, made)
        assert {request.query["updated_since"] for request in server.requests} == {"2024-01-01T00:00:00Z"}
        shutil.rmtree(tmp_path / "work")
        server.set_rows("devices", [*STAMPED, {"id": 101, "name": "new", "updated_at": "2024-03-01T00:00:00Z"}])
        asked = len(server.requests)
        outcome = run(tmp_path, server.base_url, made)
        assert {request.query["updated_since"] for request in server.requests[asked:]} == {"2024-01-10T23:55:00Z"}
        assert outcome.report.rows == 2
    assert ids(rows_of(tmp_path)) == list(range(1, 102))


# Settings that have nothing to do with each other share a range.
RANGES: dict[str, dict[str, Any]] = {
    "text": {"initial_value": "2024-01-02T00:00:00Z"},
    "float": {"cursor_path": "score"},
    "nested, other key": {"cursor_path": "meta.at", "primary_key": "name"},
    "least": {"cursor_path": "version", "last_value_func": "min"},
    "open, gaps out": {"range_start": "open", "cursor_path": "sometimes", "on_cursor_value_missing": "exclude"},
    "until": {"initial_value": "2024-01-01T00:00:00Z", "end_value": "2024-01-05T00:00:00Z"},
    "number, lag": {"cursor_path": "version", "initial_value": 0, "lag": 3},
    "gaps in": {"cursor_path": "sometimes", "on_cursor_value_missing": "include"},
    "no key": {"primary_key": []},
}


def ranged(numbers: range, day: int) -> list[dict[str, Any]]:
    """Returns rows that changed on that day, with every kind of cursor."""
    return [
        {
            "id": i, "name": f"PC-{i % 7}", "updated_at": f"2024-01-{day + i % 3:02}T00:00:00Z", "version": day * 10 + i % 3,
            "score": day + (i % 4) / 2, "meta": {"at": f"{day:03}-{i % 2}"}, "sometimes": day if i % 3 else None,
        }
        for i in numbers
    ]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "disposition"), [*((kind, "merge") for kind in RANGES if kind != "no key"), ("no key", "append")]
)
def test_the_fast_path_loads_the_same_rows_of_a_range_as_dlt(kind: str, disposition: str, tmp_path: Path) -> None:
    stages = [ranged(range(1, 40), 1), [*ranged(range(5), 1), *ranged(range(20, 70), 2)]]
    if kind == "text":
        stages.insert(1, ranged(range(1, 60), 2))
    endpoint = {
        "incremental": {"cursor_path": "updated_at", **RANGES[kind]},
        "params": {"since": "{incremental.start_value}"},
    }
    seen: dict[str, list[Any]] = {}
    for normalizer in ("arrow", "dlt"):
        made = connection(resource(endpoint=endpoint, normalizer=normalizer, write_disposition=disposition))
        assert plan_load(made, made.resource("devices")).arrow == (normalizer == "arrow")
        seen[normalizer] = []
        with Simulator(tables={"devices": []}) as server:
            for stage in stages:
                server.set_rows("devices", [*stage, {**stage[-1]}])  # its last row is sent twice
                asked = len(server.requests)
                run(tmp_path / normalizer, server.base_url, made)
                # Without child tables, dlt's normalizer stores an object as one JSON column.
                rows = [
                    {k: v for k, v in row.items() if not k.startswith("meta")} for row in rows_of(tmp_path / normalizer)
                ]
                found = sorted(rows, key=repr)
                seen[normalizer].append([{request.query.get("since") for request in server.requests[asked:]}, found])
    assert seen["arrow"] == seen["dlt"]
    assert any(rows for _, rows in seen["arrow"])


@pytest.mark.parametrize("normalizer", ["arrow", "dlt"])
def test_a_range_loads_children_with_their_rows(normalizer: str, tmp_path: Path) -> None:
    endpoint = {"incremental": {**RANGE, "end_value": "2024-01-03T00:00:00Z"}}
    made = connection(resource(endpoint=endpoint, normalizer=normalizer, child_tables=True))
    rows = [{**row, "disks": [{"drive": f"{row['id']}{letter}"} for letter in "CD"]} for row in STAMPED]
    with Simulator(tables={"devices": rows}) as server:
        for _ in range(2):
            run(tmp_path, server.base_url, made)
            parents = {row["_dlt_id"]: row["id"] for row in rows_of(tmp_path, own=True)}
            items = [
                (parents[item["_dlt_parent_id"]], item["drive"])
                for item in rows_of(tmp_path, "devices__disks", own=True)
            ]
            assert sorted(items) == [(i, f"{i}{letter}") for i in range(1, 20) for letter in "CD"]


def test_a_failed_run_does_not_move_the_cursor(tmp_path: Path) -> None:
    made = connection(resource(endpoint={"incremental": RANGE}))
    with Simulator(tables={"devices": STAMPED[:50]}) as server:
        run(tmp_path, server.base_url, made)
        server.set_rows("devices", STAMPED)
        server.set_faults(Faults(total_off=1))
        with pytest.raises(IncompleteError):
            run(tmp_path, server.base_url, made)
        server.set_faults([])
        asked = len(server.requests)
        run(tmp_path, server.base_url, made)
        assert server.requests[asked].query["updated_since"] == "2024-01-05T23:55:00Z"
    assert ids(rows_of(tmp_path)) == list(range(1, 101))


def test_a_faulty_row_is_also_rejected_in_an_incremental_run(tmp_path: Path) -> None:
    made = connection(resource(endpoint={"incremental": RANGE}))
    keyless = {"name": "no id", "updated_at": "2024-01-02T00:00:00Z"}
    with Simulator(tables={"devices": [*STAMPED[:9], keyless]}) as server:
        outcome = run(tmp_path, server.base_url, made)
    assert outcome.rows_rejected == 1
    assert ids(rows_of(tmp_path)) == list(range(1, 10))
    assert len(rows_of(tmp_path, "devices_rejected")) == 1


def test_a_child_can_be_incremental(tmp_path: Path) -> None:
    rows = [{**row, "organization_id": 1 + row["id"] % 3} for row in STAMPED]
    made = connection(resource("organizations"), children(endpoint={"incremental": RANGE}))
    with Simulator(tables={"organizations": ORGANIZATIONS[:3], "devices": rows}) as server:
        run(tmp_path, server.base_url, made)
        asked = len(server.requests)
        outcome = run(tmp_path, server.base_url, made)
        assert outcome.report.rows == 1
        since = {
            request.query.get("updated_since") for request in server.requests[asked:] if request.resource == "devices"
        }
        assert since == {"2024-01-10T23:55:00Z"}
    assert ids(rows_of(tmp_path)) == list(range(1, 101))


def test_a_child_reads_all_rows_of_an_incremental_parent(tmp_path: Path) -> None:
    parents = [{**row, "updated_at": f"2024-01-{row['id']:02}T00:00:00Z"} for row in ORGANIZATIONS]
    made = connection(resource("organizations", endpoint={"incremental": RANGE}), children())
    with Simulator(tables={"organizations": parents, "devices": DEVICES}) as server:
        run(tmp_path, server.base_url, made, "organizations")
        for _ in range(2):
            assert run(tmp_path, server.base_url, made).report.rows == 450


# Schema changes


def test_new_columns_are_added_and_changed_types_get_columns_next_to_the_old_ones(tmp_path: Path) -> None:
    with Simulator(tables={"devices": devices(3, age=1)}) as server:
        run(tmp_path, server.base_url)
        server.set_rows("devices", [*devices(2, age="old", site="Graz"), *devices(1, first=3, age=2)])
        outcome = run(tmp_path, server.base_url)
    assert outcome.changed_types == {"age": ("bigint", "text")}
    assert [(row["age"], row["age__v_text"], row["site"]) for row in rows_of(tmp_path)] == [
        (None, "old", "Graz"), (None, "old", "Graz"), (2, None, None),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("contract", "error"),
    [({"columns": "freeze"}, DataValidationError), ({"data_type": "freeze"}, SchemaContractError)],
)
@pytest.mark.parametrize("normalizer", ["arrow", "dlt"])
def test_a_change_of_a_frozen_schema_is_red_and_the_table_unchanged(
    contract: dict[str, str], error: type[Exception], normalizer: str, tmp_path: Path
) -> None:
    made = connection(resource(schema_contract=contract, normalizer=normalizer))
    changed = devices(3, age=1, site="Graz") if "columns" in contract else devices(3, age="old")
    with Simulator(tables={"devices": devices(3, age=1)}) as server:
        run(tmp_path, server.base_url, made)
        server.set_rows("devices", changed)
        with pytest.raises(error if normalizer == "arrow" else DataValidationError, match=r"frozen|freezes"):
            run(tmp_path, server.base_url, made)
    assert rows_of(tmp_path) == devices(3, age=1)


@pytest.mark.parametrize(
    ("contract", "left"),
    [
        ({"columns": "discard_value", "data_type": "discard_value"}, [(1, 1), (2, None), (3, 1)]),
        ({"columns": "discard_row", "data_type": "discard_value"}, [(1, 0), (2, None), (3, 1)]),
        ({"columns": "discard_value", "data_type": "discard_row"}, [(1, 1), (2, 0), (3, 1)]),
    ],
)
@pytest.mark.parametrize("normalizer", ["arrow", "dlt"])
def test_rows_discarded_by_the_schema_contract_are_neither_loaded_nor_marked(
    contract: dict[str, str], left: list[tuple[int, Any]], normalizer: str, tmp_path: Path
) -> None:
    made = connection(resource(schema_contract=contract, normalizer=normalizer, max_absent_share=1))
    with Simulator(tables={"devices": devices(3, age=0)}) as server:
        run(tmp_path, server.base_url, made)
        server.set_rows(
            "devices", [*devices(1, age=1, site="Graz"), *devices(1, first=2, age="old"), *devices(1, first=3, age=1)]
        )
        outcome = run(tmp_path, server.base_url, made)
        assert [(row["id"], row["age"]) for row in rows_of(tmp_path)] == left
        assert set(rows_of(tmp_path)[0]) == {"id", "name", "status", "age"}
        assert outcome.absences.gone == 0
        # With `discard_row`, nor is one that is gone: if it came back with such a value, it would not be written and stay marked.
        server.set_rows("devices", devices(2, age=0))
        run(tmp_path, server.base_url, made)
    assert absent(tmp_path) == (set() if "discard_row" in contract.values() else {3})

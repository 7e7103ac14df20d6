"""Tests that a run reads a parent resource once for all its children, and never takes anything but what the API sent."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import duckdb
import pytest

from rmm_assets.config import Connection
from rmm_assets.errors import RmmError
from rmm_assets.loading.outcome import Outcome
from rmm_assets.loading.parents import IN_TABLE, SHARED
from rmm_assets.loading.run import open_run
from rmm_assets.loading.shared import Shared
from rmm_assets.tables.store import Store
from rmm_assets_tests.http.servers import Say, Scripted, Seen
from rmm_assets_tests.loading.test_destinations import into, store_at, table_format
from rmm_assets_tests.syncing import KEY, Row, absent, connection, ids, resource, rows_of, store_in

pytestmark = pytest.mark.slow

SINGLE = {"paginator": "single_page"}
FROM_API = "the API"


class Api:
    """A server of customers, of each customer's sites, users and devices, and of each site's printers.

    Attributes:
        customers: The rows of customers.
        broken: Responses by path.
        asked: Number of requests by path.
    """

    def __init__(self, customers: list[Row]) -> None:
        self.customers = customers
        self.broken: dict[str, Say] = {}
        self.asked: Counter[str] = Counter()

    def __call__(self, seen: Seen) -> Say:
        path = urlsplit(seen.target).path
        self.asked[path] += 1
        _, _, kind, *rest = path.split("/")
        if path in self.broken:
            return self.broken[path]
        if not rest:
            return Say({"data": self.customers})
        return Say({"data": [{"id": f"{kind}-{unquote(rest[0])}-{number}"} for number in range(2)]})


def customers(number: int, **more: Any) -> list[Row]:
    return [{"id": each, "code": f"c{each}", **more} for each in range(1, number + 1)]


def child(name: str, field: str = "customers.id", **changes: Any) -> dict[str, Any]:
    parent, _, _ = field.partition(".")
    path = f"/v1/{parent}/{{resources.{field}}}/{name}"
    endpoint = {**SINGLE, "path": path, **changes.pop("endpoint", {})}
    return resource(name, **{"include_from_parent": ["id"], "endpoint": endpoint, **changes})


def made(*children: dict[str, Any], **parent: Any) -> Connection:
    return connection(resource("customers", **{"endpoint": SINGLE, **parent}), *children or (child("devices"),))


class Bench:
    """Loads resources of a connection as one run or several do."""

    def __init__(self, api: Api, store: Store, url: str) -> None:
        self.api, self.store, self.url = api, store, url
        self.shared = Shared()

    def load(self, made: Connection, *names: str, run_id: str = "run 1") -> list[Outcome]:
        """Loads resources one after the other, as the steps of one run in one process."""
        outcomes = []
        for name in names:
            with open_run(
                made, made.resource(name), KEY, base_url=self.url, store=self.store, run_id=run_id, shared=self.shared
            ) as run:
                run.pipeline.drop()
                info = run.pipeline.run(run.source, refresh=run.refresh)  # type: ignore[arg-type]
                info.raise_on_failed_jobs()
                outcomes.append(run.finish(info))
        return outcomes

    def source(self, made: Connection, name: str = "devices", run_id: str = "run 1") -> str:
        """Loads a resource and returns where its parents were from."""
        [outcome] = self.load(made, name, run_id=run_id)
        return outcome.report.parents_from


@pytest.fixture
def bench(tmp_path: Path) -> Any:
    api = Api(customers(4))
    with Scripted(api) as server:
        yield Bench(api, store_in(tmp_path), server.url)


def test_four_children_of_300_parents_request_the_parents_once(bench: Bench) -> None:
    names = ("devices", "sites", "users", "patches")
    bench.api.customers = customers(300)
    [above, *below] = bench.load(made(*map(child, names)), "customers", *names)
    assert above.traffic.requests == 3  # two look for rows on another page
    assert [outcome.traffic.requests for outcome in below] == [300] * 4
    assert [outcome.report.parents_from for outcome in below] == [IN_TABLE] * 4
    assert "every one of 300 customers was read to the end; customers are from the table" in below[0].report.reason


def test_the_same_rows_are_loaded_from_parents_in_the_table(bench: Bench, tmp_path: Path) -> None:
    children = (child("devices", "customers.code", include_from_parent=["id", "on", "share"]), child("sites"))
    bench.api.customers = customers(3, on=True, share=1.5)
    target = made(*children)
    bench.load(target, "customers", "devices")
    rows = rows_of(tmp_path)
    [outcome] = bench.load(target, "devices", run_id="run 2")
    assert (outcome.rows_new, outcome.rows_changed, outcome.report.parents_from) == (0, 0, FROM_API)
    assert rows_of(tmp_path) == rows
    assert [row["_customers_id"] for row in rows] == [1, 1, 2, 2, 3, 3]


def test_parents_of_another_run_are_requested(bench: Bench) -> None:
    bench.load(made(), "customers")
    assert bench.source(made(), run_id="run 2") == FROM_API
    bench.load(made(), "customers", run_id="run 3")
    assert [bench.source(made(), run_id=f"run {number}") for number in (1, 3, 4)] == [IN_TABLE, IN_TABLE, FROM_API]


def test_children_alone_share_one_read_of_their_parent(bench: Bench, tmp_path: Path) -> None:
    target = made(child("devices"), child("sites"), child("printers", "sites.id"))
    sources = [outcome.report.parents_from for outcome in bench.load(target, "devices", "sites", "printers")]
    # Sites are in the table by then.
    assert sources == [FROM_API, SHARED, IN_TABLE]
    assert (bench.api.asked["/v1/customers"], len(rows_of(tmp_path, "printers"))) == (1, 16)
    assert bench.source(target, run_id="run 2") == FROM_API
    bench.shared = Shared()
    assert bench.source(target, run_id="run 2") == FROM_API
    assert bench.api.asked["/v1/customers"] == 3


def test_grandchildren_request_neither_their_parents_nor_theirs(bench: Bench, tmp_path: Path) -> None:
    target = made(child("sites"), child("printers", "sites.id", include_from_parent=["id", "_customers_id"]))
    outcomes = bench.load(target, "customers", "sites", "printers")
    assert [outcome.traffic.requests for outcome in outcomes] == [1, 4, 8]
    assert {row["_sites__customers_id"] for row in rows_of(tmp_path, "printers")} == {1, 2, 3, 4}


def test_parents_that_are_not_loaded_are_requested_for_grandparents_in_the_table(bench: Bench) -> None:
    target = made(child("sites"), child("printers", "sites.id"), child("phones", "sites.id"))
    [_, printers, phones] = bench.load(target, "customers", "printers", "phones")
    assert (printers.traffic.requests, printers.report.parents_from) == (4 + 8, FROM_API)
    assert (phones.traffic.requests, phones.report.parents_from) == (8, SHARED)


@pytest.mark.parametrize(
    ("parent", "rows"),
    [
        ({"columns": {"id": {"data_type": "text"}}}, customers(3)),
        ({"columns": {"code": {"data_type": "bigint"}}}, [{"id": 1, "code": "007"}, {"id": 2, "code": "8"}]),
        ({"columns": {"code": {"data_type": "timestamp"}}}, [{"id": 1, "code": "2026-01-01T00:00:00Z"}]),
        ({"columns": {"code": {"data_type": "timestamp", "unit": "s"}}}, [{"id": 1, "code": 1_700_000_000}]),
        ({"columns": {"code": {"data_type": "double"}}}, [{"id": 1, "code": 5}, {"id": 2, "code": 2.5}]),
        ({}, [{"id": 1, "code": 5}, {"id": 2, "code": "five"}]),
        ({}, [{"id": 1, "code": 5}, {"id": 2, "code": 2.5}]),
        ({}, [{"id": 1, "code": "2026-01-01T00:00:00Z"}]),
        ({"columns": {"code": {"data_type": "decimal"}}}, [{"id": 1, "code": "1.10"}]),
    ],
    ids=[
        "int as text",
        "text as int",
        "timestamp",
        "epoch",
        "int as float",
        "mixed",
        "int and float",
        "like a time",
        "decimal",
    ],
)
def test_values_that_the_table_holds_otherwise_are_requested(parent: Row, rows: list[Row], bench: Bench) -> None:
    target = made(child("devices", "customers.code"), **parent)
    bench.api.customers = rows
    bench.load(target, "customers")
    assert bench.source(target) == FROM_API
    sent = {unquote(path.split("/")[3]) for path in bench.api.asked if path.endswith("/devices")}
    assert sent == {str(row["code"]) for row in rows}


def test_a_type_that_an_earlier_run_gave_a_column_is_noticed(bench: Bench) -> None:
    target = made(child("devices", "customers.code"))
    bench.api.customers = [{"id": 1, "code": "x"}]
    bench.load(target, "customers", run_id="run 0")
    for run_id, code, source in (("run 1", 5, FROM_API), ("run 2", "y", IN_TABLE)):
        bench.api.customers = [{"id": 1, "code": code}]
        bench.load(target, "customers", run_id=run_id)
        assert bench.source(target, run_id=run_id) == source


@pytest.mark.parametrize("value", [None, "", [1]], ids=["null", "empty", "list"])
def test_a_parent_s_row_that_cannot_be_used_is_still_named(value: Any, bench: Bench) -> None:
    bench.api.customers = [*customers(2), {"id": 3, "code": value}]
    target = made(child("devices", "customers.code"))
    bench.load(target, "customers")
    with pytest.raises(Exception, match="customers id=3 is"):
        bench.load(target, "devices")


def test_a_parent_s_row_that_lacks_an_inherited_field_is_still_named(bench: Bench) -> None:
    bench.api.customers = [*customers(2, region="eu"), {"id": 3}]
    target = made(child("devices", include_from_parent=["id", "region"]))
    bench.load(target, "customers")
    with pytest.raises(Exception, match=r"`region` \(include_from_parent\) of customers id=3 is missing"):
        bench.load(target, "devices")


def test_nested_fields_are_taken_from_the_table(bench: Bench) -> None:
    bench.api.customers = [{"id": 1, "org": {"key": "a/b"}}, {"id": 2, "org": {"key": "c"}}]
    target = made(child("devices", "customers.org.key"))
    bench.load(target, "customers")
    assert bench.source(target) == IN_TABLE
    assert {path for path in bench.api.asked if "devices" in path} == {
        "/v1/customers/a%2Fb/devices", "/v1/customers/c/devices",
    }  # fmt: skip


def test_a_field_whose_column_another_field_shares_is_requested(bench: Bench) -> None:
    bench.api.customers = [{"id": 1, "org": {"key": "a"}, "org__key": "b"}]
    target = made(child("devices", "customers.org.key"))
    bench.load(target, "customers")
    bench.source(target)
    assert bench.api.asked["/v1/customers/a/devices"] == 1


def test_rows_that_are_gone_are_not_requested(bench: Bench, tmp_path: Path) -> None:
    target = made(child("devices"), max_absent_share=0.5)
    bench.load(target, "customers", "devices", run_id="run 0")
    bench.api.customers = customers(3)
    bench.api.asked.clear()
    [_, below] = bench.load(target, "customers", "devices")
    assert (absent(tmp_path, "customers"), below.report.parents, below.report.parents_from) == ({4}, 3, IN_TABLE)
    assert absent(tmp_path) == {"customers-4-0", "customers-4-1"}


@pytest.mark.parametrize("way", [{"max_absent_share": 0.1}, {"absent": "keep"}], ids=["held back", "kept"])
def test_rows_that_are_gone_but_not_marked_are_not_requested_either(way: Row, bench: Bench, tmp_path: Path) -> None:
    target = connection(resource("customers", endpoint=SINGLE, **way), child("devices", max_absent_share=1))
    bench.load(target, "customers", run_id="run 0")
    bench.api.customers = customers(3)
    try:
        bench.load(target, "customers")
    except Exception:  # the loss is suspicious
        assert "max_absent_share" in way
    [below] = bench.load(target, "devices")
    assert (below.report.parents, below.report.parents_from) == (3, FROM_API)
    assert len(rows_of(tmp_path, "customers")) == 4


@pytest.mark.parametrize("way", [{"history": True}, {"write_disposition": "append"}, {"write_disposition": "replace"}])
def test_versions_and_copies_of_a_row_are_one_parent(way: Row, bench: Bench) -> None:
    target = made(child("devices", "customers.code"), max_absent_share=1, **way)
    bench.load(target, "customers", run_id="run 0")
    bench.api.customers = [{"id": 1, "code": "c1", "name": "new"}, {"id": 2, "code": "other"}]
    [_, below] = bench.load(target, "customers", "devices")
    assert below.report.parents == 2
    assert below.report.parents_from == (FROM_API if way.get("write_disposition") == "append" else IN_TABLE)
    assert bench.api.asked["/v1/customers/other/devices"] == 1


@pytest.mark.parametrize("names", [("customers", "devices"), ("sites", "devices")], ids=["in the table", "shared"])
def test_a_partial_read_of_parents_is_not_taken_for_all(names: tuple[str, str], bench: Bench) -> None:
    def pages(seen: Seen) -> Say:
        path, _, query = seen.target.partition("?")
        start = int(dict(pair.split("=") for pair in query.split("&")).get("offset", 0))
        return (
            Say({"data": customers(6)[start : start + 2]}) if path == "/v1/customers" else Say({"data": [{"id": path}]})
        )

    paginator = {"type": "offset", "limit": 2, "maximum_offset": 4}
    with Scripted(pages) as server:
        bench.url = server.url
        target = made(child("devices"), child("sites"), endpoint={"paginator": paginator})
        for outcome in bench.load(target, *names):
            assert outcome.report.partial
            assert outcome.report.parents_from != IN_TABLE


@pytest.mark.parametrize("names", [("customers", "devices"), ("users", "devices")], ids=["in the table", "shared"])
def test_parents_that_were_not_proven_complete_are_requested(names: tuple[str, str], bench: Bench) -> None:
    bench.api.broken["/v1/customers"] = Say({"data": customers(3), "total": 4})
    children = (child(name, on_incomplete="warn") for name in ("devices", "users"))
    target = made(*children, child("sites"), on_incomplete="warn", total_path="total")
    for outcome in bench.load(target, *names):
        assert not outcome.report.complete
        assert outcome.report.parents_from in ("", FROM_API)
    with pytest.raises(Exception, match="customers"):
        bench.load(target, "sites")


def test_parents_of_which_one_is_rejected_are_requested(bench: Bench) -> None:
    bench.api.customers = [*customers(2), {"code": "no id"}]
    bench.load(made(), "customers")
    with pytest.raises(Exception, match="1 rows of customers have no key"):
        bench.load(made(), "devices")
    bench.api.customers = [*customers(2, size=1), {"id": 3, "size": "large"}]
    target = made(columns={"size": {"data_type": "bigint"}}, max_absent_share=1)
    [above, below] = bench.load(target, "customers", "devices", run_id="run 2")
    assert (above.rows_rejected, below.report.parents, below.report.parents_from) == (1, 3, FROM_API)


def test_parents_of_a_range_are_requested(bench: Bench) -> None:
    since = {"cursor_path": "at", "initial_value": "2026-01-01", "start_param": "since"}
    target = made(endpoint={**SINGLE, "incremental": since})
    bench.api.customers = customers(3, at="2026-02-01")
    bench.load(target, "customers")
    assert bench.source(target) == FROM_API


def test_parents_whose_load_failed_in_this_run_are_requested(bench: Bench) -> None:
    bench.load(made(), "customers")
    bench.api.broken["/v1/customers"] = Say({"error": "no"}, 401)
    with pytest.raises(Exception, match="HTTP 401"):
        bench.load(made(), "customers")
    with pytest.raises(Exception, match="HTTP 401"):
        bench.load(made(), "devices")


def test_parents_that_somebody_changed_meanwhile_are_requested(bench: Bench, tmp_path: Path) -> None:
    for number, change in enumerate(
        ("UPDATE acme.customers SET code = 'x' WHERE id = 1", "DELETE FROM acme.customers WHERE id = 1",
         "INSERT INTO acme.customers (id, code, _dlt_load_id) VALUES (9, 'c9', '1')", "DROP TABLE acme.customers")
    ):  # fmt: skip
        run_id, target = f"run {number}", made(child("devices", "customers.code"))
        bench.load(target, "customers", run_id=run_id)
        with duckdb.connect(str(tmp_path / "rmm.duckdb")) as client:
            client.execute(change)
        [below] = bench.load(target, "devices", run_id=run_id)
        assert (below.report.parents, below.report.parents_from) == (4, FROM_API)


def test_a_parent_whose_own_parent_is_refused_does_not_mark_its_children(bench: Bench, tmp_path: Path) -> None:
    target = made(child("sites", max_absent_share=1), child("printers", "sites.id", max_absent_share=1))
    bench.load(target, "customers", "sites", "printers", run_id="run 0")
    bench.api.broken["/v1/customers/2/sites"] = Say({"error": "no"}, 403)
    [_, sites, printers] = bench.load(target, "customers", "sites", "printers")
    assert (sites.report.parents_from, printers.report.parents_from) == (IN_TABLE, FROM_API)
    assert "sites: 3 of 4 customers were read to the end" in printers.report.reason
    assert absent(tmp_path, "sites") == absent(tmp_path, "printers") == set()
    # The first load, too, may not know all sites.
    bench.store = store_in(tmp_path / "other")
    [_, sites, printers] = bench.load(target, "customers", "sites", "printers")
    assert printers.report.parents_from == FROM_API


def test_a_shared_read_knows_which_parents_could_not_be_read(bench: Bench, tmp_path: Path) -> None:
    below = (child(name, "sites.id", max_absent_share=1) for name in ("printers", "phones"))
    target = made(child("sites"), *below)
    bench.load(target, "customers", "printers", "phones", run_id="run 0")
    bench.api.broken["/v1/customers/2/sites"] = Say({"error": "no"}, 403)
    bench.load(target, "customers", "printers", "phones")
    assert absent(tmp_path, "printers") == absent(tmp_path, "phones") == set()


@pytest.mark.parametrize("kind", ["postgres", "sqlite", "delta"])
def test_it_holds_for_each_destination(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    store, way = store_at(kind, tmp_path, request), table_format(kind)
    fields = ["id", "on", "share"] if kind == "postgres" else ["id", "share"]
    children = (child("devices", "customers.code", include_from_parent=fields, **way), child("sites", **way))
    target = connection(
        resource("customers", endpoint=SINGLE, **way), *children, destination={"type": store.destination}
    )
    api = Api(customers(3, on=True, share=0.1))
    with Scripted(api) as server:
        bench = Bench(api, store, server.url)
        outcomes = bench.load(target, "customers", "devices", "sites")
        again = bench.load(target, "customers", "devices", "sites", run_id="run 2")
    sources = [outcome.report.parents_from for outcome in outcomes[1:]]
    # Files have no `rmm_syncs`.
    assert sources == ([FROM_API, SHARED] if kind == "delta" else [IN_TABLE, IN_TABLE])
    assert [outcome.row_count for outcome in outcomes] == [3, 6, 6]
    assert [(outcome.rows_new, outcome.rows_changed) for outcome in again] == [(0, 0)] * 3


def test_booleans_that_a_destination_returns_as_numbers_are_requested(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    target = into(
        "sqlalchemy", resource("customers", endpoint=SINGLE), child("devices", include_from_parent=["id", "on"])
    )
    api = Api(customers(3, on=True))
    with Scripted(api) as server:
        bench = Bench(api, store_at("sqlite", tmp_path, request), server.url)
        assert [outcome.report.parents_from for outcome in bench.load(target, "customers", "devices")] == ["", FROM_API]


def test_a_child_that_fails_leaves_what_it_has_read_to_the_next(bench: Bench) -> None:
    target = made(child("devices"), child("sites"))
    bench.api.broken["/v1/customers/3/devices"] = Say({"error": "no"}, 401)
    with pytest.raises(Exception, match="HTTP 401") as caught:
        bench.load(target, "devices")
    assert not isinstance(caught.value, RmmError)
    assert bench.source(target, "sites") == SHARED
    assert ids(rows_of(bench.store.work.parent, "sites"))[:1] == ["customers-1-0"]

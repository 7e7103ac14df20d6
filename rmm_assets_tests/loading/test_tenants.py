"""Tests that tenants land in the same tables, each by itself: one's failure, loss or absence never concerns another's rows."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest

from rmm_assets.config import Connection
from rmm_assets.errors import PublishedError, TenantError
from rmm_assets.http.auth import Secret, hidden
from rmm_assets.loading.outcome import Outcome
from rmm_assets.loading.retry import Retried, retry_rejected
from rmm_assets.loading.run import open_run, sync
from rmm_assets.loading.tenants import Access, Batch, tenants_of
from rmm_assets.simulator import Simulator
from rmm_assets.tables.store import Store
from rmm_assets.tables.syncs import latest_of_tenants
from rmm_assets.tables.table import Table
from rmm_assets_tests.audit.auditing import tamper
from rmm_assets_tests.customers import NORTH, SOUTH, WEST, Customers, key_of
from rmm_assets_tests.http.servers import Say, Scripted, Seen
from rmm_assets_tests.syncing import Row, connection, devices, resource, rows_of, run, store_in

pytestmark = pytest.mark.slow


def secrets(made: Connection) -> Secret:
    assert made.api_key is not None and made.api_key.env is not None
    return hidden(key_of(made.api_key.env.removeprefix("MSP_").removesuffix("_KEY").lower().replace("north_1", NORTH)))


@pytest.fixture
def customers() -> Iterator[Customers]:
    with Customers() as found:
        yield found


def msp(url: str, *resources: Mapping[str, Any], **tenants: Any) -> Connection:
    return connection(
        *resources,
        client={
            "base_url": url + "/{settings.path}",
            "auth": {"type": "api_key", "name": "api_key", "location": "query"},
        },
        api_key={"env": "MSP_{tenant}_KEY"},
        tenants={"list": [{"name": name, "settings": {"path": name}} for name in (NORTH, SOUTH, WEST)], **tenants},
    )


def load(
    folder: Path, made: Connection, *names: str, name: str = "devices", listed: datetime | None = None, unsure: str = ""
) -> Outcome:  # fmt: skip
    everybody = tenants_of(made, store_in(folder)).tenants
    accesses = [Access(tenant, secrets) for tenant in everybody if not names or tenant.name in names]
    batch = Batch(accesses, [tenant.name for tenant in everybody], listed or datetime.now(UTC), unsure)
    return run(folder, "", made, name, tenants=batch)


def held(folder: Path, name: str = "devices") -> dict[tuple[str, int], bool]:
    """Returns the keys in the table, and whether each row is marked absent."""
    return {(row["tenant"], row["id"]): row.get("_absent_since") is not None for row in rows_of(folder, name, own=True)}


def test_rows_of_all_tenants_are_in_one_table_each_with_its_own_key(customers: Customers, tmp_path: Path) -> None:
    customers.devices = {NORTH: devices(250), SOUTH: devices(3), WEST: []}
    outcome = load(tmp_path, msp(customers.server.url))
    assert outcome.report.complete
    assert held(tmp_path) == {(NORTH, i): False for i in range(1, 251)} | {(SOUTH, i): False for i in (1, 2, 3)}
    assert {(t.tenant, t.row_count, t.rows_written, t.rows_new, t.error) for t in outcome.tenants} == {
        (NORTH, 250, 250, 250, ""),
        (SOUTH, 3, 3, 3, ""),
        (WEST, 0, 0, 0, ""),
    }
    assert [row["name"] for row in rows_of(tmp_path) if row["tenant"] == SOUTH] == ["PC-0001", "PC-0002", "PC-0003"]
    assert outcome.traffic.requests == sum(t.traffic.requests for t in outcome.tenants) > 3
    with store_in(tmp_path).reading("test") as client:
        syncs = {sync.tenant: sync for sync in latest_of_tenants(client)}
    assert {name: (sync.verdict, sync.row_count, sync.rows_received) for name, sync in syncs.items()} == {
        NORTH: ("loaded", 250, 250),
        SOUTH: ("loaded", 3, 3),
        WEST: ("loaded", 0, 0),
    }


def test_a_tenant_that_fails_leaves_its_rows_and_those_of_the_others_as_they_should_be(
    customers: Customers, tmp_path: Path
) -> None:
    made = msp(customers.server.url)
    customers.devices = {NORTH: devices(5), SOUTH: devices(5), WEST: devices(5)}
    load(tmp_path, made)
    customers.devices = {
        NORTH: [*devices(3, status="offline"), *devices(1, 4), *devices(1, 6)],
        SOUTH: devices(1),
        WEST: devices(9),
    }
    customers.fails = {SOUTH: 403}
    outcome = load(tmp_path, made, NORTH, SOUTH)
    assert held(tmp_path) == {
        **{(NORTH, i): i == 5 for i in range(1, 7)},
        **{(name, i): False for name in (SOUTH, WEST) for i in range(1, 6)},
    }
    found = {tenant.tenant: tenant for tenant in outcome.tenants}
    assert found.keys() == {NORTH, SOUTH}
    # Neither South's rows nor West's, which the run was not about, are missing.
    assert (outcome.absences.gone, outcome.absences.held_back) == (1, "")
    north = found[NORTH]
    assert (north.rows_written, north.rows_new, north.rows_absent, north.row_count) == (4, 1, 1, 6)
    assert "403" in found[SOUTH].error and key_of(SOUTH) not in found[SOUTH].error
    with store_in(tmp_path).reading("test") as client:
        syncs = {sync.tenant: sync for sync in latest_of_tenants(client)}
    assert {name: sync.verdict for name, sync in syncs.items()} == {NORTH: "loaded", SOUTH: "failed", WEST: "loaded"}
    assert "403" in syncs[SOUTH].error and syncs[SOUTH].row_count is None
    assert (syncs[NORTH].rows_new, syncs[NORTH].rows_changed, syncs[NORTH].rows_absent) == (1, 3, 1)


def test_a_run_is_red_if_every_tenant_fails(customers: Customers, tmp_path: Path) -> None:
    made = msp(customers.server.url)
    customers.devices = dict.fromkeys((NORTH, SOUTH, WEST), devices(5))
    load(tmp_path, made)
    customers.fails = dict.fromkeys((NORTH, SOUTH), 403)
    with pytest.raises(TenantError, match=r"tenant north-1: .*403.*; 1 more tenants failed"):
        load(tmp_path, made, NORTH, SOUTH)
    assert set(held(tmp_path).values()) == {False}


def test_a_run_that_fails_before_it_reads_is_recorded_for_each_of_its_tenants(
    customers: Customers, tmp_path: Path
) -> None:
    made = msp(customers.server.url)
    customers.devices = dict.fromkeys((NORTH, SOUTH, WEST), devices(2))
    load(tmp_path, made)
    other = Connection.model_validate({**made._written, "name": "other"})
    with pytest.raises(Exception, match="was loaded as acme__devices"):
        load(tmp_path, other, NORTH, SOUTH)
    with store_in(tmp_path).reading("test") as client:
        syncs = {sync.tenant: sync for sync in latest_of_tenants(client)}
    assert {name: sync.verdict for name, sync in syncs.items()} == {NORTH: "failed", SOUTH: "failed", WEST: "loaded"}
    assert all("was loaded as" in syncs[name].error for name in (NORTH, SOUTH))


def test_a_sudden_loss_is_that_of_one_tenant(customers: Customers, tmp_path: Path) -> None:
    """South's rows are a small part of all, so that all of them could go unnoticed."""
    made = msp(customers.server.url)
    customers.devices = {NORTH: devices(200), SOUTH: devices(8), WEST: devices(8)}
    load(tmp_path, made)
    customers.devices |= {SOUTH: [], WEST: devices(6)}
    outcome = load(tmp_path, made)
    errors = {tenant.tenant: tenant.error for tenant in outcome.tenants}
    assert "the API sent 0 rows but the last read had 8" in errors[SOUTH]
    assert (errors[NORTH], errors[WEST]) == ("", "")
    assert {key for key, gone in held(tmp_path).items() if gone} == {(WEST, 7), (WEST, 8)}


def test_more_absences_than_allowed_are_held_back_for_that_tenant(customers: Customers, tmp_path: Path) -> None:
    """As many rows came as before, so it is no loss, but they are others."""
    made = msp(customers.server.url)
    customers.devices = {NORTH: devices(100), SOUTH: devices(10), WEST: devices(2)}
    load(tmp_path, made)
    customers.devices |= {SOUTH: devices(10, 101), NORTH: devices(99)}
    outcome = load(tmp_path, made)
    assert {key for key, gone in held(tmp_path).items() if gone} == {(NORTH, 100)}
    found = {tenant.tenant: tenant for tenant in outcome.tenants}
    assert (found[SOUTH].rows_absent, bool(found[SOUTH].held_back), found[SOUTH].rows_new) == (10, True, 10)
    assert (found[NORTH].rows_absent, found[NORTH].held_back) == (1, "")
    assert outcome.absences.gone == 11 and outcome.absences.held_back


def test_rows_that_share_a_key_and_differ_concern_one_tenant(customers: Customers, tmp_path: Path) -> None:
    customers.devices = {NORTH: devices(3), SOUTH: [*devices(2), *devices(1, status="broken")], WEST: devices(3)}
    for _ in range(2):
        outcome = load(tmp_path, msp(customers.server.url))
        errors = {tenant.tenant: tenant.error for tenant in outcome.tenants if tenant.error}
        assert errors.keys() == {SOUTH} and "id=1" in errors[SOUTH] and "status" in errors[SOUTH]
    assert {tenant for tenant, _ in held(tmp_path)} == {NORTH, WEST}


def test_an_incomplete_read_concerns_one_tenant(customers: Customers, tmp_path: Path) -> None:
    customers.devices = dict.fromkeys((NORTH, SOUTH, WEST), devices(150))
    made = msp(customers.server.url)
    answer = customers.answer

    def one_row_short(seen: Seen) -> Say:
        said = answer(seen)
        if f"/{SOUTH}/" in seen.target and said.status == 200:
            return Say({"data": [row for row in said.body["data"] if row["id"] != 120], "total": said.body["total"]})
        return said

    with Scripted(one_row_short) as server:
        made = msp(server.url)
        errors = {tenant.tenant: tenant.error for tenant in load(tmp_path, made).tenants if tenant.error}
        assert errors.keys() == {SOUTH}
        warned = msp(server.url, resource(on_incomplete="warn"))
        outcome = load(tmp_path, warned)
        customers.devices[SOUTH] = devices(140)
        load(tmp_path, warned)
    assert not [tenant.error for tenant in outcome.tenants if tenant.error]
    # What an incomplete read lacks is not gone.
    assert {id for tenant, id in held(tmp_path) if tenant == SOUTH} == {*range(1, 151)} - {120}
    assert not any(held(tmp_path).values())


def test_children_of_parents_that_cannot_be_read_are_those_of_one_tenant(customers: Customers, tmp_path: Path) -> None:
    parts = resource(
        "parts", primary_key=["_devices_id", "id"], include_from_parent=["id"],
        endpoint={
            "path": "/v1/devices/{resources.devices.id}", "response_actions": [{"status_code": 403, "action": "ignore"}]
        },
    )  # fmt: skip
    customers.devices = {NORTH: devices(2), SOUTH: devices(2), WEST: []}
    customers.parts = {name: {1: devices(6), 2: devices(3)} for name in (NORTH, SOUTH)}
    answer, refused = customers.answer, [""]

    def refusing(seen: Seen) -> Say:
        return Say({"error": "no"}, status=403) if refused[0] and refused[0] in seen.target else answer(seen)

    with Scripted(refusing) as server:
        made = msp(server.url, resource(), parts)
        load(tmp_path, made, name="parts")
        refused[0] = f"/{SOUTH}/v1/devices/2"
        customers.parts = {NORTH: {1: devices(5), 2: devices(3)}, SOUTH: {1: devices(5), 2: []}}
        load(tmp_path, made, name="parts")
    rows = {
        (row["tenant"], row["_devices_id"], row["id"]): row["_absent_since"] is not None
        for row in rows_of(tmp_path, "parts", own=True)
    }
    assert rows == {
        (name, device, part): (device, part) == (1, 6)
        for name in (NORTH, SOUTH)
        for device, parts in ((1, 6), (2, 3))
        for part in range(1, parts + 1)
    }


def test_a_key_is_only_sent_to_its_own_tenants_address(tmp_path: Path) -> None:
    sent: dict[str, set[str]] = {NORTH: set(), SOUTH: set()}

    def answering(name: str) -> Scripted:
        def answer(seen: Seen) -> Say:
            sent[name].add(dict(parse_qsl(urlsplit(seen.target).query))["api_key"])
            return Say({"data": devices(2), "total": 2})

        return Scripted(answer)

    with answering(NORTH) as north, answering(SOUTH) as south:
        made = connection(
            client={
                "base_url": "{settings.url}",
                "auth": {"type": "api_key", "name": "api_key", "location": "query"},
            },
            api_key={"env": "MSP_{tenant}_KEY"},
            tenants=[{"name": NORTH, "settings": {"url": north.url}}, {"name": SOUTH, "settings": {"url": south.url}}],
        )
        load(tmp_path, made)
    assert sent == {NORTH: {key_of(NORTH)}, SOUTH: {key_of(SOUTH)}}
    assert {path.name for path in (tmp_path / "work/pace/acme").iterdir()} == {
        f"127.0.0.1.{url.rsplit(':', 1)[1]}" for url in (north.url, south.url)
    }


def test_a_tenant_without_a_secret_or_a_setting_fails_alone(customers: Customers, tmp_path: Path) -> None:
    customers.devices = dict.fromkeys((NORTH, SOUTH, WEST), devices(2))
    made = msp(customers.server.url, list=[{"name": NORTH, "settings": {"path": NORTH}}, {"name": SOUTH},
                                           {"name": WEST, "settings": {"path": WEST}}])  # fmt: skip

    def some(tenant: Connection) -> Secret:
        found = secrets(tenant)
        if "WEST" in str(tenant.api_key):
            raise TenantError("No API key: set the environment variable MSP_WEST_KEY")
        return found

    batch = Batch(
        [Access(tenant, some) for tenant in tenants_of(made, store_in(tmp_path)).tenants], [], datetime.now(UTC)
    )
    outcome = run(tmp_path, "", made, tenants=batch)
    errors = {tenant.tenant: tenant.error for tenant in outcome.tenants if tenant.error}
    assert errors.keys() == {SOUTH, WEST}
    assert errors[SOUTH].startswith("client.base_url: unknown setting `path`")
    assert errors[WEST] == "No API key: set the environment variable MSP_WEST_KEY"
    assert {tenant for tenant, _ in held(tmp_path)} == {NORTH}


def test_rows_with_a_field_of_that_name_are_refused(customers: Customers, tmp_path: Path) -> None:
    customers.devices = {NORTH: devices(2, Tenant="x"), SOUTH: devices(2), WEST: devices(2)}
    errors = {t.tenant: t.error for t in load(tmp_path, msp(customers.server.url)).tenants if t.error}
    assert errors.keys() == {NORTH} and "`column: ...`" in errors[NORTH]
    other = tmp_path / "other"
    other.mkdir()
    assert load(other, msp(customers.server.url, column="customer")).row_count == 6
    assert {(row["customer"], row.get("tenant")) for row in rows_of(other)} == {
        (NORTH, "x"),
        (SOUTH, None),
        (WEST, None),
    }


@pytest.mark.parametrize("gone", ["keep", "mark"])
def test_rows_of_tenants_that_are_gone_stay_or_are_marked(customers: Customers, tmp_path: Path, gone: str) -> None:
    customers.devices = dict.fromkeys((NORTH, SOUTH, WEST), devices(2))
    everybody = [{"name": name, "settings": {"path": name}} for name in (NORTH, SOUTH, WEST)]
    load(tmp_path, msp(customers.server.url, list=everybody, gone=gone))
    # A list that has lost most of its tenants is a mistake.
    outcome = load(tmp_path, msp(customers.server.url, list=everybody[:1], gone=gone), NORTH)
    assert not any(held(tmp_path).values())
    assert any("2 of 3 tenants are gone" in said for said in outcome.report.warnings) == (gone == "mark")
    outcome = load(tmp_path, msp(customers.server.url, list=everybody[:2], gone=gone), SOUTH)
    assert any("marked the rows of tenants that are gone: west" in said for said in outcome.report.warnings) == (
        gone == "mark"
    )
    assert {tenant for (tenant, _), absent in held(tmp_path).items() if absent} == ({WEST} if gone == "mark" else set())
    if gone == "mark":
        load(tmp_path, msp(customers.server.url, list=everybody, gone=gone))
        assert not any(held(tmp_path).values())


def test_a_tenant_that_came_after_the_list_was_read_is_not_gone(customers: Customers, tmp_path: Path) -> None:
    customers.devices = dict.fromkeys((NORTH, SOUTH, WEST), devices(2))
    everybody = [{"name": name, "settings": {"path": name}} for name in (NORTH, SOUTH, WEST)]
    load(tmp_path, msp(customers.server.url, list=everybody[:2], gone="mark"))
    listed = datetime.now(UTC)
    # Another run reads the list later and lands first.
    load(tmp_path, msp(customers.server.url, list=everybody, gone="mark"), WEST)
    load(tmp_path, msp(customers.server.url, list=everybody[:2], gone="mark"), NORTH, listed=listed)
    assert not any(held(tmp_path).values())
    load(tmp_path, msp(customers.server.url, list=everybody[:2], gone="mark"), NORTH)
    assert {tenant for (tenant, _), absent in held(tmp_path).items() if absent} == {WEST}


def test_no_tenant_is_gone_that_an_uncertain_list_lacks(customers: Customers, tmp_path: Path) -> None:
    customers.devices = dict.fromkeys((NORTH, SOUTH, WEST), devices(2))
    everybody = [{"name": name, "settings": {"path": name}} for name in (NORTH, SOUTH, WEST)]
    load(tmp_path, msp(customers.server.url, list=everybody, gone="mark"))
    two = msp(customers.server.url, list=everybody[:2], gone="mark")
    outcome = load(tmp_path, two, NORTH, unsure="customers: its last load is not proven complete")
    assert not any(held(tmp_path).values())
    assert any("not proven complete" in said for said in outcome.report.warnings)


def test_rejected_rows_name_their_tenant(customers: Customers, tmp_path: Path) -> None:
    customers.devices = {NORTH: [*devices(2), {"name": "no id"}], SOUTH: devices(2), WEST: []}
    outcome = load(tmp_path, msp(customers.server.url))
    assert outcome.rows_rejected == 1
    [rejected] = rows_of(tmp_path, "devices_rejected")
    assert '"tenant":"north-1"' in rejected["row_json"].replace(" ", "")


def test_tenants_may_have_other_types_and_columns(customers: Customers, tmp_path: Path) -> None:
    customers.devices = {NORTH: devices(2, n=5), SOUTH: devices(2, n="five"), WEST: devices(2, extra={"x": 1})}
    made = msp(customers.server.url)
    for _ in range(2):
        load(tmp_path, made)
        rows = {(row["tenant"], row["id"]): row for row in rows_of(tmp_path)}
        assert {str(rows[name, 1]["n"]) for name in (NORTH, SOUTH)} == {"5", "five"}
        assert (rows[WEST, 2]["n"], rows[WEST, 2]["extra__x"]) == (None, 1)
    assert [tenant.rows_written for tenant in load(tmp_path, made).tenants] == [0, 0, 0]


def ranged(**changes: Any) -> dict[str, Any]:
    """Returns a resource that is read from the last change on."""
    incremental = {"cursor_path": "changed", "start_param": "since", "initial_value": "2026-01-01T00:00:00Z", **changes}
    return resource(endpoint={"incremental": incremental})


def at(minute: int, *ids: int) -> list[Row]:
    return [{"id": i, "changed": f"2026-01-02T00:{minute:02}:00Z"} for i in ids]


def test_each_tenant_is_read_from_where_its_last_read_ended(tmp_path: Path) -> None:
    rows = {NORTH: at(1, 1, 2), SOUTH: at(30, 1, 2), WEST: at(5, 1)}
    asked: dict[str, list[str]] = {NORTH: [], SOUTH: [], WEST: []}
    fails: set[str] = set()

    def answer(seen: Seen) -> Say:
        url = urlsplit(seen.target)
        customer, since = url.path.split("/")[1], dict(parse_qsl(url.query))["since"]
        if customer in fails:
            return Say({}, status=403)
        if "offset=0" in url.query:
            asked[customer].append(since)
        found = [row for row in rows[customer] if row["changed"] >= since]
        return Say({"data": found, "total": len(found)})

    with Scripted(answer) as server:
        made = msp(server.url, ranged())
        load(tmp_path, made)
        rows[NORTH] = [*rows[NORTH], *at(10, 3)]
        rows[SOUTH] = [*rows[SOUTH], *at(40, 3)]
        fails.add(SOUTH)
        load(tmp_path, made)
        fails.clear()
        rows[NORTH] = rows[NORTH][1:]
        outcome = load(tmp_path, made)
    starts = {name: [since[8:10] + since[14:16] for since in found] for name, found in asked.items()}
    # Each range starts five minutes before the newest row. A read that failed does not move it, nor does another tenant's.
    assert starts == {NORTH: ["0100", "0156", "0205"], SOUTH: ["0100", "0225"], WEST: ["0100", "0200", "0200"]}
    # A range does not show which rows are gone.
    assert held(tmp_path) == {(name, i): False for name in (NORTH, SOUTH) for i in (1, 2, 3)} | {(WEST, 1): False}
    found = {tenant.tenant: tenant for tenant in outcome.tenants}
    assert (found[SOUTH].rows_new, found[NORTH].rows_new, outcome.absences.gone) == (1, 0, 0)


def changes_of(rows: Mapping[str, Sequence[Row]]) -> Callable[[Seen], Say]:
    """Returns an API of tenants that sends the rows which have changed since a time."""

    def answer(seen: Seen) -> Say:
        url = urlsplit(seen.target)
        since = dict(parse_qsl(url.query)).get("since", "")
        found = [row for row in rows[url.path.split("/")[1]] if row["changed"] >= since]
        return Say({"data": found, "total": len(found)})

    return answer


def test_each_tenant_is_read_in_full_when_that_is_due(tmp_path: Path) -> None:
    rows = {NORTH: at(1, 1, 2, 3), SOUTH: at(1, 1, 2, 3), WEST: at(1, 1)}

    with Scripted(changes_of(rows)) as server:
        made = msp(server.url, ranged(full_every="1d"))
        load(tmp_path, made)
        rows[NORTH], rows[SOUTH] = rows[NORTH][1:], rows[SOUTH][1:]
        load(tmp_path, made)
        assert not any(held(tmp_path).values())
        # North's last full read becomes an old one.
        with store_in(tmp_path).changing("test") as client:
            Table(client, "rmm_syncs").change(
                "UPDATE {table} SET last_full_read = %s WHERE tenant = %s", datetime.now(UTC) - timedelta(days=2), NORTH
            )
        load(tmp_path, made)
    assert {key for key, gone in held(tmp_path).items() if gone} == {(NORTH, 1)}
    with store_in(tmp_path).reading("test") as client:
        full = {sync.tenant: sync.last_full_read for sync in latest_of_tenants(client)}
    assert all(full.values()) and full[NORTH] > full[SOUTH]  # type: ignore[operator]


def test_a_row_without_a_cursor_concerns_one_tenant(customers: Customers, tmp_path: Path) -> None:
    customers.devices = {NORTH: at(1, 1, 2), SOUTH: [*at(1, 1), {"id": 2}], WEST: at(1, 1)}
    outcome = load(tmp_path, msp(customers.server.url, ranged()))
    errors = {tenant.tenant: tenant.error for tenant in outcome.tenants if tenant.error}
    assert errors.keys() == {SOUTH} and "a row has no value at `changed`" in errors[SOUTH]
    assert {tenant for tenant, _ in held(tmp_path)} == {NORTH, WEST}


REPLACED: dict[str, dict[str, Any]] = {
    "key": {},
    "no key": {"primary_key": None},
    "child tables": {"child_tables": True},
    "dlt's normalizer": {"normalizer": "dlt"},
}


def replaced(**more: Any) -> dict[str, Any]:
    return resource(**{"write_disposition": "replace", "max_absent_share": 1.0, **more})


@pytest.mark.parametrize("way", REPLACED)
def test_replace_replaces_the_rows_of_the_tenants_that_were_read(
    customers: Customers, tmp_path: Path, way: str
) -> None:
    made = msp(customers.server.url, replaced(**REPLACED[way]))

    def lists(number: int, first: int = 1, tag: str = "a") -> list[Row]:
        return [{**row, "tags": [tag, str(row["id"])]} for row in devices(number, first)]

    customers.devices = dict.fromkeys((NORTH, SOUTH, WEST), lists(5))
    load(tmp_path, made)
    customers.devices = {NORTH: lists(3, 4, "b"), SOUTH: lists(1), WEST: lists(9)}
    customers.fails = {SOUTH: 403}
    outcome = load(tmp_path, made, NORTH, SOUTH)
    first = dict.fromkeys(((name, id) for name in (SOUTH, WEST) for id in range(1, 6)), False)
    assert held(tmp_path) == first | dict.fromkeys([(NORTH, 4), (NORTH, 5), (NORTH, 6)], False)
    assert len(rows_of(tmp_path)) == 13
    found = {tenant.tenant: tenant for tenant in outcome.tenants}
    assert (found[NORTH].row_count, found[NORTH].rows_written, found[NORTH].rows_new) == (3, 3, 3)
    assert "403" in found[SOUTH].error
    if way == "child tables":
        assert sorted(row["value"] for row in rows_of(tmp_path, "devices__tags")) == sorted(
            ["b", "4", "b", "5", "b", "6", *2 * ["a", "1", "a", "2", "a", "3", "a", "4", "a", "5"]]
        )
    # What a tenant had is gone when it has nothing.
    customers.devices, customers.fails = {NORTH: [], SOUTH: [], WEST: []}, {}
    load(tmp_path, made, NORTH)
    assert held(tmp_path) == first
    if way == "child tables":
        assert len(rows_of(tmp_path, "devices__tags")) == 20


def test_a_merge_after_replace_deletes_nothing(customers: Customers, tmp_path: Path) -> None:
    customers.devices = dict.fromkeys((NORTH, SOUTH, WEST), devices(5))
    load(tmp_path, msp(customers.server.url, replaced()))
    merged = {"disposition": "merge", "strategy": "delete-insert"}
    customers.devices = dict.fromkeys((NORTH, SOUTH, WEST), devices(1, 6))
    load(tmp_path, msp(customers.server.url, replaced(write_disposition=merged, absent="keep")))
    assert len(held(tmp_path)) == 18


def test_a_loss_of_rows_that_are_replaced_is_that_of_one_tenant(customers: Customers, tmp_path: Path) -> None:
    for key in ("id", None):
        folder = tmp_path / str(key)
        folder.mkdir()
        made = msp(customers.server.url, resource(write_disposition="replace", primary_key=key))
        customers.devices = {NORTH: devices(90), SOUTH: devices(8), WEST: devices(8)}
        load(folder, made)
        customers.devices |= {SOUTH: [], WEST: devices(6)}
        errors = {tenant.tenant: tenant.error for tenant in load(folder, made).tenants}
        assert "the API sent 0 rows but the last read had 8" in errors[SOUTH]
        assert (errors[NORTH], errors[WEST]) == ("", "")
        assert len(rows_of(folder)) == 104


@pytest.mark.parametrize("kind", ["duckdb", pytest.param("postgres", marks=pytest.mark.slow)])
def test_replacing_is_one_transaction(
    customers: Customers, tmp_path: Path, kind: str, request: pytest.FixtureRequest
) -> None:
    store = store_in(tmp_path)
    if kind == "postgres":
        store = Store(kind, request.getfixturevalue("postgres"), "acme", tmp_path / "work")
    made = msp(customers.server.url, replaced())
    everybody = tenants_of(made, store).tenants
    batch = Batch(
        [Access(tenant, secrets) for tenant in everybody if tenant.name != WEST],
        [NORTH, SOUTH, WEST],
        datetime.now(UTC),
    )

    def rows() -> list[tuple[Any, ...]]:
        with store.reading("test") as client:
            found = Table(client, "devices").rows("SELECT tenant, id, name FROM {table}")
        return sorted(map(tuple, found))

    def synced() -> None:
        sync(made, made.resource("devices"), store=store, tenants=batch)

    customers.devices = {NORTH: devices(3), SOUTH: devices(2), WEST: devices(2)}
    first = Batch([Access(tenant, secrets) for tenant in everybody], [], datetime.now(UTC))
    sync(made, made.resource("devices"), store=store, tenants=first)
    before = rows()
    with store.changing("test") as client:
        client.execute_sql("ALTER TABLE devices ALTER COLUMN status SET NOT NULL")
    customers.devices |= {NORTH: devices(4, 2, status=None), SOUTH: []}
    with pytest.raises(Exception, match="status"):
        synced()
    assert rows() == before
    customers.devices[NORTH] = devices(4, 2)
    synced()
    assert rows() == [*((NORTH, i, f"PC-{i:04}") for i in (2, 3, 4, 5)), (WEST, 1, "PC-0001"), (WEST, 2, "PC-0002")]


def history(**more: Any) -> dict[str, Any]:
    return resource(**{"history": True, "write_disposition": None, "max_absent_share": 1.0, **more})


def versions(folder: Path, name: str = "devices") -> dict[tuple[str, int, str], bool]:
    """Returns each version in the table, and whether it is valid."""
    return {
        (row["tenant"], row["id"], row["status"]): row["_dlt_valid_to"] is None
        for row in rows_of(folder, name, own=True)
    }


def test_a_read_ends_versions_of_its_own_tenant(customers: Customers, tmp_path: Path) -> None:
    made = msp(customers.server.url, history(child_tables=True))
    customers.devices = dict.fromkeys((NORTH, SOUTH, WEST), devices(3, tags=["a"]))
    load(tmp_path, made)
    customers.devices = {
        NORTH: [*devices(1, status="offline", tags=["b"]), *devices(1, 2, tags=["a"]), *devices(1, 4, tags=["a"])],
        SOUTH: devices(1),
        WEST: devices(9),
    }
    customers.fails = {SOUTH: 403}
    outcome = load(tmp_path, made, NORTH, SOUTH)
    first = {(name, id, "online"): True for name in (SOUTH, WEST) for id in (1, 2, 3)}
    north = {(1, "online"): False, (1, "offline"): True, (2, "online"): True, (3, "online"): False, (4, "online"): True}
    assert versions(tmp_path) == first | {(NORTH, *version): valid for version, valid in north.items()}
    found = {tenant.tenant: tenant for tenant in outcome.tenants}
    assert (found[NORTH].rows_new, found[NORTH].rows_written, found[NORTH].row_count) == (1, 2, 5)
    assert (outcome.rows_new, outcome.rows_changed) == (1, 1)
    # All rows of a tenant are gone, and of the others none.
    customers.devices, customers.fails = {NORTH: [], SOUTH: devices(3, tags=["a"])}, {}
    for names in ((NORTH,), (NORTH, SOUTH)):
        load(tmp_path, made, *names)
        assert {version for version, valid in versions(tmp_path).items() if valid} == first.keys()
    assert len(rows_of(tmp_path, "devices__tags")) == 11


def test_an_incomplete_read_or_a_loss_ends_no_versions(customers: Customers, tmp_path: Path) -> None:
    customers.devices = dict.fromkeys((NORTH, SOUTH, WEST), devices(150))
    answer = customers.answer

    def one_row_short(seen: Seen) -> Say:
        said = answer(seen)
        if f"/{SOUTH}/" in seen.target:
            return Say({"data": [row for row in said.body["data"] if row["id"] != 120], "total": said.body["total"]})
        return said

    made = history(on_incomplete="warn", max_absent_share=0.5)
    load(tmp_path, msp(customers.server.url, made))
    customers.devices |= {NORTH: devices(149), WEST: devices(70)}
    with Scripted(one_row_short) as server:
        outcome = load(tmp_path, msp(server.url, made))
    errors = {tenant.tenant: tenant.error for tenant in outcome.tenants if tenant.error}
    assert errors.keys() == {SOUTH, WEST}
    assert "history would end every row missing from this read" in errors[SOUTH]
    assert "the API sent 70 rows but the last read had 150" in errors[WEST]
    ended = [version for version, valid in versions(tmp_path).items() if not valid]
    assert ended == [(NORTH, 150, "online")]


@pytest.mark.parametrize("way", [{"write_disposition": "replace"}, {"write_disposition": None, "history": True}])
def test_no_rows_are_lost_of_parents_that_one_tenant_cannot_read(
    customers: Customers, tmp_path: Path, way: dict[str, Any]
) -> None:
    parts = resource(
        "parts", primary_key=["_devices_id", "id"], include_from_parent=["id"], max_absent_share=1.0, **way,
        endpoint={
            "path": "/v1/devices/{resources.devices.id}", "response_actions": [{"status_code": 403, "action": "ignore"}]
        },
    )  # fmt: skip
    customers.devices = {NORTH: devices(2), SOUTH: devices(2), WEST: devices(2)}
    customers.parts = {name: {1: devices(3), 2: devices(2)} for name in (NORTH, SOUTH)} | {WEST: {1: devices(1), 2: []}}
    answer, refused = customers.answer, list[str]()

    def refusing(seen: Seen) -> Say:
        return Say({"error": "no"}, status=403) if any(each in seen.target for each in refused) else answer(seen)

    def valid() -> set[tuple[str, int, int]]:
        return {
            (row["tenant"], row["_devices_id"], row["id"])
            for row in rows_of(tmp_path, "parts", own=True) if row.get("_dlt_valid_to") is None
        }  # fmt: skip

    with Scripted(refusing) as server:
        made = msp(server.url, resource(), parts)
        load(tmp_path, made, name="parts")
        before = valid()
        # West never had rows of the refused parent.
        refused += [f"/{SOUTH}/v1/devices/2", f"/{WEST}/v1/devices/2"]
        customers.parts = {name: {1: devices(1), 2: devices(1)} for name in (NORTH, SOUTH, WEST)}
        outcome = load(tmp_path, made, name="parts")
    errors = {tenant.tenant: tenant.error for tenant in outcome.tenants if tenant.error}
    assert errors.keys() == {SOUTH} and "2 rows that may still exist" in errors[SOUTH]
    of_south = {each for each in before if each[0] == SOUTH}
    assert valid() == {(NORTH, 1, 1), (NORTH, 2, 1), (WEST, 1, 1)} | of_south


def test_a_range_with_history_or_a_merge_key_ends_rows_of_its_own_tenant(tmp_path: Path) -> None:
    rows = {NORTH: at(1, 1, 2), SOUTH: at(1, 1, 2), WEST: at(1, 1, 2)}

    with Scripted(changes_of(rows)) as server:
        made = msp(server.url, {**ranged(), "history": True}, resource("groups", merge_key="group"))
        for each in rows.values():
            for row in each:
                row["group"] = "a"
        load(tmp_path, made)
        load(tmp_path, made, name="groups")
        rows[NORTH] = [{**at(5, 1)[0], "group": "a"}]
        load(tmp_path, made)
        load(tmp_path, made, NORTH, name="groups")
    ended = [(row["tenant"], row["id"]) for row in rows_of(tmp_path, own=True) if row["_dlt_valid_to"] is not None]
    assert ended == [(NORTH, 1)]
    assert sorted((row["tenant"], row["id"]) for row in rows_of(tmp_path, "groups")) == [
        (NORTH, 1), (SOUTH, 1), (SOUTH, 2), (WEST, 1), (WEST, 2)
    ]  # fmt: skip


@pytest.mark.parametrize("said", [{"strategy": "delete-insert", "destination_scope": "id > 1"}, {"strategy": "cdc"}])
def test_a_merge_that_deletes_what_it_lacks_keeps_rows_of_other_tenants(
    customers: Customers, tmp_path: Path, said: dict[str, Any]
) -> None:
    made = msp(customers.server.url, resource(write_disposition={"disposition": "merge", **said}, absent="keep"))
    customers.devices = dict.fromkeys((NORTH, SOUTH, WEST), devices(3))
    load(tmp_path, made)
    customers.devices[NORTH] = [*devices(1), *devices(1, 2, status="offline")]
    load(tmp_path, made, NORTH)
    assert held(tmp_path).keys() == {(NORTH, 1), (NORTH, 2), *((name, i) for name in (SOUTH, WEST) for i in (1, 2, 3))}


@pytest.mark.parametrize(
    "way", [{}, {"write_disposition": "append", "primary_key": None}, {"write_disposition": "replace"}]
)
def test_rejected_rows_of_a_tenant_are_tried_again(customers: Customers, tmp_path: Path, way: dict[str, Any]) -> None:
    strict = msp(customers.server.url, resource(columns={"age": {"data_type": "bigint"}}, **way))
    loose = msp(customers.server.url, resource(**way))

    def retried(*names: str) -> Retried:
        return retry_rejected(loose, loose.resource("devices"), store=store_in(tmp_path), tenants=names)

    def rejected() -> list[str]:
        return sorted(json.loads(row["row_json"])["tenant"] for row in rows_of(tmp_path, "devices_rejected"))

    customers.devices = {name: [{"id": 1, "age": 1}, {"id": 2, "age": "x"}] for name in (NORTH, SOUTH, WEST)}
    load(tmp_path, strict, SOUTH, WEST)
    customers.devices[NORTH].pop()
    load(tmp_path, strict, NORTH)
    assert rejected() == [SOUTH, WEST]
    assert retried(SOUTH) == Retried(landed=1, new=1)
    assert held(tmp_path).keys() == {(NORTH, 1), (SOUTH, 1), (SOUTH, 2), (WEST, 1)}
    assert rejected() == [WEST]
    assert retried(SOUTH) == Retried()
    assert retried(NORTH, SOUTH, WEST) == Retried(landed=1, new=1)
    assert len(rows_of(tmp_path)) == 5 and (WEST, 2) in held(tmp_path)
    assert rejected() == []


def load_and_fail_afterwards(folder: Path, made: Connection) -> None:
    """Loads all tenants, and fails once their rows are in the table."""
    everybody = tenants_of(made, store_in(folder)).tenants
    names = [tenant.name for tenant in everybody]
    batch = Batch([Access(tenant, secrets) for tenant in everybody], names, datetime.now(UTC))
    with open_run(made, made.resource("devices"), None, store=store_in(folder), tenants=batch) as opened:
        opened.pipeline.run(opened.source)
        raise OSError("the disk is full")


def test_a_load_whose_later_step_failed_is_the_last_load_of_a_tenant(customers: Customers, tmp_path: Path) -> None:
    made = msp(customers.server.url, resource(columns={"age": {"data_type": "bigint"}}))
    customers.devices = {NORTH: [{"id": 1, "age": 1}, {"id": 2, "age": "x"}], SOUTH: devices(1), WEST: devices(1)}
    load(tmp_path, made)
    customers.devices = {**customers.devices, NORTH: [{"id": 1, "age": 2}, {"id": 3, "age": "y"}]}
    customers.fails = {WEST: 403}
    with pytest.raises(PublishedError):
        load_and_fail_afterwards(tmp_path, made)
    with store_in(tmp_path).reading("test") as client:
        last = {sync.tenant: sync for sync in latest_of_tenants(client, loaded=True)}
        tried = {sync.tenant: sync for sync in latest_of_tenants(client)}
    verdicts = {name: sync.verdict for name, sync in last.items()}
    assert verdicts == {NORTH: "failed_after_load", SOUTH: "failed_after_load", WEST: "loaded"}
    assert tried[WEST].verdict == "failed" and not tried[WEST].load_id
    assert {row["_dlt_load_id"] for row in rows_of(tmp_path, own=True) if row["tenant"] == NORTH} == {
        last[NORTH].load_id
    }
    # The row that was rejected in the first load is gone at the source.
    loose = msp(customers.server.url)
    retried = retry_rejected(loose, loose.resource("devices"), store=store_in(tmp_path), tenants=[NORTH])
    assert retried == Retried(landed=1, new=1, earlier=1)
    assert held(tmp_path).keys() == {(NORTH, 1), (NORTH, 3), (SOUTH, 1), (WEST, 1)}


@pytest.mark.parametrize("way", [{}, {"write_disposition": "replace"}, {"history": True}])
def test_a_table_that_was_loaded_without_tenants_is_refused_with_what_to_do(
    customers: Customers, tmp_path: Path, way: dict[str, Any]
) -> None:
    with Simulator(tables={"devices": devices(3)}) as server:
        run(tmp_path, server.base_url, connection(resource(**way)))
    customers.devices = dict.fromkeys((NORTH, SOUTH, WEST), devices(2))
    with pytest.raises(
        TenantError, match=r"loaded without tenants, .* another `dataset` or `table_name`, or drop the table"
    ):
        load(tmp_path, msp(customers.server.url, resource(**way)))
    assert len(rows_of(tmp_path)) == 3


@pytest.mark.parametrize("way", [{}, {"write_disposition": "append", "primary_key": None}, {"history": True}])
def test_a_table_that_was_loaded_with_tenants_is_refused_without_them(
    customers: Customers, tmp_path: Path, way: dict[str, Any]
) -> None:
    customers.devices = dict.fromkeys((NORTH, SOUTH, WEST), devices(2))
    load(tmp_path, msp(customers.server.url, resource(**way)))
    before = rows_of(tmp_path, own=True)
    with Simulator(tables={"devices": devices(3)}) as server:
        with pytest.raises(
            TenantError, match=r"loaded with tenants, .* column tenant, .*: write `tenants` again, set ano"
        ):
            run(tmp_path, server.base_url, connection(resource(**way)))
        assert not server.requests
    with pytest.raises(TenantError, match=r"in its column tenant, not in customer: write `column: tenant` under"):
        load(tmp_path, msp(customers.server.url, resource(**way), column="customer"))
    assert rows_of(tmp_path, own=True) == before
    tamper(tmp_path, "DROP TABLE acme.devices")
    with Simulator(tables={"devices": devices(3)}) as server:
        assert run(tmp_path, server.base_url, connection(resource(**way))).row_count == 3


def test_a_field_named_tenant_is_no_tenant(tmp_path: Path) -> None:
    with Simulator(tables={"devices": devices(3, tenant="north")}) as server:
        for key in (["tenant", "id"], "id"):
            assert run(tmp_path, server.base_url, connection(resource(primary_key=key))).row_count == 3

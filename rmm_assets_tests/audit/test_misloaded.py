"""Tests that the audit finds faults in tables that were loaded with them, because of the server or the connection file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from rmm_assets.config import Connection
from rmm_assets_tests.audit.auditing import audited, found, listing, parameters
from rmm_assets_tests.http.servers import Say, Scripted, Seen
from rmm_assets_tests.syncing import Row, connection, devices, resource, rows_of, run

pytestmark = pytest.mark.slow

Answer = Callable[[Seen], Say]
# A file that trusts the server and loads unproven reads.
CREDULOUS: dict[str, Any] = {"verify": False, "on_incomplete": "warn", "max_absent_share": 1}


@dataclass
class Case:
    """A table that is loaded with a fault.

    Attributes:
        made: The connection that loads it.
        answers: The server's responses, by load.
        right: The server's responses during the audit.
        rows: Number of rows in the table, including marked ones.
        found: The expected results of the audit.
        blind: The verdict of an audit of the server as in the last load; None if it also finds the fault.
    """

    made: Connection
    answers: list[Answer]
    right: Answer
    rows: int
    found: dict[str, int]
    blind: str | None = None


def linked(rows: list[Row], size: int, *, lost_at: int = -1, header: str = "Link") -> Answer:
    """Serves pages linked in a header, one of them without its link."""

    def answer(seen: Seen) -> Say:
        start = int(parameters(seen).get("after", 0))
        url = f"http://{seen.headers['host']}/v1/devices?after={start + size}"
        more = start + size < len(rows) and start != lost_at
        value = f'<{url}>; rel="next"' if header == "Link" else url
        return Say({"data": rows[start : start + size]}, headers=((header, value),) if more else ())

    return answer


def cursors(rows: list[Row], *, null_at: int = -1) -> Answer:
    def answer(seen: Seen) -> Say:
        start = int(parameters(seen).get("after", 0))
        page = None if start == null_at else rows[start : start + 100]
        return Say({"data": page, "next": start + 100 if start + 100 < len(rows) else None})

    return answer


def numbered(rows: list[Row], size: int, base: int) -> Answer:
    def answer(seen: Seen) -> Say:
        number = int(parameters(seen)["page"]) - base
        return Say({"data": rows[number * size : number * size + size] if number >= 0 else []})

    return answer


def family(seen: Seen, silent: str = "") -> Say:
    parts = urlsplit(seen.target).path.split("/")
    if parts[-1] == "customers":
        return Say({"data": [{"id": name} for name in ("a", "b", "c")]})
    if parts[-2] == silent:
        return Say({"error": "not found"}, 404)
    return Say({"data": devices(4, first=10 * (1 + "abc".index(parts[-2])))})


def since(rows: list[Row]) -> Answer:
    return lambda seen: Say({"data": [row for row in rows if row["at"] >= parameters(seen)["since"]]})


def of(paginator: Any, **changes: Any) -> Connection:
    return connection(
        resource(**{**CREDULOUS, **changes, "endpoint": {"paginator": paginator, **changes.pop("endpoint", {})}})
    )


PATCHES = [{**row, "id": row["id"] % 40 + 1, "kb": row["id"]} for row in devices(263)]
STAMPED = [{**row, "at": f"2024-05-{row['id']:02}T00:00:00Z"} for row in devices(9)]
LATE = {"id": 99, "name": "late", "status": "online", "at": "2024-05-02T00:00:00Z"}
CURSOR = {"type": "cursor", "cursor_path": "next", "cursor_param": "after"}
RANGE = {"cursor_path": "at", "start_param": "since", "initial_value": "2024-01-01T00:00:00Z", "lag": 0}
ODD = connection(
    resource("customers", endpoint={"paginator": "single_page"}),
    resource(
        endpoint={
            "path": "/v1/customers/{resources.customers.id}/devices", "paginator": "single_page",
            "response_actions": [{"status_code": 404, "action": "ignore"}],
        }
    ),
)  # fmt: skip

CASES: dict[str, Case] = {
    "rows hidden from the key": Case(
        connection(), [listing(devices(154), around=lambda o, n: {"total": 154})],
        listing(devices(344), around=lambda o, n: {"total": 344}), 154, {"missing": 190}, "equal",
    ),
    "a link that is called otherwise": Case(
        of("header_link"), [linked(devices(350), 100, header="Next-Page")],
        linked(devices(350), 100, header="Next-Page"), 100, {"missing": 250},
    ),
    "a cursor that is called otherwise": Case(
        of({**CURSOR, "cursor_path": "next_token"}), [cursors(devices(333))], cursors(devices(333)), 100, {"missing": 233}
    ),
    "a link that is lost on a full page": Case(
        of("header_link", endpoint={"params": {"per_page": 500}}), [linked(devices(950), 100, lost_at=400)],
        linked(devices(950), 100), 500, {"missing": 450}, "unverified",
    ),
    "a part that is taken for everything": Case(
        of("single_page"), [lambda seen: Say({"data": devices(50)})], lambda seen: Say({"data": devices(500)}), 50,
        {"missing": 450}, "unverified",
    ),
    "null that is taken for no rows": Case(
        of(CURSOR, endpoint={"empty_as": "null"}), [cursors(devices(600)), cursors(devices(501), null_at=500)],
        cursors(devices(600)), 600, {"marked_absent": 100}, "equal",
    ),
    "a first page that was never asked for": Case(
        of({"type": "page_number", "base_page": 1, "total_path": None}), [numbered(devices(130), 40, base=0)],
        numbered(devices(130), 40, base=0), 90, {"missing": 40},
    ),
    "a key that is none": Case(
        of("single_page", columns={"kb": {"dedup_sort": "desc"}}), [lambda seen: Say({"data": PATCHES})],
        lambda seen: Say({"data": PATCHES}), 40, {"same_key": 40},
    ),
    "a parent whose answer was ignored": Case(
        ODD, [lambda seen: family(seen, silent="b")], family, 8, {"missing": 4}, "equal"
    ),
    "a row that came behind the cursor": Case(
        of("single_page", endpoint={"incremental": RANGE}), [since(STAMPED), since([*STAMPED, LATE])],
        since([*STAMPED, LATE]), 9, {"missing": 1},
    ),
    "a value that changed without its cursor": Case(
        of("single_page", endpoint={"incremental": RANGE}), [since(STAMPED), since([{**STAMPED[0], "name": "new"}, *STAMPED[1:]])],
        since([{**STAMPED[0], "name": "new"}, *STAMPED[1:]]), 9, {"different": 1},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_what_was_loaded_with_a_fault_is_found(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    for answer in case.answers:
        with Scripted(answer) as server:
            run(tmp_path, server.url, case.made)
            same = audited(tmp_path, server.url, case.made)
    assert len(rows_of(tmp_path)) == case.rows, "the fault is in the table"
    with Scripted(case.right) as server:
        result = audited(tmp_path, server.url, case.made)
    assert (result.verdict, found(result)) == ("differences", case.found)
    # The server that lied to the load also lies to the audit, which may have no other evidence.
    assert same.verdict == (case.blind or "differences")


@pytest.mark.parametrize("where", ["body", "header", "count", "head"])
def test_a_configured_total_is_checked_whatever_its_name(where: str, tmp_path: Path) -> None:
    """An audit checks `total_path`, `total_header` and `count`, as a load does: a total that is not reached is unverified."""
    number = [20]

    def answer(seen: Seen) -> Say:
        if "anzahl" in seen.target:
            return Say(str(number[0]).encode(), headers=(("Anzahl", str(number[0])),))
        return Say({"data": devices(20), "zeilen": number[0]}, headers=(("X-Zeilen", str(number[0])),))

    endpoints: dict[str, dict[str, Any]] = {
        "body": {},
        "header": {"total_header": "X-Zeilen"},
        "count": {"count": {"path": "anzahl"}},
        "head": {"count": {"path": "anzahl", "method": "HEAD", "total_header": "Anzahl"}},
    }
    more = {"total_path": "zeilen"} if where == "body" else {}
    made = connection(resource(endpoint={"paginator": "single_page", **endpoints[where]}, **more))
    with Scripted(answer) as server:
        run(tmp_path, server.url, made)
        # Without such a total, 20 rows could be the first of several pages; a total on that page alone is not proof.
        assert audited(tmp_path, server.url, made).verdict == ("equal" if where in ("count", "head") else "unverified")
        number[0] = 33
        result = audited(tmp_path, server.url, made)
    assert (result.verdict, found(result)) == ("unverified", {})
    assert any("33 rows, and 20 were received" in sentence for sentence in result.unverified)

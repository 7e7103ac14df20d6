"""Tests that values of parents are only values in requests for children, and that failures name the parent."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, parse_qsl, unquote, urlsplit

import pytest

from rmm_assets.errors import IncompleteError, ParentRowError, TransportError
from rmm_assets_tests.http.servers import Say, Scripted, Seen
from rmm_assets_tests.syncing import Row, absent, connection, ids, read, resource, rows_of, run

pytestmark = pytest.mark.slow

HOSTILE = ["kunde a#2", "a/b", "a?b", "../x", "..%2fx", "ü&admin=1", "a;b", "%2e%2e", "{x}", "a\\b", "a b+c", "." + "x"]

SINGLE = {"paginator": "single_page"}


def customers(*keys: Any) -> list[Row]:
    return [{"id": number, "code": key} for number, key in enumerate(keys)]


def made(endpoint: dict[str, Any], **changes: Any) -> Any:
    parent = resource("customers", endpoint=SINGLE)
    child = resource(endpoint={**SINGLE, "path": "/v1/devices", **endpoint}, **changes)
    return connection(parent, child)


class Api:
    """A server of customers that returns, for each request of devices, one device that describes the request."""

    def __init__(self, parents: list[Row]) -> None:
        self.parents = parents
        self.asked: list[Seen] = []

    def __call__(self, seen: Seen) -> Say:
        if seen.target.startswith("/v1/customers?") or seen.target == "/v1/customers":
            return Say({"data": self.parents})
        self.asked.append(seen)
        return Say({"data": [{"id": len(self.asked)}]})


def test_a_value_in_a_path_is_one_segment(tmp_path: Path) -> None:
    api = Api(customers(*HOSTILE))
    with Scripted(api) as server:
        read(tmp_path, server.url, made({"path": "/v1/customers/{resources.customers.code}/devices"}))
    segments = [urlsplit(seen.target).path.split("/") for seen in api.asked]
    assert {len(parts) for parts in segments} == {5}
    assert sorted(unquote(parts[3]) for parts in segments) == sorted(HOSTILE)
    # The query only contains the key.
    assert {seen.target.partition("?")[2] for seen in api.asked} == {"api_key=demo-key"}


def test_a_value_in_a_path_s_query_and_in_parameters_adds_no_parameter(tmp_path: Path) -> None:
    api = Api(customers(*HOSTILE))
    endpoint = {"path": "/v1/devices?of={resources.customers.code}", "params": {"too": "x{resources.customers.code}"}}
    with Scripted(api) as server:
        read(tmp_path, server.url, made(endpoint))
    asked = [dict(parse_qsl(urlsplit(seen.target).query)) for seen in api.asked]
    assert {frozenset(query) for query in asked} == {frozenset({"of", "too", "api_key"})}
    assert sorted(query["of"] for query in asked) == sorted(HOSTILE)
    assert all(query["too"] == f"x{query['of']}" for query in asked)


def test_a_value_in_a_body_is_a_value(tmp_path: Path) -> None:
    crafted = '", "admin": "1'
    api = Api(customers(crafted))
    endpoint = {"method": "POST", "json": {"of": "{resources.customers.code}", "n": "{resources.customers.id}"}}
    with Scripted(api) as server:
        read(tmp_path, server.url, made(endpoint))
    assert json.loads(api.asked[0].body) == {"of": crafted, "n": 0}


@pytest.mark.parametrize(
    ("data", "parsed"),
    [
        ("of={resources.customers.code}&x=1", lambda body: dict(parse_qsl(body))),
        ('{"of": "{resources.customers.code}", "x": "1"}', json.loads),
    ],
    ids=["form", "json"],
)
def test_a_value_in_a_text_body_is_a_value(data: str, parsed: Any, tmp_path: Path) -> None:
    crafted = 'a"&x=2\\'
    api = Api(customers(crafted))
    with Scripted(api) as server:
        read(tmp_path, server.url, made({"method": "POST", "data": data}))
    assert parsed(api.asked[0].body.decode()) == {"of": crafted, "x": "1"}


def test_braces_that_are_no_placeholders_are_sent_as_they_are(tmp_path: Path) -> None:
    query = "query ($of: ID!) { devices(of: $of) { id tags { name }}} {a.b} {user.name}"
    api = Api(customers("a"))
    body = {"query": query, "variables": {"of": "{resources.customers.code}", "{}": "{id}"}}
    elsewhere = {
        "params": {"filter": '{"site": {"of": "{resources.customers.code}"}}', "open": "{", "{x}": ["{y}", "}{"]},
        "headers": {"X-Filter": '{"a": {"b.c": "{resources.customers.code}"}}'},
    }
    with Scripted(api) as server:
        read(tmp_path, server.url, made({"method": "POST", "json": body, **elsewhere}))
        read(tmp_path, server.url, made({"method": "POST", "data": json.dumps(body)}))
    for seen in api.asked:
        assert json.loads(seen.body) == {"query": query, "variables": {"of": "a", "{}": "{id}"}}
    seen = api.asked[0]
    asked = parse_qs(urlsplit(seen.target).query)
    del asked["api_key"]
    assert asked == {"filter": ['{"site": {"of": "a"}}'], "open": ["{"], "{x}": ["{y}", "}{"]}
    assert seen.headers["x-filter"] == '{"a": {"b.c": "a"}}'


@pytest.mark.parametrize("place", ["json", "params", "headers"])
def test_a_placeholder_of_a_misspelled_kind_is_refused(place: str) -> None:
    with pytest.raises(ValueError, match=rf"endpoint\.{place}\n.*`{{resource\. ...}}`; did you mean `resources`\?"):
        made({"method": "POST", place: {"of": "{resource.customers.code}"}})


PLACES: dict[str, dict[str, Any]] = {
    "path": {"path": "/v1/customers/{resources.customers.code}/devices"},
    "params": {"params": {"of": "{resources.customers.code}"}},
    "json": {"method": "POST", "json": {"of": "{resources.customers.code}"}},
    "headers": {"headers": {"X-Of": "{resources.customers.code}"}},
}
NO_VALUES = [(None, "null"), ("", "empty"), ([1], "a list"), ({"a": 1}, "an object")]


@pytest.mark.parametrize(
    ("place", "key", "what"),
    [*((place, *value) for place in PLACES for value in NO_VALUES), ("path", "..", "`.` or"), ("path", ".", "`.` or")],
)
def test_a_value_that_cannot_be_used_in_a_request_is_refused_by_name(
    place: str, key: Any, what: str, tmp_path: Path
) -> None:
    api = Api(customers("fine", key))
    with Scripted(api) as server, pytest.raises(ParentRowError, match=f"of customers id=1 is {what}") as caught:
        read(tmp_path, server.url, made(PLACES[place]))
    assert "its devices cannot be requested" in str(caught.value)


def test_a_field_that_a_parent_lacks_is_refused_by_name(tmp_path: Path) -> None:
    with Scripted(Api([{"id": 7}])) as server:
        child = made({"path": "/v1/customers/{resources.customers.code}/devices"})
        with pytest.raises(ParentRowError, match="`code` of customers id=7 is missing"):
            read(tmp_path, server.url, child)
        child = made({"path": "/v1/customers/{resources.customers.id}/devices"}, include_from_parent=["region"])
        with pytest.raises(ParentRowError, match=r"`region` \(include_from_parent\) of customers id=7 is missing"):
            read(tmp_path, server.url, child)


def test_a_line_break_in_a_header_is_refused(tmp_path: Path) -> None:
    api = Api(customers("a\r\nX-Admin: 1"))
    with Scripted(api) as server, pytest.raises(ParentRowError, match="text with control characters"):
        read(tmp_path, server.url, made({"headers": {"X-Of": "{resources.customers.code}"}}))


def test_a_parent_without_its_key_counts_and_is_red(tmp_path: Path) -> None:
    api = Api([{"id": 1, "code": "a"}, {"code": "b"}, {"id": None, "code": "c"}])
    endpoint = {"path": "/v1/customers/{resources.customers.code}/devices"}
    with Scripted(api) as server:
        with pytest.raises(ParentRowError, match=r"2 rows of customers have no key \(id\)"):
            run(tmp_path, server.url, made(endpoint))
        assert rows_of(tmp_path) == []
        outcome = run(tmp_path, server.url, made(endpoint, on_incomplete="warn"))
    assert len(rows_of(tmp_path)) == 1
    assert not outcome.report.complete
    assert "2 rows of customers have no key" in outcome.report.reason


def per_customer(seen: Seen, broken: dict[str, Say]) -> Say:
    parts = urlsplit(seen.target).path.split("/")
    if len(parts) == 3:
        return Say({"data": customers("a", "b", "c")})
    return broken.get(parts[3]) or Say({"data": [{"id": f"{parts[3]}{n}"} for n in range(3)]})


PER_CUSTOMER = {"path": "/v1/customers/{resources.customers.code}/devices"}


def test_an_error_of_a_child_names_the_parent_and_the_path(tmp_path: Path) -> None:
    broken = {"b": Say({"error": "no"}, status=401)}
    with Scripted(lambda seen: per_customer(seen, broken)) as server, pytest.raises(TransportError) as caught:
        read(tmp_path, server.url, made(PER_CUSTOMER))
    assert "(for customers id=1, at /v1/customers/b/devices)" in str(caught.value)
    assert caught.value.status == 401


def test_if_one_parent_fails_none_of_its_rows_is_marked(tmp_path: Path) -> None:
    total = {"total_path": "total"}
    broken: dict[str, Say] = {}
    with Scripted(lambda seen: per_customer(seen, broken)) as server:
        child = made(PER_CUSTOMER, on_incomplete="warn", **total)
        run(tmp_path, server.url, child)
        broken["b"] = Say({"data": [{"id": "b0"}], "total": 3})
        outcome = run(tmp_path, server.url, child)
        assert not outcome.report.complete
        assert absent(tmp_path) == set()
        broken["b"] = Say({"data": [{"id": "b0"}]})
        run(tmp_path, server.url, made(PER_CUSTOMER))
    assert absent(tmp_path) == {"b1", "b2"}


INHERITING: dict[str, Any] = {"include_from_parent": ["id"], "max_absent_share": 1}


class Fleet:
    """A server of customers with three devices each; some disappear or cannot be read."""

    def __init__(self) -> None:
        self.parents = customers("a", "b", "c")
        self.broken: dict[str, Say] = {}

    def __call__(self, seen: Seen) -> Say:
        if urlsplit(seen.target).path == "/v1/customers":
            return Say({"data": self.parents})
        return per_customer(seen, self.broken)

    def loses(self, code: str, *left: int) -> None:
        self.broken[code] = Say({"data": [{"id": f"{code}{number}"} for number in left]})


SHORT = Say({"data": [{"id": "b0"}], "total": 3})
SILENT = Say({"error": "no"}, status=403)
GONE = Say({"error": "no such customer"}, status=404)


@pytest.mark.parametrize("policy", ["mark", "remove"])
def test_if_one_parent_fails_missing_rows_of_the_others_are_marked(policy: str, tmp_path: Path) -> None:
    fleet = Fleet()
    with Scripted(fleet) as server:
        child = made(PER_CUSTOMER, on_incomplete="warn", total_path="total", absent=policy, **INHERITING)
        run(tmp_path, server.url, child)
        fleet.loses("a", 0, 1)
        fleet.broken["b"] = SHORT
        fleet.parents = customers("a", "b")
        for _ in range(2):
            outcome = run(tmp_path, server.url, child)
            assert not outcome.report.complete
            # Rows that disappear with their parent are missing, too. Nothing is removed while a parent cannot be read.
            assert absent(tmp_path) == {"a2", "c0", "c1", "c2"}
        fleet.broken["b"] = Say({"data": [{"id": "b0"}]})
        run(tmp_path, server.url, child)
    assert absent(tmp_path) == ({"b1", "b2"} | ({"a2", "c0", "c1", "c2"} if policy == "mark" else set()))


@pytest.mark.parametrize(
    ("answer", "more", "marked", "held_back"),
    [
        (SILENT, INHERITING, {"a2"}, ""),
        (GONE, INHERITING, {"a2", "b0", "b1", "b2"}, ""),
        # Without the parent's key in the rows, the table does not show which of them belong to it.
        (SILENT, {"max_absent_share": 1}, set(), "include_from_parent with the parent's key would show which"),
        (GONE, {"max_absent_share": 1}, {"a2", "b0", "b1", "b2"}, ""),
    ],
    ids=["403", "404", "403, without the parent's key", "404, without the parent's key"],
)
@pytest.mark.parametrize("said", [True, False], ids=["ignored", "by default"])
def test_only_certain_statuses_prove_that_a_parent_has_no_rows(
    answer: Say, more: dict[str, Any], marked: set[str], held_back: str, said: bool, tmp_path: Path
) -> None:
    ignoring: dict[str, Any] = dict(PER_CUSTOMER)
    if said:
        ignoring["response_actions"] = [{"status_code": answer.status, "action": "ignore"}]
    fleet = Fleet()
    with Scripted(fleet) as server:
        run(tmp_path, server.url, made(ignoring, **more))
        fleet.loses("a", 0, 1)
        fleet.broken["b"] = answer
        outcome = run(tmp_path, server.url, made(ignoring, **more))
    report, refused = outcome.report, answer is SILENT
    assert report.complete
    assert (report.parents, report.parents_missing, report.parents_refused) == (3, int(not refused), int(refused))
    assert f"(HTTP {answer.status}: customers id=1)" in report.reason
    assert any("refuses to show devices of customers" in text for text in report.warnings) == refused
    assert absent(tmp_path) == marked
    assert outcome.absences.held_back.endswith(held_back)
    assert outcome.absences.gone == (len(marked) or 4)


def test_a_row_without_its_parent_s_key_may_belong_to_the_parent_that_could_not_be_read(tmp_path: Path) -> None:
    ignoring = {**PER_CUSTOMER, "response_actions": [{"status_code": 403, "action": "ignore"}]}
    fleet = Fleet()
    with Scripted(fleet) as server:
        run(tmp_path, server.url, made(ignoring, max_absent_share=1))
        fleet.broken["b"] = SILENT
        # Gives all rows but those of b their parent's key.
        run(tmp_path, server.url, made(ignoring, **INHERITING))
        assert absent(tmp_path) == set()
        fleet.loses("a", 0, 1)
        run(tmp_path, server.url, made(ignoring, **INHERITING))
    assert absent(tmp_path) == {"a2"}


@pytest.mark.parametrize(
    ("more", "lost", "inherited"),
    [
        ({"history": True}, "history would end", True),
        ({"write_disposition": "replace"}, "replace would delete", True),
        ({"write_disposition": "replace"}, "replace would delete", False),
        ({"write_disposition": {"disposition": "merge", "strategy": "cdc"}}, "this merge would delete", True),
        (
            {"write_disposition": {"disposition": "merge", "strategy": "delete-insert", "destination_scope": "1 = 1"}},
            "this merge would delete",
            True,
        ),
    ],
)
def test_history_and_replace_lose_no_rows_because_of_an_ignored_response(
    more: dict[str, Any], lost: str, inherited: bool, tmp_path: Path
) -> None:
    more = {"max_absent_share": 1, **({"include_from_parent": ["id"]} if inherited else {}), **more}
    fleet = Fleet()

    def ignoring(status: int) -> Any:
        return made({**PER_CUSTOMER, "response_actions": [{"status_code": status, "action": "ignore"}]}, **more)

    def present() -> list[str]:
        return ids([row for row in rows_of(tmp_path, own=True) if row.get("_dlt_valid_to") is None])

    with Scripted(fleet) as server:
        # Rows that were never there cannot be lost, so the first load is not refused.
        fleet.broken["c"] = SILENT
        run(tmp_path, server.url, ignoring(403))
        assert present() == ["a0", "a1", "a2", "b0", "b1", "b2"]
        fleet.loses("a", 0, 1)
        if inherited:
            run(tmp_path, server.url, ignoring(403))
            assert present() == ["a0", "a1", "b0", "b1", "b2"]
        before = present()
        fleet.broken["b"] = SILENT
        with pytest.raises(
            IncompleteError, match=rf"{lost} {3 if inherited else 6} rows that may still exist"
        ) as caught:
            run(tmp_path, server.url, ignoring(403))
        assert ("(_customers_id) = (1)" if inherited else "include_from_parent") in str(caught.value)
        assert present() == before
        fleet.broken = {"a": fleet.broken["a"], "b": GONE}
        run(tmp_path, server.url, ignoring(404))
        assert present() == ["a0", "a1", "c0", "c1", "c2"]


@pytest.mark.parametrize("more", [{"history": True}, {"write_disposition": "replace"}])
def test_history_and_replace_lose_no_rows_because_the_only_response_is_ignored(
    more: dict[str, Any], tmp_path: Path
) -> None:
    answer = Say({"data": [{"id": 1}, {"id": 2}]})
    ignoring = {**SINGLE, "response_actions": [{"status_code": 403, "action": "ignore"}]}
    child = connection(resource(endpoint=ignoring, max_absent_share=1, **more))
    with Scripted(lambda _: answer) as server:
        run(tmp_path, server.url, child)
        before = rows_of(tmp_path, own=True)
        answer = Say({"error": "no"}, status=403)
        with pytest.raises(IncompleteError, match="2 rows that may still exist"):
            run(tmp_path, server.url, child)
    assert rows_of(tmp_path, own=True) == before


def test_a_parent_s_key_of_another_type_than_the_column_marks_nothing(tmp_path: Path) -> None:
    fleet = Fleet()
    with Scripted(fleet) as server:
        child = made(PER_CUSTOMER, on_incomplete="warn", total_path="total", **INHERITING)
        run(tmp_path, server.url, child)
        fleet.loses("a", 0, 1)
        fleet.broken["b"] = SHORT
        fleet.parents[1]["id"] = "one"
        outcome = run(tmp_path, server.url, child)
    assert (absent(tmp_path), outcome.absences.gone) == (set(), 0)


def test_an_ignored_response_for_a_whole_resource_only_marks_rows_if_its_status_means_none(
    tmp_path: Path,
) -> None:
    answers: list[Say] = [Say({"data": [{"id": 1}, {"id": 2}]})]
    for status, marked in ((403, set()), (404, {1, 2})):
        ignoring = {**SINGLE, "response_actions": [{"status_code": status, "action": "ignore"}]}
        with Scripted(lambda _: answers[-1]) as server:
            answers.append(answers[0])
            run(tmp_path, server.url, connection(resource(endpoint=ignoring, max_absent_share=1)))
            answers.append(Say({"error": "no"}, status=status))
            run(tmp_path, server.url, connection(resource(endpoint=ignoring, max_absent_share=1)))
        assert absent(tmp_path) == marked


def test_incomplete_parents_make_the_child_red_or_cause_a_warning(tmp_path: Path) -> None:
    def answer(seen: Seen) -> Say:
        if seen.target.startswith("/v1/customers?"):
            return Say({"data": customers("a", "b"), "total": 3})
        return per_customer(seen, {})

    def child(**changes: Any) -> Any:
        parent = resource("customers", endpoint=SINGLE, total_path="total")
        return connection(parent, resource(endpoint={**SINGLE, **PER_CUSTOMER}, **changes))

    with Scripted(answer) as server:
        with pytest.raises(IncompleteError, match="customers"):
            read(tmp_path, server.url, child())
        outcome = run(tmp_path, server.url, child(on_incomplete="warn"))
    assert ids(rows_of(tmp_path)) == ["a0", "a1", "a2", "b0", "b1", "b2"]
    assert not outcome.report.complete


def test_ignored_responses_are_no_rows_for_one_parent_but_red_for_all(tmp_path: Path) -> None:
    ignoring = {**PER_CUSTOMER, "response_actions": [{"status_code": 403, "action": "ignore"}]}
    broken = {"b": Say({"error": "no"}, status=403)}
    with Scripted(lambda seen: per_customer(seen, broken)) as server:
        report, rows = read(tmp_path, server.url, made(ignoring))
        assert report.complete
        assert ids(rows) == ["a0", "a1", "a2", "c0", "c1", "c2"]
        broken |= {"a": broken["b"], "c": broken["b"]}
        with pytest.raises(
            IncompleteError, match=r"ignored the responses for all 3 rows of customers: this also happens"
        ):
            read(tmp_path, server.url, made(ignoring, max_absent_share=1))


def test_if_all_parents_are_refused_the_read_is_red_and_marks_nothing(tmp_path: Path) -> None:
    fleet = Fleet()
    with Scripted(fleet) as server:
        run(tmp_path, server.url, made(PER_CUSTOMER, **INHERITING))
        for answers in ((SILENT, SILENT, SILENT), (GONE, GONE, GONE), (SILENT, GONE, GONE)):
            fleet.broken = dict(zip("abc", answers, strict=True))
            with pytest.raises(
                IncompleteError, match=r"refused the requests for all 3 rows of customers \(HTTP 40"
            ) as caught:
                run(tmp_path, server.url, made(PER_CUSTOMER, **INHERITING))
            assert "the key may lack permissions, or the path may be wrong" in str(caught.value)
            run(tmp_path, server.url, made(PER_CUSTOMER, on_incomplete="warn", **INHERITING))
            assert absent(tmp_path) == set()
        fleet.parents = customers("a")
        with pytest.raises(IncompleteError, match="for the only row of customers"):
            run(tmp_path, server.url, made(PER_CUSTOMER, **INHERITING))
        # The file's word for the only parent is believed.
        ignoring = {**PER_CUSTOMER, "response_actions": [{"status_code": 403, "action": "ignore"}]}
        assert run(tmp_path, server.url, made(ignoring, **INHERITING)).report.complete


def test_what_the_file_says_of_a_status_replaces_what_it_means_by_default(tmp_path: Path) -> None:
    fleet = Fleet()
    fleet.broken["b"] = GONE
    for action in ({"status_code": 404, "content": "other words"}, {"content": "other words"}):
        ignoring = {**PER_CUSTOMER, "response_actions": [{**action, "action": "ignore"}]}
        with Scripted(fleet) as server, pytest.raises(TransportError, match="HTTP 404"):
            read(tmp_path, server.url, made(ignoring))


def test_a_resource_without_a_parent_is_red_on_404(tmp_path: Path) -> None:
    with Scripted(lambda _: GONE) as server, pytest.raises(TransportError, match="HTTP 404"):
        read(tmp_path, server.url, made(PER_CUSTOMER), "customers")


def test_a_rate_limited_refusal_of_one_parent_is_red(tmp_path: Path) -> None:
    fleet = Fleet()
    fleet.broken["b"] = Say({"error": "rate limit exceeded"}, status=403)
    with Scripted(fleet) as server, pytest.raises(TransportError, match="rate limited by the API"):
        read(tmp_path, server.url, made(PER_CUSTOMER))


@pytest.mark.parametrize("status", [403, 404])
def test_a_refusal_of_a_later_page_is_red(status: int, tmp_path: Path) -> None:
    def answer(seen: Seen) -> Say:
        url = urlsplit(seen.target)
        if url.path == "/v1/customers":
            return Say({"data": customers("a", "b")})
        return Say({"error": "no"}, status) if "after" in url.query else Say({"data": [{"id": 1}], "next": "x"})

    paginator = {"type": "cursor", "cursor_path": "next", "cursor_param": "after"}
    with Scripted(answer) as server, pytest.raises(TransportError, match=f"page 2: HTTP {status}"):
        read(tmp_path, server.url, made({**PER_CUSTOMER, "paginator": paginator}))


@pytest.mark.parametrize("first", [Say({"e": 1}, status=404), Say({"data": []})], ids=["404", "no total"])
@pytest.mark.parametrize("found", [True, False])
def test_a_place_that_one_parent_s_response_lacks_is_no_warning(first: Say, found: bool, tmp_path: Path) -> None:
    def answer(seen: Seen) -> Say:
        if "/customers/" not in seen.target:
            return Say({"data": customers("a", "b")})
        return first if "/a/" in seen.target else Say({"data": [{"id": 1}], **({"total": 1} if found else {})})

    endpoint = {**SINGLE, "path": "/v1/customers/{resources.customers.code}/devices"}
    child = resource(endpoint=endpoint, total_path="total")
    # One after the other, so that the response that lacks the place comes first.
    both = connection(resource("customers", endpoint=SINGLE), child, limits={"max_concurrency": 1})
    with Scripted(answer) as server:
        report, _ = read(tmp_path, server.url, both)
    said = [text for text in report.warnings if "was not found" in text]
    assert len(said) == (0 if found else 1 if first.status == 404 else 2)

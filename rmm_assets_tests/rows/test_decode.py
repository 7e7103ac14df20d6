"""Tests that bodies are decoded into pages, whatever they contain."""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from rmm_assets.errors import BodyError
from rmm_assets.rows.decode import read_page, read_pages
from rmm_assets.rows.structure import MAX_DEPTH
from rmm_assets.rows.type_memory import TypeMemory


def body(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()


@pytest.mark.parametrize(
    ("document", "selector", "rows", "envelope"),
    [
        ([{"a": 1}, {"a": 2}], None, [{"a": 1}, {"a": 2}], None),
        ([{"a": 1}], "$", [{"a": 1}], None),
        ({"a": 1}, None, [{"a": 1}], None),
        ([], None, [], None),
        ({"data": [{"a": 1}], "total": 5, "next": None}, "data", [{"a": 1}], {"total": 5, "next": None}),
        ({"data": [], "total": 0}, "data", [], {"total": 0}),
        ({"data": None}, "data", [], {}),
        ({"data": {"a": 1}}, "data", [{"a": 1}], {}),
        ({"r": {"items": [{"a": 1}], "n": 2}, "t": "x"}, "r.items", [{"a": 1}], {"r": {"n": 2}, "t": "x"}),
        ({"data": {"items": [{"a": 1}]}}, "data.items[*]", [{"a": 1}], {"data": {}}),
        ({"my data": [{"a": 1}], "n": 2}, "'my data'", [{"a": 1}], {"n": 2}),
        ({"data": {"my.items": [{"a": 1}], "n": 2}}, "$['data']['my.items'][*]", [{"a": 1}], {"data": {"n": 2}}),
        ({"data": [{"d": {"a": 1}}, {"d": {"a": 2}}]}, "data[*].d", [{"a": 1}, {"a": 2}], None),
        ({"data": [{"a": 1}, {"a": 9}]}, "data[?(@.a > 5)]", [{"a": 9}], None),
    ],
)
@pytest.mark.parametrize("exact", [False, True])
def test_rows_are_found_at_the_selector(
    document: Any, selector: str | None, rows: list[Any], envelope: Any, exact: bool
) -> None:
    page = read_page(body(document), selector, exact=exact)
    assert (page.rows, page.objects()) == (len(rows), rows)
    if envelope is not None:
        assert page.envelope == envelope


@pytest.mark.parametrize(
    "envelope",
    [
        {"at": "2024-01-01T00:00:00", "next": None},
        {"cursor": 2**63 + 1},
        {"cursor": 2**60 + 1, "share": 0.5},
        {"links": [{"rel": "next", "href": "x"}, {"rel": "self"}]},
        {"tags": [None, "2024-01-01"], "deep": {"a": {"b": None}}},
        {},
    ],
)
def test_the_envelope_contains_exactly_the_other_fields(envelope: dict[str, Any]) -> None:
    hints = TypeMemory()
    for around in (envelope, {}, envelope, {"at": None}, {"at": "2024-01-01T00:00:00", "next": 2}):
        assert read_page(body({"data": [{"a": 1}], **around}), "data", hints).envelope == around
        nested = {"r": {"data": [{"a": 1}], **around}}
        assert read_page(body(nested), "r.data", hints).envelope == {"r": around}


@pytest.mark.parametrize(
    ("text", "selector", "reason"),
    [
        (b"", None, "not_json"),
        (b"   ", "data", "not_json"),
        (b"<html>no</html>", "data", "not_json"),
        (b'{"data":[{"a":1}', "data", "not_json"),
        (b'{"data":[{"a":1}]}{"data":[{"a":2}]}', "data", "not_json"),
        (b'{"data":[{"a":1}]}\n{"data":[{"a":2}]}', "data", "not_json"),
        (b'[{"a":1}]\n[{"a":2}]', None, "not_json"),
        (b'[{"a":1}],"b":[2]', None, "not_json"),
        (b'{"data":[{"a":NaN}]}', "data", "not_json"),
        (b'{"data":[{"a":-Infinity}]}', "data", "not_json"),
        (b'{"data":[{"a":"\xff"}]}', "data", "not_json"),
        ('{"data":[]}'.encode("utf-16"), "data", "not_json"),
        (b'{"error":"no"}', "data", "no_selector"),
        (b'{"data":{"error":"no"}}', "data.items", "no_selector"),
        (b'{"data":null}', "data.items", "no_selector"),
        (b'{"error":"no"}', "rows[0].items", "no_selector"),
        (b'{"data":"text"}', "data", "not_rows"),
        (b'{"data":[1,2]}', "data", "not_rows"),
        (b'{"data":[[{"a":1}]]}', "data", "not_rows"),
        (b"null", None, "not_rows"),
        (b'"text"', None, "not_rows"),
    ],
)
@pytest.mark.parametrize("primed", [False, True])
def test_a_body_that_is_not_a_page_says_why(text: bytes, selector: str | None, reason: str, primed: bool) -> None:
    hints = TypeMemory()
    if primed and selector == "data":
        read_page(b'{"data":[{"a":1}]}', "data", hints)
    with pytest.raises(BodyError) as raised:
        read_page(text, selector, hints)
    assert raised.value.reason == reason


@pytest.mark.parametrize(
    ("text", "selector", "stood"),
    [
        (b'{"data":[]}', "data", "list"),
        (b'{"data":{"a":1}}', "data", "object"),
        (b'{"data":null}', "data", "null"),
        (b'{"data":null}', "$.data", "null"),
        (b'{"a":1}', None, "object"),
        (b"[]", None, "list"),
        (b'{"r":{"a":1}}', "$..r", "list"),
        (b'{"r":[{"a":{"b":1}}]}', "r[0].a", "object"),
        (b'{"r":[{"a":null}]}', "r[0].a", "null"),
    ],
)
@pytest.mark.parametrize("exact", [False, True])
def test_a_page_reports_what_is_at_the_selector_instead_of_rows(
    text: bytes, selector: str, stood: str, exact: bool
) -> None:
    assert read_page(text, selector, exact=exact).selected_type == stood


PAGE = b'{"data":[{"id":1}]}'


@pytest.mark.parametrize(
    "bodies",
    [
        [PAGE + b"\n" + PAGE, b" "],
        [b'{"data":[{"id":1}', b',"x":{}}]}'],
        [b'{"data":[{"id":"a}', b'{"}]}'],
        [PAGE, b'{"data":[{"id":2},'],
        [PAGE, b'{"error":"no"}'],
        [PAGE, b'{"data":{"id":2}}'],
        [PAGE, b'{"data":null}'],
        [PAGE, b"<html>"],
        [PAGE, b'{"data":[1]}'],
        [PAGE, b'{"data":[{"id":"\xff"}]}'],
        [PAGE, b'{"data":[{"id":' + b"[" * 600 + b"]" * 600 + b"}]}"],
    ],
)
def test_bodies_that_are_only_valid_together_are_decoded_one_by_one(bodies: list[bytes]) -> None:
    assert read_pages(bodies, "data", TypeMemory()) is None


def test_bodies_decoded_together_give_the_same_pages_as_alone() -> None:
    documents = [{"data": [{"id": i, "at": "2024-01-01T00:00:00Z"}] * i, "total": 9, "n": i} for i in (2, 0, 3)]
    pages = read_pages([body(document) for document in documents], "data", TypeMemory())
    assert pages is not None
    assert [(page.objects(), page.envelope) for page in pages] == [
        (document.pop("data"), document) for document in documents
    ]


def test_an_error_quotes_nothing_of_the_body() -> None:
    for text in (b'{"customer":"secret-corp"', b'{"data":"secret-corp"}', b'{"data":["secret-corp"]}', b"secret-corp"):
        with pytest.raises(BodyError) as raised:
            read_page(text, "data")
        error: BaseException | None = raised.value
        while error is not None:
            assert "secret-corp" not in repr(vars(error)) + str(error)
            error = error.__cause__ or error.__context__


def test_whitespace_and_a_byte_order_mark_change_nothing() -> None:
    document = {"data": [{"a": "x\ny", "b": [1, 2]}, {"a": "z"}], "total": 2}
    for text in (
        json.dumps(document, indent=2),
        json.dumps(document) + "\n",
        "\ufeff" + json.dumps(document, indent=1),
    ):
        page = read_page(text.encode(), "data")
        assert page.structs is not None, "this is for the fast decoder"
        assert (page.objects(), page.envelope) == (document["data"], {"total": 2})


@pytest.mark.parametrize(
    "row",
    [
        {"a": 9007199254740993, "b": 0.5},
        {"a": [9007199254740993, 0.5]},
        {"a": 18446744073709551616},
        {"a": {"b": [{"c": 2**63}]}},
        {"a": 1e300},
        {"a": [None, 1]},
        {"a": [None, "x", [None, {"b": 1}]]},
        {"a": "2024-01-01", "b": "2024-01-01T00:00:00"},
        {"a": ["2024-01-01"], "b": {"c": "2024-01-01 10:00"}},
        {"a": "\0", "b": "", "ü": "😀", "": 1},
        {"a": "one", "b": [1, "two", None, {"c": True}]},
    ],
)
@pytest.mark.parametrize("before", [[], [{"a": 1.5, "b": 2}], [{"a": "x"}], [{"a": ["x"], "b": {"c": "x"}}]])
def test_no_value_is_changed_by_decoding(row: dict[str, Any], before: list[Any]) -> None:
    hints = TypeMemory()
    if before:
        read_page(body({"data": before}), "data", hints)
    rows = [{"a": 1}, row] if "a" in row else [row]
    for _ in range(2):
        page = read_page(body({"data": rows}), "data", hints)
        assert page.objects() == rows
        if page.structs is not None:
            decoded = page.structs.to_pylist()[-1]
            assert {name: decoded[name] for name in row} == row


def test_a_null_before_a_list_is_not_read_out_of_bounds() -> None:
    # Arrow forgets a leading null of a list when its type turns up later, and reads past the end of its buffers.
    rows = [{"a": [None, None, "x"]}, {"a": [None, {"b": 1}]}]
    for row in rows:
        page = read_page(body({"data": [row]}), "data")
        assert page.structs is None
        assert page.objects() == [row]
    page = read_page(b'{"data":[null,{"a":1}]}', "data")
    assert page.objects() == [None, {"a": 1}]


@pytest.mark.slow
@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}")])
def test_deep_nesting_is_refused_without_crashing_the_process(opening: str, closing: str) -> None:
    code = (
        "import sys\nfrom rmm_assets.errors import BodyError\nfrom rmm_assets.rows.decode import read_page\n"
        "body = sys.stdin.buffer.read()\n"
        "try: read_page(body, 'data')\nexcept BodyError as e: print(e.reason)\n"
    )
    hidden = '{"s":"' + "]}" * 300_000 + '\\"","data":'
    document = hidden + opening * 200_000 + "1" + closing * 200_000 + "}"
    done = subprocess.run(
        [sys.executable, "-c", code], input=document.encode(), capture_output=True, timeout=600, check=False
    )
    assert (done.returncode, done.stdout.strip()) == (0, b"too_large")


def test_many_adjacent_brackets_are_not_deep_nesting() -> None:
    rows = [{"a": [[["[[[{{{\\"]]], "b": {"c": {}}} for _ in range(MAX_DEPTH)]
    assert read_page(body({"data": rows}), "data").objects() == rows


def test_a_page_without_its_first_rows_is_a_page() -> None:
    rows = [{"a": i} for i in range(5)]
    for exact in (False, True):
        page = read_page(body(rows), None, exact=exact).slice(1).slice(2)
        assert (page.rows, page.objects()) == (2, rows[3:])
        assert page.slice(9).rows == 0


def test_hints_avoid_a_second_decoding_and_converge_if_pages_disagree() -> None:
    hints = TypeMemory()
    stamped = body({"data": [{"at": "2024-01-01T00:00:00Z", "n": None}], "now": "2024-01-01", "total": 1})
    read_page(stamped, "data", hints)
    assert hints.schema is not None
    assert sorted(hints.schema.names) == ["data", "now"]
    assert str(hints.schema.field("data").type) == "list<item: struct<at: string>>"
    for value in ({"at": 1}, {"at": {"b": 1}}, {"at": "2024-01-01"}, {"at": [1]}):
        assert read_page(body({"data": [value]}), "data", hints).objects() == [value]
    assert hints.schema is None or hints.schema.field("data").type.value_type.num_fields == 0


def test_threads_share_hints() -> None:
    hints = TypeMemory()
    bodies = [
        body({"data": [{"id": n * 10 + i, f"f{n % 7}": "2024-01-01", "m": n if n % 3 else "x"} for i in range(10)]})
        for n in range(200)
    ]
    with ThreadPoolExecutor(8) as pool:
        pages = list(pool.map(lambda text: read_page(text, "data", hints), bodies))
    for text, page in zip(bodies, pages):
        assert page.objects() == json.loads(text)["data"]
        assert page.structs is not None
        assert [{k: v for k, v in row.items() if v is not None} for row in page.structs.to_pylist()] == page.objects()

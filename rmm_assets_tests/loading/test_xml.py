"""Tests responses in XML: their plain shape, and that hostile bodies do no harm."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from rmm_assets.audit.documents import parse_xml
from rmm_assets.errors import BodyError, TransportError
from rmm_assets.rows.xml import xml_as_json
from rmm_assets_tests.audit.auditing import audited
from rmm_assets_tests.http.servers import Say, Scripted
from rmm_assets_tests.syncing import connection, read, resource, rows_of, run

# As N-able documents N-sight's list_clients.
CLIENTS = b"""<?xml version="1.0" encoding="ISO-8859-1"?>
<result created="2024-05-01T10:00:00+01:00" host="www.example.com" status="OK">
  <items>
    <client><name><![CDATA[K\xfche & S\xf6hne <1>]]></name><clientid>4711</clientid><view_dashboard>0</view_dashboard>
      <creation_date>2010-12-09</creation_date><timezone/><devices kind="server"><server_count>3</server_count></devices>
      <tag>a</tag><tag>b</tag></client>
    <client><name>Two</name><clientid>0815</clientid><tag>c</tag><note lang="en">hi <b>bold</b> there</note></client>
  </items>
</result>"""
ROWS: list[dict[str, Any]] = [
    {
        "name": "Kühe & Söhne <1>", "clientid": "4711", "view_dashboard": "0", "creation_date": "2010-12-09",
        "timezone": None, "devices": {"_kind": "server", "server_count": "3"}, "tag": ["a", "b"],
    },
    {"name": "Two", "clientid": "0815", "tag": ["c"], "note": {"_lang": "en", "_text": "hi  there", "b": "bold"}},
]  # fmt: skip
AROUND = {"_created": "2024-05-01T10:00:00+01:00", "_host": "www.example.com", "_status": "OK"}


def made(selector: str | None = "result/items/*", **changes: Any) -> Any:
    endpoint = {"data_selector": selector, "paginator": "single_page", "response": "xml", **changes.pop("endpoint", {})}
    return connection(resource(endpoint=endpoint, primary_key="clientid", **changes))


def saying(body: bytes) -> Scripted:
    return Scripted(lambda _: Say(body, headers=(("Content-Type", "text/xml"),)))


def shapes(body: bytes, path: str) -> list[Any]:
    """Returns the shape of a body as the loader and the audit make it."""
    return [json.loads(xml_as_json(body, path.split("/"))), parse_xml(body, path.split("/"))]


@pytest.mark.parametrize("path", ["result/items/*", "result/items/client"])
def test_xml_has_a_plain_shape(path: str) -> None:
    rows = ROWS if path.endswith("*") else {"client": ROWS}
    for shape in shapes(CLIENTS, path):
        assert shape == {"result": {**AROUND, "items": rows}}


@pytest.mark.parametrize(
    ("body", "path", "shape"),
    [
        (b"<r><items/></r>", "r/items/*", {"r": {"items": []}}),
        (b"<r><items/></r>", "r/items/i", {"r": {"items": {"i": []}}}),
        (b"<r/>", "r/i", {"r": {"i": []}}),
        (b"<r><i><a>1</a></i></r>", "r/i", {"r": {"i": [{"a": "1"}]}}),
        (b'<x:r xmlns:x="urn:x"><x:i x:a="1"/></x:r>', "r/i", {"r": {"i": [{"_a": "1"}]}}),
        (b"<r><!-- no --><i><a> 1 </a><?pi?></i></r>", "r/i", {"r": {"i": [{"a": " 1 "}]}}),
        (b"\xef\xbb\xbf<r><i><a>\xc3\xbc</a></i></r>", "r/i", {"r": {"i": [{"a": "ü"}]}}),
    ],
)
def test_rows_are_a_list_however_many_there_are(body: bytes, path: str, shape: Any) -> None:
    assert shapes(body, path) == [shape, shape]


LAUGHS = b'<!DOCTYPE r [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]><r><i><n>&b;</n></i></r>'
FILE = b'<!DOCTYPE r [<!ENTITY x SYSTEM "file:///etc/passwd">]><r><i><n>&x;</n></i></r>'
REMOTE = b'<!DOCTYPE r SYSTEM "http://127.0.0.1:9/evil.dtd"><r><i><n>1</n></i></r>'


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (LAUGHS, "document type or entities, which are refused"),
        (FILE, "document type or entities, which are refused"),
        (REMOTE, "document type or entities, which are refused"),
        (b"<r><i><n>&unknown;</n></i></r>", "is not XML"),
        (b"<r><i>", "is not XML"),
        (b'{"a": 1}', "is not XML"),
        (b"<?xml version='1.0' encoding='no-such'?><r/>", "is not XML"),
        (b"<a>" * 50_000 + b"</a>" * 50_000, "is not XML|nested too deeply"),
        (b'<r><i _a="1"><_a>2</_a></i></r>'.replace(b" _a=", b" a="), "two values of the name `_a`"),
    ],
)
def test_hostile_xml_is_refused(body: bytes, message: str) -> None:
    with pytest.raises(BodyError, match=message):
        xml_as_json(body, ["r", "i"])
    if "name" not in message:
        with pytest.raises((ValueError, RecursionError)):
            parse_xml(body, ["r", "i"])


def test_a_response_that_is_not_xml_is_red(tmp_path: Path) -> None:
    for number, (body, message) in enumerate(
        [
            (b"<html><body>Login</body></html>", "has no 'result.items', where the rows should be"),
            (b'<result status="FAIL"><error><message>no</message></error></result>', "has no 'result.items'"),
            (LAUGHS, "entities, which are refused"),
        ]
    ):
        with saying(body) as server, pytest.raises(TransportError, match=message):
            read(tmp_path / str(number), server.url, made())


@pytest.mark.slow
@pytest.mark.parametrize("normalizer", ["arrow", "dlt"])
def test_xml_is_loaded_with_declared_types_and_audited(normalizer: str, tmp_path: Path) -> None:
    columns = {"clientid": {"data_type": "text"}, "view_dashboard": {"data_type": "bigint"}}
    with saying(CLIENTS) as server:
        run(tmp_path, server.url, made(columns=columns, normalizer=normalizer))
        result = audited(tmp_path, server.url, made(columns=columns, normalizer=normalizer))
    one, two = sorted(rows_of(tmp_path), key=lambda row: str(row["name"]))
    assert (one["clientid"], one["view_dashboard"], one["name"]) == ("4711", 0, "Kühe & Söhne <1>")
    assert (two["clientid"], json.loads(two["tag"])) == ("0815", ["c"])
    assert [number for number in result.found.values() if number] == []
    assert result.rows_api == 2


def test_pages_in_xml_are_followed(tmp_path: Path) -> None:
    def answer(seen: Any) -> Say:
        page = int(seen.target.partition("page=")[2].partition("&")[0])
        items = (
            "".join(f"<item><clientid>{n}</clientid></item>" for n in range(page * 3, page * 3 + 3)) if page < 4 else ""
        )
        return Say(f"<list><total>12</total>{items}</list>".encode())

    paginator = {"type": "page_number", "base_page": 0, "total_path": None}
    with Scripted(answer) as server:
        report, rows = read(
            tmp_path, server.url, made("list/item", endpoint={"paginator": paginator}, total_path="list.total")
        )
    assert [row["clientid"] for row in rows] == [str(n) for n in range(12)]
    assert report.complete


@pytest.mark.parametrize(
    ("selector", "endpoint"),
    [(None, {}), ("$", {}), ("result.items", {}), ("*/items", {}), ("result/items/*", {"map_key": "name"})],
)
def test_a_path_that_does_not_lead_to_elements_is_refused(selector: str | None, endpoint: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=r"path of the rows' elements|XML has no maps"):
        made(selector, endpoint=endpoint)

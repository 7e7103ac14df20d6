"""Tests that values which an API writes in its own way land as what they mean, on both paths into the table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rmm_assets.rows.decode import read_page, read_pages
from rmm_assets.rows.type_memory import TypeMemory
from rmm_assets_tests.audit.auditing import audited
from rmm_assets_tests.http.servers import Say, Scripted
from rmm_assets_tests.syncing import Row, connection, ids, resource, rows_of, run

PATHS: dict[str, dict[str, Any]] = {
    "arrow": {},
    "arrow, child tables": {"child_tables": True},
    "dlt": {"normalizer": "dlt"},
    "dlt, child tables": {"normalizer": "dlt", "child_tables": True},
}


def made(**changes: Any) -> Any:
    return connection(resource(endpoint={"paginator": "single_page"}, **changes))


def serving(*rows: Row) -> Scripted:
    return Scripted(lambda seen: Say({"data": rows}))


NULLISH: list[Row] = [
    {"id": 1, "a": "", "b": {"c": "N/A", "d": "x"}, "tags": ["", "x", None], "parts": [{"p": ""}, {"p": "q"}], "n": 0},
    {"id": 2, "a": "y", "b": {"c": "z", "d": ""}, "tags": [], "parts": [], "n": 1},
    {"id": 3, "a": " ", "b": None, "tags": None, "parts": [{"p": "N/A"}], "n": None},
    {"id": 4, "a": None, "tags": ["a"], "n": 2},
]


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("start", [0, 1])
def test_null_values_become_null_everywhere_in_the_rows(exact: bool, start: int) -> None:
    body = json.dumps({"data": NULLISH, "mark": ""}).encode()
    expected = json.loads(json.dumps(NULLISH).replace('""', "null").replace('"N/A"', "null"))[start:]
    pages = [read_page(body, "data", exact=exact, null_values=frozenset({"", "N/A"}))]
    if not exact:
        pages += read_pages([body, body], "data", TypeMemory(), null_values=frozenset({"", "N/A"})) or []
        assert all(page.structs is not None for page in pages) and len(pages) == 3
    for page in (page.slice(start) for page in pages):
        assert page.objects() == expected
        assert page.envelope == {"mark": ""}
        if page.structs is not None:
            page.structs.validate(full=True)
            assert [
                {name: row[name] for name in sent} for row, sent in zip(page.structs.to_pylist(), expected)
            ] == expected


@pytest.mark.slow
@pytest.mark.parametrize("path", PATHS)
def test_null_values_are_null_in_the_table_and_in_its_audit(path: str, tmp_path: Path) -> None:
    file = made(null_values=["", "N/A"], **PATHS[path])
    keyless = {"id": "", "a": "no key"}
    with serving(*NULLISH, keyless) as server:
        outcome = run(tmp_path, server.url, file)
        result = audited(tmp_path, server.url, file)
    rows = rows_of(tmp_path)
    assert outcome.rows_rejected == 1
    assert ids(rows) == [1, 2, 3, 4]
    assert [row["a"] for row in rows] == [None, "y", " ", None]
    assert (result.found["different"], result.found["missing"], result.rejected) == (0, 0, 1)
    if "child" in path:
        assert sorted(str(row["p"]) for row in rows_of(tmp_path, "devices__parts")) == ["None", "None", "q"]
    else:
        assert [json.loads(row["tags"]) if row["tags"] else None for row in rows] == [
            [None, "x", None],
            [],
            None,
            ["a"],
        ]


@pytest.mark.slow
def test_null_values_of_a_resource_replace_those_of_its_defaults(tmp_path: Path) -> None:
    file = connection(
        resource(endpoint={"paginator": "single_page"}),
        resource("sites", endpoint={"paginator": "single_page"}, null_values=[]),
        resource_defaults={"null_values": ""},
    )
    with serving({"id": 1, "name": ""}, {"id": 2, "name": "x"}) as server:
        for name in ("devices", "sites"):
            run(tmp_path, server.url, file, name)
    assert [[row["name"] for row in rows_of(tmp_path, name)] for name in ("devices", "sites")] == [
        [None, "x"],
        ["", "x"],
    ]

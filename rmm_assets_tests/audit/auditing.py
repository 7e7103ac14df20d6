"""Provides tables with faults, misbehaving servers, and audits of both; shared by the tests of audit."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import duckdb

from rmm_assets.audit import Audit, audit
from rmm_assets.config import Connection
from rmm_assets_tests.http.servers import Say, Seen
from rmm_assets_tests.syncing import KEY, connection, store_in


def audited(folder: Path, base_url: str, made: Connection | None = None, name: str = "devices") -> Audit:
    made = made or connection()
    return audit(made, made.resource(name), KEY, store=store_in(folder), base_url=base_url)


def found(result: Audit) -> dict[str, int]:
    return {kind: number for kind, number in result.found.items() if number}


def tamper(folder: Path, *statements: str) -> None:
    with duckdb.connect(str(folder / "rmm.duckdb")) as client:
        for statement in statements:
            client.execute(statement)


def copied(source: Path, folder: Path) -> None:
    shutil.copy(source / "rmm.duckdb", folder)


def parameters(seen: Seen) -> dict[str, str]:
    return {name: values[-1] for name, values in parse_qs(urlsplit(seen.target).query).items()}


def listing(
    rows: list[dict[str, Any]], *, cap: int = 10_000, around: Callable[[int, int], Mapping[str, Any]] = lambda o, n: {}
) -> Callable[[Seen], Say]:
    """Returns the responses of an API with offsets; `around` returns the fields next to the rows."""

    def answer(seen: Seen) -> Say:
        asked = parameters(seen)
        offset, limit = int(asked.get("offset", 0)), min(int(asked.get("limit", 50)), cap)
        page = rows[offset : offset + limit]
        return Say({"data": page, **around(offset, len(page))})

    return answer

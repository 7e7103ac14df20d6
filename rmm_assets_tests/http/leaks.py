"""Finds a secret in the files of a folder, in every encoding."""

from __future__ import annotations

import base64
import contextlib
import gzip
import html
import json
import zlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from urllib.parse import quote, quote_plus

import duckdb
import pyarrow.parquet as pq


def _small_escapes(text: str) -> str:
    parts = text.split("%")
    return parts[0] + "".join("%" + part[:2].lower() + part[2:] for part in parts[1:])


WRITTEN: Mapping[str, Callable[[str], str]] = {
    "as it is": str,
    "percent, all": lambda key: quote(key, safe=""),
    "percent, path": quote,
    "percent, form": quote_plus,
    "percent, small letters": lambda key: _small_escapes(quote(key, safe="")),
    "form, small letters": lambda key: _small_escapes(quote_plus(key)),
    "percent twice": lambda key: quote(quote(key, safe=""), safe=""),
    "encodeURIComponent": lambda key: quote(key, safe="!*'()~"),
    "JSON": lambda key: json.dumps(key)[1:-1],
    "JSON, letters kept": lambda key: json.dumps(key, ensure_ascii=False)[1:-1],
    "JSON in JSON": lambda key: json.dumps(json.dumps(key)[1:-1])[1:-1],
    "JSON as PHP writes it": lambda key: json.dumps(key)[1:-1].replace("/", "\\/"),
    "HTML": html.escape,
    "HTML as Jinja writes it": lambda key: html.escape(key).replace("&quot;", "&#34;").replace("&#x27;", "&#39;"),
    "Python": lambda key: repr(key)[1:-1],
    "Python bytes": lambda key: repr(key.encode())[2:-1],
}
"""By name, what writes a secret down as people, servers and programs do."""


def base64_cores(key: str) -> list[str]:
    """Returns the part of a secret's base64 that does not depend on its neighbours, at each of the three alignments."""
    cores = []
    for before in range(3):
        whole = base64.b64encode(b"x" * before + key.encode()).decode()
        first = -(-8 * before // 6)
        last = 8 * (before + len(key.encode())) // 6
        cores.append(whole[first:last])
    return cores


def needles(secrets: Iterable[str]) -> dict[bytes, str]:
    """Returns the bytes to search for, with the encoding of each."""
    found: dict[bytes, str] = {}
    for secret in secrets:
        for name, write in WRITTEN.items():
            written = write(secret)
            found.setdefault(written.encode(), name)
            found.setdefault(written.encode("latin-1", "replace"), f"{name}, latin-1")
            found.setdefault(written.encode("utf-16-le"), f"{name}, UTF-16")
        for core in base64_cores(secret):
            found.setdefault(core.encode(), "base64")
            found.setdefault(core.replace("+", "-").replace("/", "_").encode(), "base64, URL-safe")
    return found


def leaks_in(folder: Path, secrets: Iterable[str]) -> tuple[int, list[str]]:
    """Searches every file of a folder byte by byte; compressed files, Parquet and DuckDB also unpacked.

    Returns:
        The number of files searched, and a line for each match.
    """
    searched = 0
    finds: list[str] = []
    forms = needles(secrets)
    for file in sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()):
        searched += 1
        for what, content in _contents(file):
            for needle, form in forms.items():
                place = content.find(needle)
                if place >= 0:
                    around = content[max(0, place - 60) :][:200]
                    finds.append(f"{file.relative_to(folder)}{what}: {form}, at ...{around!r}")
    return searched, finds


def _contents(file: Path) -> list[tuple[str, bytes]]:
    raw = file.read_bytes()
    contents = [(" (name)", str(file).encode()), ("", raw)]
    if raw[:2] == b"\x1f\x8b":
        contents.append((" (unpacked)", gzip.decompress(raw)))
    elif raw[:1] == b"\x78":
        with contextlib.suppress(zlib.error):
            contents.append((" (unpacked)", zlib.decompress(raw)))
    elif raw[:4] == b"PAR1":
        contents.append((" (table)", str(pq.read_table(file).to_pylist()).encode()))
    elif file.suffix == ".duckdb":
        contents.append((" (tables)", _tables(file)))
    return contents


def _tables(file: Path) -> bytes:
    """Yields all names and values of a DuckDB file."""
    lines: list[str] = []
    with duckdb.connect(str(file), read_only=True) as connection:
        tables = connection.sql("SELECT table_schema, table_name FROM information_schema.tables").fetchall()
        for schema, table in tables:
            asked = connection.execute(f'SELECT * FROM "{schema}"."{table}"')
            lines.append(f"{schema}.{table}: {[column[0] for column in asked.description or ()]}")
            lines += ["\n".join(str(value) for value in row) for row in asked.fetchall()]
    return "\n".join(lines).encode()

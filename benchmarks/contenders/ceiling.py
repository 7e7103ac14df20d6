"""Contender f: the same load written by hand for this one API, as fast as possible.

It requests ``concurrency`` pages at a time, parses the bodies of many pages with Arrow's JSON reader in a thread, with
the types of timestamps known in advance, and loads them into DuckDB with one ``MERGE``. It has no retries, no proof of
completeness, no schema changes and no dlt. aiohttp took an eighth of httpx's time for the same pages, Arrow's reader
60 % of orjson's with ``Table.from_pylist``, and ``MERGE`` two thirds of ``INSERT OR REPLACE``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import aiohttp
import duckdb
import pyarrow as pa
import pyarrow.json

from benchmarks.contenders.task import API_KEY, DATASET, Task, task_from_arguments

PAGES_A_TABLE = 50
# By default, Arrow reads whole seconds as timestamps but milliseconds as text.
_TIMESTAMPS = pa.schema(
    [(name, pa.timestamp("us", "UTC")) for name in ("created_at", "updated_at", "last_seen_at", "warranty_until")]
)
_BODY = pa.schema([("data", pa.list_(pa.struct(list(_TIMESTAMPS))))])


def parse(bodies: list[bytes]) -> pa.Table:
    """Parses the rows of many bodies into one table; releases the GIL while Arrow works."""
    text = b"\n".join(bodies)
    table = pa.json.read_json(
        pa.BufferReader(text),
        pa.json.ReadOptions(use_threads=False, block_size=len(text)),
        pa.json.ParseOptions(explicit_schema=_BODY),
    )
    return pa.Table.from_struct_array(table["data"].combine_chunks().flatten())


async def fetch(task: Task, session: aiohttp.ClientSession, name: str) -> pa.Table:
    """Fetches every row of one resource."""

    async def page(offset: int) -> bytes:
        query: dict[str, str | int] = {"offset": offset, "limit": task.page, "api_key": API_KEY}
        async with session.get(f"/v1/{name}", params=query) as response:
            response.raise_for_status()
            return await response.read()

    first = await page(0)
    total = int(first.rpartition(b'"total":')[2].rstrip(b"}"))
    offsets = iter(range(task.page, total, task.page))
    parsing: list[asyncio.Task[pa.Table]] = []
    bodies = [first]

    def hand_over() -> None:
        parsing.append(asyncio.create_task(asyncio.to_thread(parse, bodies.copy())))
        bodies.clear()

    async def work(offsets: Iterator[int]) -> None:
        for offset in offsets:
            bodies.append(await page(offset))
            if len(bodies) >= PAGES_A_TABLE:
                hand_over()

    await asyncio.gather(*(work(offsets) for _ in range(task.concurrency)))
    if bodies:
        hand_over()
    # A column may be all null in one batch and text in another.
    return pa.concat_tables(await asyncio.gather(*parsing), promote_options="permissive")


async def fetch_all(task: Task) -> list[pa.Table]:
    """Fetches the rows of every resource, in the order of ``task.names``."""
    async with aiohttp.ClientSession(task.base_url) as session:
        return [await fetch(task, session, name) for name in task.names]


def upsert(connection: duckdb.DuckDBPyConnection, name: str, incoming: pa.Table) -> None:
    """Merges ``incoming`` into ``bench.<name>`` by id: objects flattened, lists as JSON text."""
    columns = []
    for field in incoming.schema:
        if pa.types.is_struct(field.type):
            columns += [f'"{field.name}"."{part.name}" AS "{field.name}__{part.name}"' for part in field.type]
        elif pa.types.is_list(field.type):
            columns.append(f'to_json("{field.name}") AS "{field.name}"')
        else:
            columns.append(f'"{field.name}"')
    connection.register("incoming", incoming)
    rows = f"SELECT {', '.join(columns)} FROM incoming"
    connection.execute(f"CREATE TABLE IF NOT EXISTS {DATASET}.{name} AS {rows} LIMIT 0")
    connection.execute(
        f"MERGE INTO {DATASET}.{name} old USING ({rows}) new ON old.id = new.id "
        "WHEN MATCHED THEN UPDATE BY NAME WHEN NOT MATCHED THEN INSERT BY NAME"
    )


if __name__ == "__main__":
    given = task_from_arguments()
    tables = asyncio.run(fetch_all(given))
    with duckdb.connect(str(given.database)) as database:
        database.execute(f"CREATE SCHEMA IF NOT EXISTS {DATASET}")
        for resource, rows in zip(given.names, tables, strict=True):
            upsert(database, resource, rows)

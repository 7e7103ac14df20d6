"""Tests that no file that a run writes contains the secret, whatever goes wrong."""

from __future__ import annotations

import contextlib
import gzip
import http.client
import pickle
import re
import shutil
import traceback
from dataclasses import replace
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rmm_assets.config import Connection
from rmm_assets.loading.run import sync
from rmm_assets_tests.http.leaks import WRITTEN, base64_cores, leaks_in
from rmm_assets_tests.reading.hostile import AUTHS, ODD, PLAIN, Case, Hostile


def run(case: Case, hostile: Hostile, folder: Path, token_path: str = "token") -> str:
    """Triggers one failure, and writes the error with its whole chain and all variables of its frames to a file.

    Returns:
        The texts of the chain; empty if the run succeeded.
    """
    connection = Connection.model_validate(case.connection(hostile.auth(token_path)))
    try:
        sync(connection, connection.resources[0], hostile.connection_secrets())
    except Exception as error:
        # The first frame is this test's own, which contains the key.
        error.__traceback__ = error.__traceback__ and error.__traceback__.tb_next
        with (folder / "exceptions.txt").open("a") as file:
            file.write("".join(traceback.format_exception(error)))
            file.write("".join(traceback.TracebackException.from_exception(error, capture_locals=True).format()))
            file.write(repr(error))
        with (folder / "exceptions.pickle").open("ab") as pickles, contextlib.suppress(Exception):
            pickles.write(pickle.dumps(error))
        chain, seen = [error], [str(error)]
        while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None:
            chain.append(cause)  # type: ignore[arg-type]
            seen.append(str(cause))
        return "\n".join(seen)
    return ""


# Cases whose files the search must cover.
SEARCHED = ("refused_401", "down", "rows", "rejected", "since")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("way", "key"),
    [pytest.param("query", PLAIN, id="query, plain"), *(pytest.param(way, ODD, id=f"{way}, odd") for way in AUTHS)],
)
def test_the_secret_is_in_no_file_log_output_or_exception(
    way: str, key: str, everything_kept: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    hostile = Hostile(way, key, tmp_path / "certificates")
    with hostile.running() as cases:
        if way != "query" or key == PLAIN:  # in a URL, a secret is seen most often; the others share the failures
            part = cases[list(AUTHS).index(way) :: len(AUTHS)]
            cases = [case for case in cases if case in part or case.name in SEARCHED]
        plain = http.client.HTTPConnection(hostile.url.partition("://")[2])
        plain.request("GET", "/token")  # shows that http.client does print what it sends
        plain.close()
        shown, _ = capfd.readouterr()
        assert "send: b'GET /token" in shown
        said = {case.name: run(case, hostile, everything_kept) for case in cases}
        unexpected = {
            case.name: said[case.name] or "it succeeded"
            for case in cases
            if bool(said[case.name]) != case.red or not re.search(case.says, said[case.name])
        }
        assert not unexpected
        if way in ("oauth2", "token"):
            for path in ("no_token", "bare_token"):
                assert "no token from" in run(replace(cases[0], name=path), hostile, everything_kept, path)
        assert not hostile.other.seen
    assert hostile.arrived >= 0.8 * len(cases)
    captured = capfd.readouterr()
    (everything_kept / "stdout").write_text(captured.out)
    (everything_kept / "stderr").write_text(captured.err)

    searched, finds = leaks_in(everything_kept, hostile.secrets)
    assert not finds, "\n".join(finds[:20])

    # The search covered files with something to find.
    log = (everything_kept / "debug.log").read_text()
    assert "GET /refused_401" in log
    assert "retry 1 of 1" in log
    names = [str(file.relative_to(everything_kept)) for file in everything_kept.rglob("*") if file.is_file()]
    for kind in ("rmm.duckdb", "trace.pickle", ".parquet", "exceptions.txt", "data/work/pages/"):
        assert any(kind in name for name in names), kind
    assert searched > 100
    with duckdb.connect("data/rmm.duckdb", read_only=True) as database:
        assert "***" in str(database.sql("SELECT * FROM acme.rows").fetchall())
        assert "***" in str(database.sql("SELECT * FROM acme.rejected_rejected").fetchall())


@pytest.mark.slow
@pytest.mark.parametrize("form", [*WRITTEN, "base64 0", "base64 1", "base64 2"])
@pytest.mark.parametrize("key", [PLAIN, ODD], ids=["plain", "odd"])
def test_the_search_finds_planted_keys(tmp_path: Path, key: str, form: str) -> None:
    kind, _, number = form.partition(" ")
    written = base64_cores(key)[int(number)] if kind == "base64" else WRITTEN[form](key)
    places = tmp_path / "places"
    places.mkdir()
    (places / "plain.log").write_text(f"a {written} b")
    with gzip.open(places / "load.jsonl.gz", "wt") as packed:
        packed.write(f"a {written} b")
    pq.write_table(pa.table({"x": [f"a {written} b"]}), places / "x.parquet", compression="zstd")
    with duckdb.connect(str(places / "x.duckdb")) as database:
        database.execute("CREATE TABLE t AS SELECT ? AS x", [f"a {written} b"])
    searched, finds = leaks_in(places, [key])
    assert searched == 4
    for file in ("plain.log", "load.jsonl.gz", "x.parquet", "x.duckdb"):
        assert any(find.startswith(file) for find in finds), file
    shutil.rmtree(places)

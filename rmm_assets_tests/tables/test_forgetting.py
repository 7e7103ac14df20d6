"""Tests that a forgotten resource is loaded as if for the first time, and others are unchanged."""

from __future__ import annotations

from pathlib import Path

import pytest

from rmm_assets.simulator import Simulator
from rmm_assets.tables.forgetting import forget, schemas_like, tables_of
from rmm_assets.tables.syncs import SYNCS
from rmm_assets_tests.syncing import connection, devices, resource, rows_of, run, store_in


@pytest.mark.slow
def test_a_forgotten_incremental_range_starts_over_and_other_resources_stay(tmp_path: Path) -> None:
    made = connection(
        resource(
            write_disposition="append",
            child_tables=True,
            endpoint={
                "incremental": {
                    "cursor_path": "number", "start_param": "above", "initial_value": 0, "range_start": "open"
                }
            },
        ),
        resource("alerts"),
    )  # fmt: skip
    rows = [{**row, "number": row["id"], "disks": [{"drive": "C"}]} for row in devices(20)]
    with Simulator(tables={"devices": rows, "alerts": devices(5)}) as server:
        for name in ("devices", "alerts"):
            run(tmp_path, server.base_url, made, name)
        assert run(tmp_path, server.base_url, made).rows_loaded == 0

        with store_in(tmp_path).changing("test") as client:
            assert schemas_like(client, "acme__") == ["acme__alerts", "acme__devices"]
            tables = tables_of(client, "acme__devices")
            assert tables == ["devices", "devices__disks"]
            forget(client, "acme__devices", tables)
            assert schemas_like(client, "") == ["acme__alerts"]
        assert rows_of(tmp_path) == rows_of(tmp_path, "devices__disks") == []
        assert rows_of(tmp_path, "alerts") == devices(5)
        assert len(rows_of(tmp_path, SYNCS)) == 3

        assert run(tmp_path, server.base_url, made).rows_loaded == 20
        assert len(rows_of(tmp_path, "devices__disks")) == 20

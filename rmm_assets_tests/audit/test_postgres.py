"""Tests that values are stored exactly in PostgreSQL, and that an audit finds differences there."""

from __future__ import annotations

from pathlib import Path

import pytest

from rmm_assets.audit import audit
from rmm_assets.loading.run import sync
from rmm_assets.simulator import Simulator
from rmm_assets.tables.store import Store
from rmm_assets_tests.audit.auditing import found
from rmm_assets_tests.audit.test_audit import VALUES
from rmm_assets_tests.syncing import KEY, connection, resource

pytestmark = pytest.mark.slow

TAMPER = (
    "DELETE FROM acme.devices WHERE id = 2",
    "UPDATE acme.devices SET _absent_since = now() WHERE id = 3",
    "UPDATE acme.devices SET text = NULL WHERE id = 5",
    "UPDATE acme.devices SET tags = '[1]', n = 1.5000001 WHERE id = 1",
    "INSERT INTO acme.devices (id, _dlt_load_id) VALUES (99, '1')",
)


def test_values_are_stored_exactly_in_postgres_and_an_audit_finds_faults_there(postgres: str, tmp_path: Path) -> None:
    made = connection(resource(columns={"at": {"data_type": "timestamp"}}), destination="postgres")
    store = Store("postgres", postgres, "acme", tmp_path / "work")
    with Simulator(tables={"devices": VALUES}) as rmm:
        target = made.resource("devices")
        sync(made, target, KEY, base_url=rmm.base_url, store=store)
        # Empty text stays text. PostgreSQL does not preserve the spelling of floats in a list.
        right = audit(made, target, KEY, base_url=rmm.base_url, store=store)
        assert right.sentences() == ["unverified: tags cannot be compared in 1 rows"]
        with store.pipeline("tamper").sql_client() as client:
            for statement in TAMPER:
                client.execute_sql(statement)
        wrong = audit(made, target, KEY, base_url=rmm.base_url, store=store)
    assert found(wrong) == {"missing": 1, "marked_absent": 1, "different": 2, "extra": 1}
    assert wrong.columns == {"text": 1, "tags": 1, "n": 1}

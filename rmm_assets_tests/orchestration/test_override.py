"""Tests the example of docs/how-to/customize.md, loaded and run as a reader would."""

from __future__ import annotations

import sys
from pathlib import Path

import dagster as dg
import pytest

import rmm_assets
from rmm_assets.definitions import build_defs

pytestmark = pytest.mark.slow

PAGE = Path(rmm_assets.__file__).parents[1] / "docs" / "how-to" / "customize.md"


@pytest.fixture
def definitions(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> dg.Definitions:
    """Returns the definitions of a folder with the page's files."""
    _, module, file = PAGE.read_text(encoding="utf-8").split("<!-- test: file ")
    folder = workplace / "connections" / "acme"
    folder.mkdir(parents=True)
    (workplace / "my_team.py").write_text(module.partition("```python\n")[2].partition("```")[0], encoding="utf-8")
    (folder / "defs.yaml").write_text(file.partition("```yaml\n")[2].partition("```")[0], encoding="utf-8")
    monkeypatch.syspath_prepend(str(workplace))
    monkeypatch.delitem(sys.modules, "my_team", raising=False)
    return build_defs(folders=[folder.parent])


def test_a_subclass_changes_an_assets_spec(definitions: dg.Definitions) -> None:
    spec = definitions.resolve_asset_graph().get(dg.AssetKey(["acme", "organizations"]))
    assert spec.tags["cost_center"] == "noc"
    assert list(spec.owners) == ["team:acme"]
    assert "dagster/code_references" in spec.metadata


def test_a_subclass_wraps_a_run(definitions: dg.Definitions, instance: dg.DagsterInstance) -> None:
    result = definitions.resolve_job_def("sync_acme").execute_in_process(instance=instance)
    [event] = result.get_asset_materialization_events()
    rows = event.materialization.metadata["rows_loaded"].value
    assert rows
    logged = [entry.user_message for entry in instance.all_logs(result.run_id)]
    assert f"organizations: {rows} rows for the NOC" in logged

"""Tests that `profiles/generic.yaml` works with only the host changed."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import duckdb
import pytest

import rmm_assets
from rmm_assets.simulator import Fleet, Simulator
from rmm_assets_tests.commands import rmm as rmm_command

PROFILE = Path(rmm_assets.__file__).parent / "profiles" / "generic.yaml"
KEY = "s3cr3t-9f8e7d6c5b"

pytestmark = pytest.mark.slow


def sync(folder: Path, base_url: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs `rmm sync generic` in a folder, as a user would after copying the profile and changing the host."""
    text = PROFILE.read_text()
    assert text.count("https://api.example.com") == 1
    (folder / "connections" / "generic").mkdir(parents=True)
    (folder / "connections" / "generic" / "defs.yaml").write_text(text.replace("https://api.example.com", base_url))
    (folder / "home").mkdir()
    places = {"DAGSTER_HOME": str(folder / "home"), "RMM_CONNECTIONS": str(folder / "connections")}
    return rmm_command(["sync", "generic"], folder, {**os.environ, **places, **environment})


@pytest.mark.parametrize("place", ["environment", "secrets.toml"])
def test_every_row_is_loaded_with_the_key_from_dlts_secrets(place: str, tmp_path: Path) -> None:
    environment = {"API_KEY": KEY} if place == "environment" else {}
    if place == "secrets.toml":
        (tmp_path / ".dlt").mkdir()
        (tmp_path / ".dlt" / "secrets.toml").write_text(f'api_key = "{KEY}"\n')
    with Simulator(fleet=Fleet(resources=730), api_key=KEY) as rmm:
        done = sync(tmp_path, rmm.base_url, **environment)
        assert done.returncode == 0, done.stdout + done.stderr
        rows = rmm.rows("resource")
        pages = [request for request in rmm.requests if request.status == 200]

    # limit 100; each page repeats one row of the previous one.
    assert len(pages) == 8
    assert all(request.query["api_key"] == KEY for request in pages)
    assert len(rows) > 700
    with duckdb.connect(str(tmp_path / "data" / "rmm.duckdb"), read_only=True) as db:
        found = db.execute("SELECT id, name, status FROM generic.resource_name ORDER BY id").fetchall()
    assert found == sorted((row["id"], row["name"], row["status"]) for row in rows)
    assert f"{len(rows):,}" in done.stdout or str(len(rows)) in done.stdout
    assert KEY not in done.stdout + done.stderr


def test_without_the_key_the_run_says_what_to_set(tmp_path: Path) -> None:
    with Simulator(fleet=Fleet(resources=5), api_key=KEY) as rmm:
        done = sync(tmp_path, rmm.base_url)
        assert not rmm.requests
    assert done.returncode == 1
    assert "set the environment variable API_KEY, or api_key in .dlt/secrets.toml" in " ".join(done.stdout.split())
    assert "Traceback" not in done.stdout


def test_the_profile_is_the_config_of_the_issue() -> None:
    # Exactly this, except for comments and layout.
    import yaml

    attributes = yaml.safe_load(PROFILE.read_text())["attributes"]
    assert json.loads(json.dumps(attributes)) == {
        "name": "generic",
        "client": {
            "base_url": "https://api.example.com",
            "auth": {"type": "api_key", "name": "api_key", "location": "query"},
        },
        "api_key": {"dlt_secret": "api_key"},
        "resource_defaults": {"primary_key": "id", "write_disposition": "merge"},
        "resources": [
            {
                "name": "resource_name",
                "endpoint": {
                    "path": "/v1/resource",
                    "data_selector": "data",
                    "paginator": {"type": "offset", "limit": 100},
                },
            }
        ],
    }

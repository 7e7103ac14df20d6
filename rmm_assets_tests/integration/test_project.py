"""The project as Dagster's, dg's and ruff's own commands see it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml

import rmm_assets

PROJECT = Path(rmm_assets.__file__).parents[1]
BIN = Path(sys.executable).parent

pytestmark = pytest.mark.slow

# Python runs it before anything else: the package is no longer installed, whichever way it was.
NOT_INSTALLED = f"""
import sys
sys.path[:] = [path for path in sys.path if path.rstrip("/") != {str(PROJECT)!r}]
sys.meta_path[:] = [finder for finder in sys.meta_path if "rmm_assets" not in getattr(finder, "__module__", "")]
"""


def command(
    *words: str, cwd: Path, home: Path, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    home.mkdir(exist_ok=True)
    (home / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    return subprocess.run(
        [str(BIN / words[0]), *words[1:]],
        cwd=cwd,
        env={**os.environ, "DAGSTER_HOME": str(home), "DG_CLI_TELEMETRY": "false", **(environment or {})},
        capture_output=True,
        text=True,
        timeout=180,
    )


def copy_of_the_project(folder: Path) -> Path:
    """What a clone has and Dagster looks at."""
    ignored = shutil.ignore_patterns("__pycache__", "ruff.toml")
    shutil.copytree(PROJECT / "rmm_assets", folder / "rmm_assets", ignore=ignored)
    for name in ("dg.toml", "pyproject.toml", "setup.cfg"):
        shutil.copy(PROJECT / name, folder / name)
    # Our own location alone: the example beside it has tests of its own.
    own = yaml.safe_load((PROJECT / "workspace.yaml").read_text())["load_from"][:1]
    (folder / "workspace.yaml").write_text(yaml.safe_dump({"load_from": own}))
    return folder


def test_the_location_is_found_where_the_package_is_not_installed(tmp_path: Path) -> None:
    clone = copy_of_the_project(tmp_path / "clone")
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(NOT_INSTALLED)
    environment = {"PYTHONPATH": str(tmp_path / "site")}
    elsewhere = subprocess.run(
        [sys.executable, "-c", "import rmm_assets"],
        cwd=tmp_path,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )
    assert "No module named 'rmm_assets'" in elsewhere.stderr

    done = command("dagster", "definitions", "validate", cwd=clone, home=tmp_path / "home", environment=environment)
    told = done.stdout + done.stderr
    assert done.returncode == 0, told
    assert "Validation successful for code location rmm_assets." in told


def test_the_location_is_found_from_elsewhere_through_pythonpath(tmp_path: Path) -> None:
    done = command(
        *("dagster", "definitions", "validate", "-m", "rmm_assets.definitions"),
        cwd=tmp_path,
        home=tmp_path / "home",
        environment={"PYTHONPATH": str(PROJECT)},
    )
    told = done.stdout + done.stderr
    assert done.returncode == 0, told
    assert "Validation successful for code location rmm_assets.definitions." in told


def test_dg_lists_the_component_and_its_schema(tmp_path: Path) -> None:
    done = command("dg", "list", "components", "--json", cwd=PROJECT, home=tmp_path / "home")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "rmm_assets.RmmConnection" in {component["key"] for component in json.loads(done.stdout)["items"]}


def test_dg_checks_the_connection_files(tmp_path: Path) -> None:
    clone = copy_of_the_project(tmp_path / "clone")
    done = command("dg", "check", "yaml", cwd=clone, home=tmp_path / "home")
    assert done.returncode == 0, done.stdout + done.stderr

    file = clone / "rmm_assets" / "defs" / "demo" / "defs.yaml"
    file.write_text(file.read_text().replace("attributes:", "attributs:", 1))
    done = command("dg", "check", "yaml", cwd=clone, home=tmp_path / "home")
    assert done.returncode != 0
    assert "attributs" in done.stdout + done.stderr


def test_the_core_is_imported_without_dagster() -> None:
    check = "import sys, rmm_assets.sync; assert not [name for name in sys.modules if name.startswith('dagster')]"
    subprocess.run([sys.executable, "-c", check], check=True, cwd=PROJECT)


@pytest.mark.parametrize(
    ("room", "line", "allowed"),
    [
        ("api", "import dagster", False),
        ("api", "from dagster_dlt import DagsterDltResource", False),
        ("api", "from rmm_assets.orchestration.checks import Check", False),
        ("api", "from rmm_assets.api.paging import Pager", True),
        ("api", "from rmm_assets.warehouse.rows import Page", True),
        ("warehouse", "import dagster", False),
        ("warehouse", "from rmm_assets.api.paging import Pager", False),
        ("warehouse", "from rmm_assets import api", False),
        ("warehouse", "from rmm_assets.warehouse.rows import Page", True),
        ("overview", "import dagster", False),
        ("overview", "from rmm_assets.warehouse.pipeline import Table", True),
        ("orchestration", "import dagster", True),
        ("orchestration", "from rmm_assets.api.paging import Pager", True),
    ],
)
def test_a_room_imports_only_what_it_may(room: str, line: str, allowed: bool) -> None:
    # Through stdin, under the name of a file that is not there: ruff takes the settings of that folder.
    done = subprocess.run(
        [str(BIN / "ruff"), "check", "--select", "TID251", "--stdin-filename", f"rmm_assets/{room}/any.py", "-"],
        input=line + "\n",
        cwd=PROJECT,
        capture_output=True,
        text=True,
    )
    assert (done.returncode == 0) is allowed, done.stdout + done.stderr
    assert ("TID251" in done.stdout) is not allowed

"""Tests the project with the commands of Dagster, dg and import-linter."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

import rmm_assets

PROJECT = Path(rmm_assets.__file__).parents[1]
BIN = Path(sys.executable).parent

pytestmark = pytest.mark.slow

# Python runs it before anything else; it hides the installed package, however it was installed.
NOT_INSTALLED = f"""
import sys
sys.path[:] = [path for path in sys.path if path.rstrip("/") != {str(PROJECT)!r}]
sys.meta_path[:] = [finder for finder in sys.meta_path if "rmm_assets" not in getattr(finder, "__module__", "")]
"""


def command(
    *words: str, cwd: Path, home: Path, folder: Path = BIN, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    home.mkdir(exist_ok=True)
    (home / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    return subprocess.run(
        [str(folder / words[0]), *words[1:]],
        cwd=cwd,
        env={**os.environ, "DAGSTER_HOME": str(home), "DG_CLI_TELEMETRY": "false", **(environment or {})},
        capture_output=True,
        text=True,
        timeout=900,
    )


def copy_of_the_project(folder: Path) -> Path:
    """What a clone has and Dagster looks at."""
    ignored = shutil.ignore_patterns("__pycache__", "ruff.toml")
    shutil.copytree(PROJECT / "rmm_assets", folder / "rmm_assets", ignore=ignored)
    for name in ("dg.toml", "pyproject.toml", "setup.cfg", "workspace.yaml"):
        shutil.copy(PROJECT / name, folder / name)
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


def test_dg_lists_the_component_and_its_schema(forked: Path, tmp_path: Path) -> None:
    done = command("dg", "list", "components", "--json", cwd=PROJECT, home=tmp_path / "home", folder=forked)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "rmm_assets.RmmConnection" in {component["key"] for component in json.loads(done.stdout)["items"]}


def test_dg_checks_the_connection_files(forked: Path, tmp_path: Path) -> None:
    clone = copy_of_the_project(tmp_path / "clone")
    done = command("dg", "check", "yaml", cwd=clone, home=tmp_path / "home", folder=forked)
    assert done.returncode == 0, done.stdout + done.stderr

    file = clone / "rmm_assets" / "defs" / "demo" / "defs.yaml"
    file.write_text(file.read_text().replace("attributes:", "attributs:", 1))
    done = command("dg", "check", "yaml", cwd=clone, home=tmp_path / "home", folder=forked)
    assert done.returncode != 0
    assert "attributs" in done.stdout + done.stderr


def test_the_core_is_imported_without_dagster() -> None:
    check = (
        "import sys, rmm_assets.loading.run; assert not [name for name in sys.modules if name.startswith('dagster')]"
    )
    subprocess.run([sys.executable, "-c", check], check=True, cwd=PROJECT)


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("rows/decode.py", "import dagster"),
        ("http/auth.py", "from dagster_dlt import DagsterDltResource"),
        ("reading/progress.py", "from rmm_assets.orchestration.checks import Check"),
        ("tables/table.py", "from rmm_assets.reading.completeness import Report"),
        ("rows/json_text.py", "from rmm_assets.rows.layout import Layout"),
        ("overview/page.py", "import urllib3"),
    ],
)
def test_an_upward_or_circular_import_fails(tmp_path: Path, file: str, line: str) -> None:
    clone = tmp_path / "clone"
    shutil.copytree(PROJECT / "rmm_assets", clone / "rmm_assets")
    shutil.copy(PROJECT / "pyproject.toml", clone)
    (clone / "rmm_assets" / file).open("a").write(f"\n{line}\n")
    done = subprocess.run(
        [str(BIN / "lint-imports"), "--no-cache"], cwd=clone, env={**os.environ, "PYTHONPATH": str(clone)},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 1, done.stdout + done.stderr
    # Importing a package that uses Dagster breaks several contracts at once.
    assert re.search(r"[1-9] broken", done.stdout)

"""Tests that another Dagster project can install this package and use its component."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import duckdb
import pytest

from rmm_assets.simulator import Simulator
from rmm_assets_tests.orchestration.bench import devices

ROOT = Path(__file__).parents[2]
PYPROJECT = """\
[project]
name = "fleet"
version = "0.1.0"

[tool.dg]
directory_type = "project"

[tool.dg.project]
root_module = "fleet"
"""
# As the docs say.
[DEFINITIONS] = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "how-to" / "alerts.md").read_text(), re.DOTALL)


class Project:
    """A user's project, in an environment with a wheel of this package instead of its folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.bin = folder / ".venv" / "bin"
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder / ".venv")], check=True)
        site = next((folder / ".venv" / "lib").glob("python*/site-packages"))
        source = folder / "source"
        shutil.copytree(ROOT / "rmm_assets", source / "rmm_assets", ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("setup.cfg", "pyproject.toml", "README.md"):
            if (ROOT / name).exists():
                shutil.copy(ROOT / name, source)
        install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
        subprocess.run([*install, "--target", str(site), str(source)], check=True)
        shutil.rmtree(source)
        # The dependencies are borrowed from the environment that runs the test, but not this package.
        borrowed = sysconfig.get_paths()["purelib"]
        (site / "borrowed.pth").write_text(f"import site; site.addsitedir({borrowed!r})\n")
        package = folder / "src" / "fleet"
        (package / "defs").mkdir(parents=True)
        (package / "__init__.py").touch()
        (package / "defs" / "__init__.py").touch()
        (package / "definitions.py").write_text(DEFINITIONS)
        (folder / "pyproject.toml").write_text(PYPROJECT)

    def run(self, *command: str, **variables: str) -> str:
        """Returns the output of a command, run in the project with its own interpreter."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        environment |= {"PYTHONPATH": str(self.folder / "src"), "COLUMNS": "200", **variables}
        done = subprocess.run(
            [str(self.bin / "python"), "-c", f"import sys; {command[0]}", *command[1:]],
            cwd=self.folder, env=environment, capture_output=True, text=True, timeout=600, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
        return done.stdout

    def dg(self, *commands: str, **variables: str) -> list[str]:
        """Returns the output of each of these commands of `dg`, which one process runs, as importing Dagster takes seconds."""
        code = (
            "from dagster_dg_cli.cli import cli\n"
            "for words in sys.argv[1:]: print('dg', words, flush=True); cli(words.split(), standalone_mode=False)"
        )
        printed = self.run(code, *commands, **variables)
        return re.split("|".join(f"^dg {re.escape(words)}$" for words in commands), printed, flags=re.MULTILINE)[1:]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    if sys.prefix == sys.base_prefix:
        pytest.skip("needs a virtual environment, from which a second one can borrow packages")
    return Project(tmp_path_factory.mktemp("fleet"))


@pytest.mark.slow
def test_the_project_has_the_installed_package_and_not_this_folder(project: Project) -> None:
    loaded = project.run(
        "import rmm_assets.orchestration.assets, rmm_assets.cli, rmm_assets.simulator; "
        "print(*(m.__file__ for n, m in sys.modules.items() if n.split('.')[0] == 'rmm_assets'), sep='\\n')"
    )
    assert [where for where in loaded.split() if not Path(where).is_relative_to(project.folder)] == []
    found = project.run("from rmm_assets.config.profiles import names; print(*names())")
    assert found.split() == sorted(file.stem for file in (ROOT / "rmm_assets" / "profiles").glob("*.yaml"))


@pytest.mark.slow
def test_a_scaffolded_connection_loads_unchanged_and_runs_once_filled_in(project: Project) -> None:
    components, _, defs = project.dg(
        "list components --json", "scaffold defs rmm_assets.RmmConnection acme", "list defs --json"
    )
    [ours] = [entry for entry in json.loads(components)["items"] if entry["key"] == "rmm_assets.RmmConnection"]
    assert "An RMM API" in ours["summary"]
    file = project.folder / "src" / "fleet" / "defs" / "acme" / "defs.yaml"
    assert "name: acme" in file.read_text()
    assert "env: ACME_API_KEY" in file.read_text()
    listed = json.loads(defs)
    assert [asset["asset_key"] for asset in listed["assets"]] == ["acme/resource_name"]
    assert {"lost_runs", "run_failures"} <= {sensor["name"] for sensor in listed["sensors"]}

    with Simulator(tables={"resource": devices(250)}) as rmm:
        file.write_text(file.read_text().replace("https://api.example.com", rmm.base_url))
        project.dg("launch --assets *", ACME_API_KEY=rmm.api_key, DAGSTER_HOME="")
    with duckdb.connect(str(project.folder / "data" / "rmm.duckdb"), read_only=True) as database:
        assert database.sql("SELECT count(*) FROM acme.resource_name").fetchall() == [(250,)]

"""Tests README and docs against the project: runs or looks up commands, loads files, compares lists.

A comment before a block says how it is tested: `<!-- test: run -->` runs it in a copy of the project,
`<!-- test: background -->` keeps it running, `<!-- test: fails WORDS -->` expects it to fail and print those words,
`<!-- test: file PATH -->` writes it to a file, `<!-- test: output -->` compares it with the output of the previous block.
Commands of `bash` blocks that are not run are looked up, with their options.
"""

from __future__ import annotations

import importlib
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from dagster._daemon.cli import create_dagster_daemon_cli

import rmm_assets
from rmm_assets.cli import main
from rmm_assets.config import Connection, profiles
from rmm_assets.config.checks import Checks
from rmm_assets.definitions import load_connections
from rmm_assets_tests.cluster.machines import WORKER
from rmm_assets_tests.forking import forked_commands
from rmm_assets_tests.vendors.dialects import DIALECTS, REAL

PROJECT = Path(rmm_assets.__file__).parents[1]
PAGES = [PROJECT / "README.md", *sorted((PROJECT / "docs").rglob("*.md"))]
NAMES = [str(page.relative_to(PROJECT)) for page in PAGES]
BIN = Path(sys.executable).parent
# Settings of the user who runs the tests; `make test` passes its own to every `make` that it starts.
NOT_THEIRS = ("DAGSTER_", "RMM_", "ACME_", "MAKE", "MFLAGS")
# The server of the docs.
POSTGRES = "postgresql://loader:password@db.example.com:5432/warehouse"
COMMAND_WITHIN = 900.0  # seconds
# The page whose commands are the installed scripts; those of the other pages are forked.
INSTALLED = "docs/how-to/own-rmm.md"

_BLOCK = re.compile(
    r"(?:<!-- test: (?P<mark>[^\n]+?) -->\n\s*)?^(?P<indent> *)```(?P<language>\w+)[^\n]*\n(?P<text>.*?)^ *```$",
    re.MULTILINE | re.DOTALL,
)

# A connection that completes fragments of one.
BASE: dict[str, Any] = {
    "name": "acme",
    "client": {"base_url": "https://rmm.example.com", "auth": "bearer", "paginator": "single_page"},
    "api_key": {"env": "ACME_API_KEY"},
    "resources": ["devices"],
}


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: str
    language: str
    mark: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}: {self.text.splitlines()[0][:60]}"


def blocks_of(name: str) -> list[Block]:
    """Returns every fenced block of a page, without its indentation."""
    text = (PROJECT / name).read_text(encoding="utf-8")
    return [
        Block(
            name,
            found["language"],
            found["mark"] or "",
            re.sub(rf"^{found['indent']}", "", found["text"], flags=re.MULTILINE),
        )
        for found in _BLOCK.finditer(text)
    ]


ALL = [block for name in NAMES for block in blocks_of(name)]
PAGES_THAT_RUN = [name for name in NAMES if any(block.mark == "run" for block in blocks_of(name))]


# Connection files


@pytest.mark.parametrize("block", [block for block in ALL if block.language == "yaml"], ids=str)
def test_every_example_of_a_connection_loads(block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for other in blocks_of(block.page):  # a custom component that the file names
        if other.language == "python" and other.mark.startswith("file "):
            (tmp_path / other.mark.split()[1]).write_text(other.text, encoding="utf-8")
            monkeypatch.syspath_prepend(str(tmp_path))
    said = yaml.safe_load(block.text)
    if "type" not in said:
        client = {**BASE["client"], **said.get("client", {})}
        kind = client.get("auth", {}).get("type") if isinstance(client.get("auth"), dict) else client.get("auth")
        base = {key: value for key, value in BASE.items() if kind != "token" or key != "api_key"}
        said = {"type": "rmm_assets.RmmConnection", "attributes": {**base, **said, "client": client}}
    (tmp_path / "defs.yaml").write_text(yaml.safe_dump(said, sort_keys=False), encoding="utf-8")

    assert [connection.name for connection in load_connections(tmp_path)] == ["acme"]


def test_the_reference_has_every_key_with_a_description(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(PROJECT / "docs"))
    import generated  # type: ignore[import-not-found]

    rows = re.findall(r"^\| `(\w+)` \|.*\| (.*) \|$", generated.keys(), re.MULTILINE)
    schema = Connection.model_json_schema()
    known = {key for model in (schema, *schema["$defs"].values()) for key in model.get("properties", {})}

    assert {key for key, _ in rows} == known
    assert not [key for key, description in rows if not description.strip()]


@pytest.fixture
def generated(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(PROJECT / "docs"))
    return importlib.import_module("generated")


def test_the_table_of_profiles_links_to_a_page_for_each(generated: Any) -> None:
    linked = re.findall(r"\]\(profiles/(\w+)\.md\)", generated.vendors())
    assert linked == [name for name in profiles.names() if name != "generic"]


@pytest.mark.parametrize("name", sorted(DIALECTS | REAL))
def test_a_vendors_page_says_how_to_connect_and_what_is_not_verified(name: str, generated: Any, tmp_path: Path) -> None:
    profile = profiles.profile_named(name)
    text = generated.vendor(name, profile)
    rows = re.findall(r"^\| `(\w+)` \| (.+?) \|", text, re.MULTILINE)
    variables = {f"ACME_{secret.variable}": secret for secret in profile.secrets.values()}
    assert {key for key, _ in rows} == {*variables, *profile.settings, *profile.resources}
    assert [key for key, secret in variables.items() if secret.where not in text] == []
    assert [line for line in (profile.docs, *profile.not_verified, *profile.sources) if str(line) not in text] == []
    # The file needs nothing but values of the settings.
    [example] = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    said = yaml.safe_load(example)
    optional = {key for key, setting in profile.settings.items() if setting.default is not None}
    assert set(said["attributes"].get("settings", {})) == set(profile.settings) - optional
    if said["attributes"].get("settings"):
        said["attributes"]["settings"] = dict((DIALECTS | REAL)[name].settings)
    (tmp_path / "defs.yaml").write_text(yaml.safe_dump(said))
    [made] = load_connections(tmp_path)
    assert [resource.name for resource in made.resources] == list(profile.resources)


# Commands


@pytest.mark.parametrize("block", [block for block in ALL if block.language == "bash" and not block.mark], ids=str)
def test_a_command_that_is_not_run_exists(block: Block) -> None:
    for line in block.text.splitlines():
        words = shlex.split(line, comments=True)
        while words and re.match(r"[A-Z_]+=", words[0]):
            words.pop(0)
        if words:
            _look_up(words, block)


def _look_up(words: list[str], block: Block) -> None:
    command, rest = Path(words[0]).name, words[1:]
    if command == "make":
        targets = re.findall(r"^([\w%-]+):", (PROJECT / "Makefile").read_text(), re.MULTILINE)
        for target in (word for word in rest if "=" not in word):
            assert target in targets or ("sync-%" in targets and target.startswith("sync-")), block
    elif command == "rmm":
        _has_options(main.commands[rest[0]], rest, block)
    elif command == "dagster-webserver":
        from dagster_webserver.cli import dagster_webserver  # which takes a second

        _has_options(dagster_webserver, rest, block)
    elif command == "dagster-daemon":
        _has_options(create_dagster_daemon_cli().commands[rest[0]], rest, block)
    elif command == "dg":
        assert rest[:2] == ["scaffold", "defs"] and hasattr(rmm_assets, rest[2].partition(".")[2]), block
    elif command == "celery":
        assert rest == [word.format(name="worker") for word in WORKER[1:]], block
    else:
        # Only these need no look-up, or are not installed here; any other command must be known.
        assert command in ("export", "pip", "docker", "helm", "kubectl"), block


def _has_options(command: click.Command, words: list[str], block: Block) -> None:
    options = {name for option in command.params for name in option.opts}
    assert {word for word in words if word.startswith("-")} <= options, block


UNITS = [block for block in ALL if block.mark.startswith("unit ")]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is missing: install systemd")
def test_systemd_accepts_the_units(tmp_path: Path) -> None:
    assert len(UNITS) == 2
    for block in UNITS:
        unit = tmp_path / block.mark.split()[1]
        unit.write_text(block.text.replace("/srv/rmm/.venv/bin", str(Path(sys.executable).parent)), encoding="utf-8")
        [started] = re.findall(r"^ExecStart=(.*)$", block.text, re.MULTILINE)
        _look_up(shlex.split(started), block)
        done = subprocess.run(
            ["systemd-analyze", "verify", "--man=no", str(unit)], capture_output=True, text=True, timeout=120
        )
        assert str(unit.name) not in done.stdout + done.stderr, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES_THAT_RUN)
def test_the_commands_of_a_page_work_as_described(
    page: str, tmp_path: Path, request: pytest.FixtureRequest, forking: str
) -> None:
    copy = tmp_path / "project"
    _copy_project(copy)
    if page != INSTALLED:
        forked_commands(forking, copy / ".venv" / "bin", "rmm")
    port = _free_port()
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(NOT_THEIRS)},
        "PYTHONPATH": str(copy),
        "COLUMNS": "120",
    }
    exported, printed = "", ""
    with ExitStack() as stack:
        if not any(block.mark == "background" for block in blocks_of(page)):
            stack.enter_context(_background(f".venv/bin/rmm simulate --port {port}", copy, environment, port))
        for block in blocks_of(page):
            text, (kind, _, detail) = block.text.replace("8099", str(port)), block.mark.partition(" ")
            if POSTGRES in text:
                text = text.replace(POSTGRES, request.getfixturevalue("postgres"))
            if kind == "background":
                stack.enter_context(_background(text, copy, environment, port))
            elif kind == "file":
                (copy / detail).parent.mkdir(parents=True, exist_ok=True)
                (copy / detail).write_text(text, encoding="utf-8")
            elif kind in ("run", "fails"):
                done = subprocess.run(
                    ["bash", "-e", "-c", exported + text],
                    cwd=copy, env=environment, capture_output=True, text=True, timeout=COMMAND_WITHIN, check=False,
                )  # fmt: skip
                printed = done.stdout
                assert (done.returncode == 0) == (kind == "run"), done.stdout + done.stderr
                assert " ".join(detail.split()) in " ".join((done.stdout + done.stderr).split())
                exported += "".join(f"{line}\n" for line in text.splitlines() if line.startswith("export "))
            elif kind == "output":
                # Numbers change with the fleet and the clock; words and layout do not.
                assert _shape(text) == _shape(printed)


def _copy_project(copy: Path) -> None:
    kept = shutil.ignore_patterns(
        ".*", "data", "site", "__pycache__", "*.egg-info", "build", "node_modules", "rmm_assets_tests", "benchmarks"
    )
    shutil.copytree(PROJECT, copy, ignore=kept)
    (copy / ".venv" / "bin").mkdir(parents=True)
    for part in ("lib", "pyvenv.cfg", *(f"bin/{program.name}" for program in BIN.iterdir())):
        (copy / ".venv" / part).symlink_to(BIN.parent / part)
    (copy / ".venv" / ".installed").touch()  # `make` has nothing to install


def _shape(printed: str) -> list[str]:
    lines = [re.sub(r"[\d.,]+|[━─┏┓└┘┡┩╇┳┴┼]+", "", line) for line in printed.splitlines()]
    return [" ".join(line.split()) for line in lines if line.strip()]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def _background(text: str, folder: Path, environment: dict[str, str], port: int) -> Iterator[None]:
    process = subprocess.Popen(
        ["bash", "-c", text], cwd=folder, env=environment, stdout=subprocess.DEVNULL, start_new_session=True
    )
    try:
        until = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                assert time.monotonic() < until and process.poll() is None, f"not listening: {text}"
                time.sleep(0.2)
        yield
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(20)


# Hand-written lists


def _first_column(page: str, heading: str) -> set[str]:
    section = (PROJECT / page).read_text(encoding="utf-8").split(f"## {heading}\n")[1].split("\n## ")[0]
    return set(re.findall(r"^\| `([^`]+)` \|", section, re.MULTILINE))


@pytest.mark.slow
def test_the_contract_lists_the_metadata_and_the_checks_of_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import dagster as dg

    from rmm_assets.definitions import build_defs

    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RMM_DATABASE", raising=False)
    definitions = build_defs(folders=[PROJECT / "rmm_assets" / "defs"])
    asset = definitions.get_assets_def(dg.AssetKey(["demo", "devices"]))
    result = dg.materialize([asset], resources=dict(definitions.resources or {}))

    (loaded,) = result.get_asset_materialization_events()
    assert set(loaded.materialization.metadata or {}) == _first_column(
        "docs/reference/contracts.md", "Metadata of a materialization"
    )
    listed = [re.sub(r"<\w+>", r"\\w+", name) for name in _first_column("docs/reference/contracts.md", "Checks")]
    for check in result.get_asset_check_evaluations():
        assert any(re.fullmatch(name, check.check_name) for name in listed), check.check_name


def test_the_contract_lists_every_kind_of_check_that_a_file_can_set() -> None:
    listed = {name.split("_<")[0] for name in _first_column("docs/reference/contracts.md", "Checks")}
    assert set(Checks.model_fields) <= listed


def test_the_environment_variables_are_those_that_the_code_reads() -> None:
    sources = "".join(path.read_text(encoding="utf-8") for path in (PROJECT / "rmm_assets").rglob("*.py"))
    read = set(re.findall(r'"(RMM_[A-Z_]+)"', sources))
    listed = _first_column("docs/reference/commands.md", "Environment variables")
    assert read == {name for name in listed if name.startswith("RMM_")}


# Pictures and links


@pytest.mark.parametrize("page", NAMES)
def test_every_link_and_picture_of_a_page_exists(page: str) -> None:
    text = re.sub(r"```.*?```", "", (PROJECT / page).read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", text):
        if "://" not in target:
            assert ((PROJECT / page).parent / target).exists(), target


def test_pictures_are_small_and_each_is_used() -> None:
    pages = "".join(path.read_text(encoding="utf-8") for path in PAGES)
    for picture in (PROJECT / "docs" / "images").glob("*.png"):
        assert picture.stat().st_size < 250_000, picture.name
        assert f"images/{picture.name})" in pages, picture.name


def test_the_readme_stays_short() -> None:
    assert len((PROJECT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150

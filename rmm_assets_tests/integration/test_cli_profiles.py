"""Tests `rmm profiles` and `rmm show`: what they print, as text and as JSON, and their exit codes."""

from __future__ import annotations

import json
import os
from pathlib import Path
from subprocess import CompletedProcess

import pytest
import yaml

from rmm_assets.config import profiles
from rmm_assets.definitions import load_connections
from rmm_assets_tests.commands import rmm

pytestmark = pytest.mark.slow

SECRET = "s3cr3t-4c1e9b7f2a"
FILE = {
    "name": "acme",
    "profile": "datto_rmm",
    "settings": {"platform": "merlot"},
    "resources": [{"name": "sites", "columns": {"name": {"sensitive": True}}}, "software"],
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Returns a folder of connections with one that names a profile."""
    (tmp_path / "connections" / "acme").mkdir(parents=True)
    content = {"type": "rmm_assets.RmmConnection", "attributes": FILE}
    (tmp_path / "connections" / "acme" / "defs.yaml").write_text(yaml.safe_dump(content))
    return tmp_path


def run(folder: Path, *words: str) -> CompletedProcess[str]:
    secrets = {"ACME_API_KEY": SECRET, "ACME_API_SECRET": SECRET}
    places = {"RMM_CONNECTIONS": str(folder / "connections"), "COLUMNS": "200"}
    return rmm(words, folder, {**os.environ, **secrets, **places})


def test_profiles_lists_each_with_its_settings_and_resources(tmp_path: Path) -> None:
    done = run(tmp_path, "profiles")
    assert (done.returncode, done.stderr) == (0, "")
    words = set(done.stdout.replace(",", " ").replace("│", " ").split())
    for name in profiles.names():
        found = profiles.profile_named(name)
        assert {name, *found.settings, *found.vendor.split()} <= words


def test_profiles_as_json_has_the_facts_of_each(tmp_path: Path) -> None:
    done = run(tmp_path, "profiles", "--json")
    assert done.returncode == 0
    found = json.loads(done.stdout)
    assert list(found) == profiles.names()
    for name, facts in found.items():
        known = profiles.profile_named(name)
        assert facts["resources"] == list(known.resources)
        assert facts["settings"].keys() == known.settings.keys()
        assert facts["secrets"].keys() == known.secrets.keys()
        assert (facts["vendor"], facts["confidence"]) == (known.vendor, known.confidence)
        assert facts["not_verified"] == list(known.not_verified)


@pytest.mark.parametrize("form", ["yaml", "json"])
def test_show_prints_a_file_that_loads_the_same_without_the_profile(form: str, folder: Path) -> None:
    done = run(folder, "show", "acme", *(["--json"] if form == "json" else []))
    assert (done.returncode, done.stderr) == (0, "")
    content = json.loads(done.stdout) if form == "json" else yaml.safe_load(done.stdout)
    assert "profile" not in content["attributes"]
    assert content["attributes"]["client"]["base_url"] == "https://merlot-api.centrastage.net/api/v2"
    [before] = load_connections(folder / "connections" / "acme")
    (folder / "shown").mkdir()
    (folder / "shown" / "defs.yaml").write_text(done.stdout)
    [after] = load_connections(folder / "shown")
    for made in (before, after):
        assert [(each.name, each.selected) for each in made.resources] == [
            ("sites", True), ("software", True), ("devices", False),
        ]  # fmt: skip
    assert after.resource("sites").columns["name"].sensitive
    assert [each.model_dump() for each in after.resources] == [each.model_dump() for each in before.resources]


def test_show_prints_where_secrets_are_looked_up_and_not_the_secrets(folder: Path) -> None:
    done = run(folder, "show", "acme")
    assert "ACME_API_SECRET" in done.stdout
    assert SECRET not in done.stdout + done.stderr


def test_show_of_an_unknown_connection_names_the_known_ones(folder: Path) -> None:
    done = run(folder, "show", "acmee")
    assert done.returncode == 2
    assert done.stdout == ""
    assert "acmee" in done.stderr and "acme" in done.stderr.replace("acmee", "")
    assert "Traceback" not in done.stderr


def test_show_of_a_broken_file_says_what_is_wrong_and_where(folder: Path) -> None:
    file = folder / "connections" / "acme" / "defs.yaml"
    file.write_text(file.read_text().replace("merlot", "merlin"))
    done = run(folder, "show", "acme")
    assert done.returncode not in (0, None)
    said = " ".join((done.stdout + done.stderr).split())
    assert "platform" in said and "defs.yaml" in said
    assert "Traceback" not in said


@pytest.mark.parametrize("words", [("profiles", "level"), ("show",), ("show", "acme", "--yaml")])
def test_words_that_a_command_does_not_take_are_usage_errors(words: tuple[str, ...], folder: Path) -> None:
    done = run(folder, *words)
    assert done.returncode == 2
    assert "Usage: " in done.stderr

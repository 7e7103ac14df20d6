"""Tests that the files of deploy/compose are valid, and what they promise about secrets, data and users."""

from __future__ import annotations

import shutil
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import yaml

from rmm_assets_tests.deploy.dockerfile import PROJECT, instructions

COMPOSE = PROJECT / "deploy" / "compose"


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((COMPOSE / "compose.yaml").read_text())
    return found


def tool(name: str) -> str:
    found = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed: pip install 'rmm_assets[dev]'")
    return found


def test_the_compose_file_fits_the_published_schema() -> None:
    check = [tool("check-jsonschema"), "--builtin-schema", "vendor.compose-spec", str(COMPOSE / "compose.yaml")]
    done = subprocess.run(check, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_the_dockerfile_has_no_findings() -> None:
    done = subprocess.run([tool("hadolint"), str(COMPOSE / "Dockerfile")], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_secrets_are_files_and_only_the_code_location_has_those_of_the_api_and_the_warehouse(
    compose: dict[str, Any],
) -> None:
    services = compose["services"]
    for name, service in services.items():
        for variable, value in service.get("environment", {}).items():
            secret = any(word in variable for word in ("PASSWORD", "KEY", "CREDENTIALS", "STORAGE"))
            assert variable.endswith("_FILE") == secret, f"{name}: {variable}"
            if secret:
                assert value.removeprefix("/run/secrets/") in service["secrets"]
    assert services["webserver"]["secrets"] == services["daemon"]["secrets"] == ["storage_url"]
    assert {"acme_api_key", "warehouse_url"} <= {*services["code"]["secrets"]}
    used = {secret for service in services.values() for secret in service.get("secrets", [])}
    assert used == compose["secrets"].keys()


def test_secrets_are_neither_in_the_repository_nor_in_the_image(compose: dict[str, Any]) -> None:
    ignored = (PROJECT / ".gitignore").read_text().split()
    allowed = [line[1:] for line in (PROJECT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    for secret in compose["secrets"].values():
        path = str((COMPOSE / secret["file"]).relative_to(PROJECT))
        assert any(path.startswith(folder) for folder in ignored)
        assert not any(fnmatch(path, f"{one}*") for one in allowed)


def test_all_that_the_dockerfile_copies_is_in_its_context_and_exists() -> None:
    allowed = [line[1:] for line in (PROJECT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    for word, text in instructions(COMPOSE / "Dockerfile"):
        if word == "COPY" and "--from=" not in text:
            for source in text.split()[:-1]:
                assert source in allowed and (PROJECT / source).exists()


def test_the_image_does_not_run_as_root_and_its_base_has_a_version() -> None:
    steps = instructions(COMPOSE / "Dockerfile")
    users = [text for word, text in steps if word == "USER"]
    bases = {text.partition(" AS ")[0] for word, text in steps if word == "FROM"}
    assert users == ["10001"] and len(bases) == 1
    assert bases.pop().startswith("python:3.11-")


def test_nothing_is_lost_with_a_container(compose: dict[str, Any]) -> None:
    for name in ("storage", "warehouse"):
        assert compose["services"][name]["volumes"] == [f"{name}:/var/lib/postgresql/data"]
    assert {"storage", "warehouse"} <= compose["volumes"].keys()
    # The UI has no login.
    assert compose["services"]["webserver"]["ports"] == ["127.0.0.1:3000:3000"]
    assert all("ports" not in service for name, service in compose["services"].items() if name != "webserver")

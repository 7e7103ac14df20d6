"""Tests that a broken connection file does not affect other connections, and that the UI says what is wrong."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest

import rmm_assets
from rmm_assets.definitions import FOLDERS_VARIABLE, build_defs

PROJECT = Path(rmm_assets.__file__).parents[1]
SECRET = "s3cr3t-9f8e7d6c5b"

GOOD = """\
type: rmm_assets.RmmConnection
attributes:
  name: {name}
  client:
    base_url: https://rmm.example.com
    auth: bearer
    paginator: single_page
  api_key: {{env: ACME_API_KEY}}
  resources: [devices, tickets]
"""


def write(root: Path, folder: str, text: str, file: str = "defs.yaml") -> Path:
    (root / folder).mkdir(parents=True, exist_ok=True)
    (root / folder / file).write_text(text, encoding="utf-8")
    return root / folder


def specs(*folders: Path) -> dict[str, dg.AssetSpec]:
    """Returns the asset specs of some folders, by key as the UI shows it."""
    found = build_defs(folders=folders).resolve_all_asset_specs()
    return {spec.key.to_user_string(): spec for spec in found}


def broken(root: Path, folder: str) -> str:
    """Returns what the UI shows for a broken folder."""
    return specs(root)[f"{folder}/broken_connection"].description or ""


def test_each_asset_links_to_the_line_of_the_file_that_describes_it(tmp_path: Path) -> None:
    text = GOOD.format(name="acme").replace(
        "[devices, tickets]", "\n    - devices\n    - name: alerts\n      absent: keep"
    )
    folder = write(tmp_path, "acme", text)

    lines = dict(enumerate(text.splitlines(), 1))
    for key, line in (
        ("acme/devices", "    - devices"),
        ("acme/alerts", "    - name: alerts"),
        ("acme/fleet_overview", "attributes:"),
    ):
        [reference] = specs(tmp_path)[key].metadata["dagster/code_references"].code_references
        assert reference.file_path == str(folder / "defs.yaml")
        assert lines[reference.line_number] == line


@pytest.mark.slow
def test_loading_the_location_logs_nothing() -> None:
    # Output here would appear at every start, before a new user has seen anything else.
    code = "from rmm_assets.definitions import build_defs; build_defs().get_repository_def()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout + done.stderr == ""


def test_one_broken_file_does_not_affect_other_connections(tmp_path: Path) -> None:
    write(tmp_path, "acme", GOOD.format(name="acme"))
    write(tmp_path, "bad", GOOD.format(name="bad").replace("paginator", "paginater"))
    write(tmp_path, "worse", "type: [")
    write(tmp_path, "zeta", GOOD.format(name="zeta"))

    assert set(specs(tmp_path)) == {
        *("acme/devices", "acme/tickets", "zeta/devices", "zeta/tickets"),
        *("bad/broken_connection", "worse/broken_connection"),
    }
    build_defs(folders=[tmp_path]).get_repository_def().load_all_definitions()


def test_the_ui_shows_file_line_and_remedy_of_a_broken_connection(tmp_path: Path) -> None:
    write(tmp_path, "bad", GOOD.format(name="bad").replace("paginator", "paginater"))

    spec = specs(tmp_path)["bad/broken_connection"]

    assert spec.group_name == "bad"
    assert "broken" in spec.kinds
    assert spec.tags["rmm_assets/broken"] == "true"
    assert "bad/defs.yaml:7: attributes.client.paginater: unknown key `paginater`" in (spec.description or "")
    assert "did you mean `paginator`?" in (spec.description or "")


def test_materializing_a_broken_connection_fails_with_what_is_wrong(tmp_path: Path) -> None:
    write(tmp_path, "bad", GOOD.format(name="bad").replace("single_page", "auto"))
    asset = build_defs(folders=[tmp_path]).get_assets_def(dg.AssetKey(["bad", "broken_connection"]))
    result = dg.materialize([asset], raise_on_error=False)

    (failure,) = [event for event in result.all_events if event.is_step_failure]
    assert not result.success
    assert "guessing one loses rows" in (failure.step_failure_data.user_failure_data.description or "")  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "text",
    [
        GOOD.format(name="bad").replace("auth: bearer", f"auth: {{token: {SECRET}}}"),
        GOOD.format(name="bad").replace("{env: ACME_API_KEY}", f"'{SECRET}"),
        GOOD.format(name="bad").replace("{env: ACME_API_KEY}", f"*{SECRET}"),
        GOOD.format(name="bad").replace("{env: ACME_API_KEY}", f"{SECRET}\n  schedul: hourly"),
        GOOD.format(name="bad").replace("attributes:", f"attribute: {SECRET}\nattributes:"),
    ],
    ids=["in auth", "in bad YAML", "as an alias", "next to another fault", "next to the attributes"],
)
def test_no_secret_of_a_broken_file_reaches_ui_or_log(
    tmp_path: Path, text: str, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path, "bad", text)
    with caplog.at_level(logging.DEBUG):
        spec = specs(tmp_path)["bad/broken_connection"]
    assert "defs.yaml:" in (spec.description or "")
    assert SECRET not in repr(spec) + caplog.text + "".join(capfd.readouterr())


def test_bad_yaml_is_reported_with_its_line(tmp_path: Path) -> None:
    write(tmp_path, "bad", "type: rmm_assets.RmmConnection\nattributes:\n  name: bad\n client: x\n")
    assert "bad/defs.yaml:4: " in broken(tmp_path, "bad")


def test_an_unknown_top_level_key_is_reported_with_its_line(tmp_path: Path) -> None:
    write(tmp_path, "bad", "type: rmm_assets.RmmConnection\natributes: {}\n")
    assert "bad/defs.yaml:2: atributes: unknown key `atributes`; did you mean `attributes`?" in broken(tmp_path, "bad")


def test_a_file_without_attributes_says_what_is_missing(tmp_path: Path) -> None:
    write(tmp_path, "bad", "type: rmm_assets.RmmConnection\n")
    told = broken(tmp_path, "bad")
    assert "bad/defs.yaml" in told and "name: missing" in told and "resources: missing" in told


def test_a_duplicate_key_is_an_error(tmp_path: Path) -> None:
    write(tmp_path, "bad", GOOD.format(name="bad") + "  resources: [patches]\n")
    told = broken(tmp_path, "bad")
    assert "bad/defs.yaml:10: " in told and "duplicate key `resources`" in told


def test_an_unknown_type_is_reported(tmp_path: Path) -> None:
    write(tmp_path, "bad", "type: rmm_assets.RmmConnecton\nattributes: {}\n")
    assert "bad/defs.yaml" in broken(tmp_path, "bad") and "RmmConnecton" in broken(tmp_path, "bad")


def test_a_misnamed_file_and_a_missing_folder_are_reported(tmp_path: Path) -> None:
    write(tmp_path, "bad", GOOD.format(name="bad"), file="defs.yml")
    assert "give the connection file that name" in broken(tmp_path, "bad")
    assert "does not exist" in (specs(tmp_path / "gone")["gone/broken_connection"].description or "")


def test_the_second_of_two_connections_with_the_same_name_is_broken(tmp_path: Path) -> None:
    write(tmp_path, "a", GOOD.format(name="acme"))
    write(tmp_path, "b", GOOD.format(name="acme"))
    found = specs(tmp_path)
    assert set(found) == {"acme/devices", "acme/tickets", "b/broken_connection"}
    assert "the connection name `acme` is already used in" in (found["b/broken_connection"].description or "")


@pytest.mark.parametrize(("first", "second"), [("a", "a"), ("AcmeNorth", "acme_north"), ("acme_north", "Acme_North")])
def test_the_second_of_two_connections_with_the_same_dataset_is_broken(first: str, second: str, tmp_path: Path) -> None:
    write(tmp_path, "a", GOOD.format(name="a") + f"  dataset: {first}\n")
    write(tmp_path, "b", GOOD.format(name="b") + f"  dataset: {second}\n")
    assert "`b` and `a` would both load into the dataset" in broken(tmp_path, "b")


def test_the_same_dataset_in_two_databases_is_allowed(tmp_path: Path) -> None:
    for name in ("a", "b"):
        place = f"  dataset: shared\n  destination: {{type: duckdb, credentials: data/{name}.duckdb}}\n"
        write(tmp_path, name, GOOD.format(name=name) + place)
    assert set(specs(tmp_path)) == {"a/devices", "a/tickets", "b/devices", "b/tickets"}


def test_two_broken_folders_with_the_same_name_do_not_break_the_location(tmp_path: Path) -> None:
    for root in ("one", "two"):
        write(tmp_path / root, "bad", "type: [")
    found = specs(tmp_path / "one", tmp_path / "two")
    assert set(found) == {"bad/broken_connection", "bad_2/broken_connection"}


def test_a_connection_loads_from_a_folder_of_folders_or_from_its_own(tmp_path: Path) -> None:
    folder = write(tmp_path / "clients" / "west", "acme", GOOD.format(name="acme"))
    assert set(specs(tmp_path)) == set(specs(folder)) == {"acme/devices", "acme/tickets"}


def test_the_environment_variable_sets_the_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "one", "acme", GOOD.format(name="acme"))
    write(tmp_path / "two", "zeta", GOOD.format(name="zeta"))
    monkeypatch.setenv(FOLDERS_VARIABLE, os.pathsep.join([str(tmp_path / "one"), str(tmp_path / "two")]))
    keys = {key.to_user_string() for key in build_defs().resolve_asset_graph().get_all_asset_keys()}
    assert keys == {"acme/devices", "acme/tickets", "zeta/devices", "zeta/tickets"}


def test_the_shipped_connections_load_with_no_variable_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in [name for name in os.environ if "API_KEY" in name or name == FOLDERS_VARIABLE]:
        monkeypatch.delenv(variable)
    defs = build_defs()
    defs.get_repository_def().load_all_definitions()
    keys = {spec.key.to_user_string() for spec in defs.resolve_all_asset_specs()}
    assert {"demo/organizations", "demo/devices", "demo/alerts", "demo/patches"} <= keys
    assert not any("broken_connection" in key for key in keys)


@pytest.mark.slow
def test_dagster_validates_the_location_under_its_name_even_with_a_broken_connection(tmp_path: Path) -> None:
    write(tmp_path / "connections", "acme", GOOD.format(name="acme"))
    write(tmp_path / "connections", "bad", "type: [")
    home = tmp_path / "home"
    home.mkdir()
    (home / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    done = subprocess.run(
        [str(Path(sys.executable).with_name("dagster")), "definitions", "validate"],
        cwd=PROJECT,
        env={**os.environ, "DAGSTER_HOME": str(home), FOLDERS_VARIABLE: str(tmp_path / "connections")},
        capture_output=True,
        text=True,
        timeout=120,
    )
    told = done.stdout + done.stderr
    assert done.returncode == 0, told
    assert "Validation successful for code location rmm_assets." in told
    assert "does not match the name" not in told
    assert "bad is not loaded" in told and "acme is not loaded" not in told, told


def test_a_process_builds_the_code_location_once() -> None:
    # Dagster asks for it five times in the process of a run; with a thousand connections, each would take half a minute.
    program = """
from dagster._core.code_pointer import ModuleCodePointer
from dagster._core.definitions.reconstruct import ReconstructableRepository
from rmm_assets import definitions

built, build = [], definitions.build_defs
definitions.build_defs = lambda: built.append(1) or build()
definitions.defs()
repository = ReconstructableRepository(ModuleCodePointer("rmm_assets.definitions", "defs"))
print([repository.get_definition().has_job("sync_demo") for _ in range(2)], len(built))
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=PROJECT, capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[-2] == "[True, True] 1"

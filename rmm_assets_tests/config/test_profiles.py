"""Tests that a connection file is merged with the profile that it names, and that faults name the file that they are in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml

from rmm_assets.config import Connection, profiles
from rmm_assets.orchestration.component import RmmConnection
from rmm_assets_tests.config.test_connection import load, refusal

PROFILE = """\
vendor: Example
docs: https://example.com/api
secrets:
  api_key: {variable: TOKEN, description: A token., where: Settings > Tokens.}
  APP: {variable: APPLICATION_KEY, description: The application's key., where: Settings > Applications.}
settings:
  region: {description: The region in your account's address., values: {us: app, eu: app.eu}}
  tenant: {description: The first part of your account's address., pattern: "[a-z]+", default: main}
attributes:
  client:
    base_url: https://{settings.region}.example.com/{settings.tenant}
    headers: {X-App: "{secrets.APP}"}
    auth: {type: api_key, name: X-Key, location: header}
  resource_defaults:
    primary_key: id
    write_disposition: merge
    endpoint:
      data_selector: data
      paginator: {type: offset, limit: 100, total_path: meta.total}
  resources:
    - name: organizations
      endpoint: {path: /organizations}
    - name: devices
      endpoint: {path: "/organizations/{resources.organizations.id}/devices", params: {fields: all}}
      columns:
        id: {data_type: bigint}
        seen: {data_type: timestamp, description: When the agent last reported.}
    - name: alerts
      endpoint: {path: /alerts}
"""

FILE: dict[str, Any] = {"name": "acme", "profile": "example", "settings": {"region": "eu"}}


@pytest.fixture(autouse=True)
def example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Adds the profile `example`."""
    folder = tmp_path / "profiles"
    folder.mkdir()
    (folder / "example.yaml").write_text(PROFILE)
    monkeypatch.setattr(profiles, "FOLDER", folder)
    return folder / "example.yaml"


def rewrite(example: Path, old: str, new: str) -> None:
    assert old in PROFILE
    example.write_text(PROFILE.replace(old, new))
    profiles._read.cache_clear()


def loaded(tmp_path: Path, **changes: Any) -> RmmConnection:
    return load(tmp_path, written(**changes))


def written(**changes: Any) -> str:
    return yaml.safe_dump({"type": "rmm_assets.RmmConnection", "attributes": {**FILE, **changes}}, sort_keys=False)


def test_a_name_a_profile_and_its_settings_are_a_connection_file(tmp_path: Path) -> None:
    made = loaded(tmp_path)
    assert made.client.base_url == "https://app.eu.example.com/main"
    assert made.api_key is not None and made.api_key.env == "ACME_TOKEN"
    assert {name: secret.env for name, secret in made.secrets.items()} == {"APP": "ACME_APPLICATION_KEY"}
    assert [resource.name for resource in made.resources] == ["organizations", "devices", "alerts"]
    assert made.docs == "https://example.com/api"


def test_the_files_keys_win_over_the_profiles_one_by_one(tmp_path: Path) -> None:
    changed = {
        "client": {"base_url": "https://proxy.example.com", "headers": {"X-Site": "7"}},
        "api_key": {"dlt_secret": "acme.token"},
        "secrets": {"APP": {"dlt_secret": "acme.app"}},
        "resources": [
            {
                "name": "devices",
                "primary_key": ["id", "name"],
                "endpoint": {"params": {"page": "x"}, "paginator": {"limit": 50}},
                "columns": {"seen": {"sensitive": True}, "id": {"data_type": "text"}},
            },
            {"name": "alerts", "endpoint": "/alarms"},
            {"name": "organizations", "endpoint": {"paginator": {"type": "page_number", "base_page": 1}}},
        ],
    }
    made = loaded(tmp_path, **changed)
    assert made.client.base_url == "https://proxy.example.com"
    assert list(made.client.headers) == ["X-App", "X-Site"]
    assert made.api_key is not None and (made.api_key.env, made.api_key.dlt_secret) == (None, "acme.token")
    assert (made.secrets["APP"].env, made.secrets["APP"].dlt_secret) == (None, "acme.app")
    devices, alerts, organizations = made.resources
    assert devices.primary_key == ("id", "name")
    assert devices.endpoint.params == {"fields": "all", "page": "x"}
    assert devices.columns["seen"].model_dump(exclude_unset=True) == {
        "data_type": "timestamp", "description": "When the agent last reported.", "sensitive": True,
    }  # fmt: skip
    assert devices.columns["id"].data_type == "text"
    # Also if the profile has it in `resource_defaults`.
    assert devices.endpoint.paginator is not None
    assert devices.endpoint.paginator.model_dump(exclude_unset=True) == {
        "type": "offset", "limit": 50, "total_path": "meta.total",
    }  # fmt: skip
    assert alerts.endpoint.path == "/alarms"
    # A paginator of another type replaces the profile's.
    assert organizations.endpoint.paginator is not None
    assert organizations.endpoint.paginator.model_dump(exclude_unset=True) == {"type": "page_number", "base_page": 1}


def test_resources_are_picked_by_name_changed_and_added(tmp_path: Path) -> None:
    made = loaded(tmp_path, resources=["alerts", {"name": "licences", "endpoint": {"path": "/licences"}}])
    assert [(each.name, each.path, each.selected) for each in made.resources] == [
        ("alerts", "/alerts", True), ("licences", "/licences", True),
    ]  # fmt: skip


def test_a_picked_child_brings_its_parent_which_is_not_loaded(tmp_path: Path) -> None:
    made = loaded(tmp_path, resources=["devices"])
    assert [(each.name, each.selected) for each in made.resources] == [("devices", True), ("organizations", False)]


def test_settings_are_filled_in_without_a_profile_too() -> None:
    made = Connection.model_validate({
        "name": "acme",
        "settings": {"site": 7, "host": "rmm.example.com"},
        "client": {"base_url": "https://{settings.host}", "paginator": "single_page"},
        "resources": [{"name": "devices", "endpoint": {"method": "POST", "json": {"site": "{settings.site}", "query": "{ x }"}}}],
    })  # fmt: skip
    assert made.client.base_url == "https://rmm.example.com"
    assert made.resources[0].endpoint.json_body == {"site": "7", "query": "{ x }"}


def test_the_merged_file_loads_the_same_without_the_profile(tmp_path: Path, example: Path) -> None:
    made = loaded(tmp_path, resources=["alerts", "devices"], settings={"region": "us", "tenant": "north"})
    text = yaml.safe_dump(made.standalone(), sort_keys=False)
    example.unlink()
    again = load(tmp_path, text)
    assert "profile" not in text and "settings" not in text
    assert again.rest_api_config() == made.rest_api_config()
    assert (again.api_key, again.secrets, again.docs) == (made.api_key, made.secrets, made.docs)


REGION = "`region` is missing: The region in your account's address."
FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "unknown profile": ({"profile": "exampel"}, "profile: there is no such profile; did you mean `example`?"),
    "missing setting": ({"settings": {"tenant": "a"}}, f"settings: {REGION}"),
    "no settings": ({"settings": None}, f"settings: {REGION}"),
    "unknown setting": (
        {"settings": {"region": "eu", "tenent": "a"}},
        "settings.tenent: unknown setting `tenent`; did you mean `tenant`?",
    ),
    "wrong value": ({"settings": {"region": "europe"}}, "settings.region: unknown value; known are: eu, us"),
    "wrong pattern": (
        {"settings": {"region": "eu", "tenant": "A1"}},
        "settings.tenant: does not match [a-z]+: The first part of your account's address.",
    ),
    "unknown resource": (
        {"resources": ["alerts", "device"]},
        "resources[1]: `device` is not in the profile; did you mean `devices`? A new one needs `endpoint`",
    ),
    "wrong key of a picked resource": (
        {"resources": [{"name": "alerts", "primry_key": "id"}]},
        "resources[0].primry_key: unknown key `primry_key`; did you mean `primary_key`?",
    ),
    "no resources": ({"resources": []}, "resources: write at least one resource"),
}


@pytest.mark.parametrize("case", FAULTS)
def test_a_fault_in_the_file_names_it_and_what_to_write(tmp_path: Path, case: str) -> None:
    changes, said = FAULTS[case]
    message = refusal(tmp_path, written(**changes))
    assert f"attributes.{said}" in message
    assert f"{tmp_path / 'acme' / 'defs.yaml'}:" in message
    assert "example.yaml" not in message


def test_a_fault_is_at_the_line_of_the_file_that_has_the_key(tmp_path: Path, example: Path) -> None:
    text = written(resources=["organizations", {"name": "alerts", "endpoint": {"method": "PUSH"}}])
    line = 1 + next(i for i, each in enumerate(text.splitlines()) if "PUSH" in each)
    message = refusal(tmp_path, text)
    assert f"acme/defs.yaml:{line}: attributes.resources[1].endpoint.method" in message

    def fault_in_profile(at: str, **changes: Any) -> str:
        line = 1 + next(i for i, each in enumerate(PROFILE.splitlines()) if at in each)
        with pytest.raises(ValueError) as raised:
            loaded(tmp_path, **changes)
        assert str(raised.value).startswith(f"{example}:{line}: ")
        return str(raised.value)

    # The second of the file's resources is the third of the profile's.
    rewrite(example, "{path: /alerts}", "{path: /alerts, metod: GET}")
    said = fault_in_profile("path: /alerts", resources=["organizations", "alerts"])
    assert "attributes.resources[2].endpoint.metod: unknown key `metod`" in said
    rewrite(example, "name: X-Key", "nme: X-Key")
    assert "attributes.client.auth.nme: unknown key" in fault_in_profile("X-Key")


def test_settings_that_are_unknown_or_not_used_are_faults() -> None:
    def said(**changes: Any) -> str:
        with pytest.raises(ValueError) as raised:
            Connection.model_validate({"name": "acme", "resources": ["devices"], **changes})
        return str(raised.value)

    client = {"base_url": "https://{settings.hos}", "paginator": "single_page"}
    assert "unknown setting `hos`; did you mean `host`?" in said(settings={"host": "h"}, client=client)
    assert "unknown setting `hos`; write `settings: {hos: ...}`" in said(client=client)
    assert "not used; write `{settings.site}` where it belongs" in said(
        settings={"site": 7}, client={"base_url": "https://h"}
    )


def test_a_secret_among_the_settings_is_refused_and_not_repeated(tmp_path: Path) -> None:
    message = refusal(tmp_path, written(settings={"region": "eu", "api_key": "s3cr3t-9f8e"}))
    assert "a secret must not be in the file" in message and "s3cr3t" not in message


def test_templates_can_be_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACME_REGION", "us")
    made = loaded(tmp_path, settings={"region": "{{ env('ACME_REGION') }}"})
    assert made.client.base_url == "https://app.example.com/main"


def test_an_asset_refers_to_the_line_that_describes_it(tmp_path: Path, example: Path) -> None:
    def place(**changes: Any) -> tuple[str, int]:
        spec = loaded(tmp_path, **changes)._with_code_reference(dg.AssetSpec(["acme", "alerts"]))
        [reference] = spec.metadata["dagster/code_references"].code_references
        return reference.file_path, reference.line_number

    text = written(resources=["alerts"])
    assert place(resources=["alerts"]) == (str(tmp_path / "acme" / "defs.yaml"), len(text.splitlines()))
    assert place() == (str(example), 1 + PROFILE[: PROFILE.index("name: alerts")].count("\n"))

"""Tests that every profile reads every row and value of its vendor's API, as its dialect speaks it, in the vendor's pages."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml

import rmm_assets
from rmm_assets.config import Connection, profiles
from rmm_assets.definitions import broken_connections, build_defs
from rmm_assets_tests.http.servers import Scripted, Seen
from rmm_assets_tests.vendors import openapi
from rmm_assets_tests.vendors.dialects import DIALECTS, REAL
from rmm_assets_tests.vendors.loading import connection_of, differences, receive

pytestmark = pytest.mark.slow

CASES = [(profile, resource) for profile in DIALECTS for resource in profiles.profile_named(profile).resources]


@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(case))
def test_a_resource_has_every_row_and_value(case: tuple[str, str], tmp_path: Path) -> None:
    profile, name = case
    dialect = DIALECTS[profile]()
    wanted = dialect.resources()
    with Scripted(dialect.answer) as server:
        made = connection_of(dialect, server.url)
        received = receive(tmp_path, made, dialect, name)
    assert differences(received.rows, wanted[name]) == []
    assert received.report.complete
    assert received.report.warnings == []
    assert received.rejected == 0
    assert dialect.strange == set(), "the vendor does not document these parameters"
    if profile in openapi.described():
        assert openapi.unknown(openapi.operations(profile), lists_of(made, server.seen)) == set()
    # Pages are as large as the vendor allows or the profile explains, and there are at least three.
    if name not in dialect.unpaged:
        most = max(rows for _, rows in dialect.answered)
        assert most == dialect.page_sizes.get(name, getattr(dialect, "page_size", most))
        assert len(dialect.answered) >= 3


def lists_of(made: Connection, seen: list[Seen]) -> list[Seen]:
    """Returns the requests but those for tokens."""
    addresses = made.client.auth.addresses.values() if made.client.auth else ()
    tokens = {urlsplit(url).path for url in addresses}
    return [each for each in seen if urlsplit(each.target).path not in tokens]


@pytest.mark.parametrize("profile", openapi.described())
def test_a_path_and_a_parameter_that_a_description_does_not_have_are_noticed(profile: str) -> None:
    [known, *_] = openapi.operations(profile)
    path, param = known.path.replace("{", "").replace("}", ""), min(known.params, default="")

    def asked(target: str, method: str = known.method) -> set[str]:
        return openapi.unknown(openapi.operations(profile), [Seen(method, target, {}, b"", 1, 0)])

    assert asked(f"{path}?{param}=1" if param else path) == set()
    assert asked(f"{path}?{param.upper()}x=1") == {f"{known.method} {known.path}?{param.upper()}x"}
    assert asked(f"{path}s-and-more") == {f"{known.method} {path}s-and-more"}
    assert asked(path, "PATCH") == {f"PATCH {path}"}


def test_every_profile_has_a_dialect_and_every_resource_rows() -> None:
    assert set(DIALECTS) == set(profiles.names()) - {"generic"} - set(REAL)
    for profile, dialect in DIALECTS.items():
        assert set(dialect().resources()) == set(profiles.profile_named(profile).resources), profile


@pytest.mark.parametrize("profile", sorted(DIALECTS | REAL))
def test_a_profile_says_where_its_facts_are_from_and_what_is_not_verified(profile: str) -> None:
    found, dialect = profiles.profile_named(profile), (DIALECTS | REAL)[profile]
    assert found.vendor and found.docs and found.sources and found.confidence
    assert "Nothing was tried with" in found.not_verified[0]
    assert set(found.secrets) == set(dialect.secrets)
    optional = {name for name, setting in found.settings.items() if setting.default is not None}
    assert set(found.settings) - optional == set(dialect.settings) - optional
    made = connection_of(dialect(), "http://127.0.0.1:9")
    for resource in made.resources:
        assert resource.description, f"{resource.name} has no description"
        assert resource.keys or resource.disposition == "replace", f"{resource.name} has no key"


def test_python_code_names_no_vendor() -> None:
    words = {word for name in profiles.names() for word in name.split("_")} - {
        "generic",
        "x",
        "beta",
        "rmm",
        "pro",
        "level",
    }
    vendors = {profiles.profile_named(name).vendor.lower() for name in profiles.names()} - {"", "level"}
    for file in Path(rmm_assets.__file__).parent.rglob("*.py"):
        text = file.read_text().lower()
        assert not [word for word in words | vendors if re.search(rf"\b{re.escape(word)}\b", text)], file


def test_all_profiles_load_in_one_workspace_at_once(tmp_path: Path) -> None:
    every = DIALECTS | REAL
    for name, dialect in every.items():
        attributes = {"name": name, "profile": name, "settings": dict(dialect.settings)}
        (tmp_path / name).mkdir()
        content = {"type": "rmm_assets.RmmConnection", "attributes": attributes}
        (tmp_path / name / "defs.yaml").write_text(yaml.safe_dump(content))
    definitions = build_defs(folders=[tmp_path])
    assert broken_connections(definitions) == {}
    found = {tuple(spec.key.path) for spec in definitions.resolve_all_asset_specs()}
    charts = {key for key in found if key[1] == "fleet_overview"}
    assert found - charts == {(name, resource) for name in every for resource in profiles.profile_named(name).resources}

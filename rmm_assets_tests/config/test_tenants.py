"""Tests which tenants a connection file, a CSV file and a YAML file may name, and what each tenant's connection is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from rmm_assets.config import Connection
from rmm_assets.config.tenants import Tenant, in_file
from rmm_assets.errors import TenantError
from rmm_assets.settings import messages


def made(**changes: Any) -> Connection:
    return Connection.model_validate(
        {
            "name": "msp",
            "client": {"base_url": "https://{settings.host}/api", "auth": {"type": "bearer"}},
            "api_key": {"env": "MSP_{tenant}_KEY"},
            "tenants": [{"name": "north", "settings": {"host": "north.example"}}],
            "resource_defaults": {
                "primary_key": "id",
                "write_disposition": "merge",
                "endpoint": {"data_selector": "data", "paginator": "single_page"},
            },
            "resources": ["devices"],
            **changes,
        }
    )


def faults(**changes: Any) -> dict[str, str]:
    with pytest.raises(ValidationError) as raised:
        made(**changes)
    return {".".join(map(str, path)): message for path, message in messages(raised.value)}


def test_the_connection_of_a_tenant_has_its_settings_and_secrets_and_no_column() -> None:
    connection = made(
        secrets={"PIN": {"dlt_secret": "msp.{tenant}.pin"}},
        resources=[
            {
                "name": "devices",
                "endpoint": {"headers": {"X-Pin": "{secrets.PIN}"}, "params": {"org": "{settings.org}"}},
            }
        ],
    )
    assert connection.resources[0].keys == ("tenant", "id")
    assert connection.setting_names() == ["host", "org"]
    tenant = connection.of_tenant(Tenant(name="South-1", settings={"host": "south.example", "org": "7"}))
    assert (tenant.client.base_url, tenant.resources[0].keys) == ("https://south.example/api", ("id",))
    assert tenant.api_key is not None and tenant.api_key.env == "MSP_SOUTH_1_KEY"
    assert tenant.secrets["PIN"].dlt_secret == "msp.South_1.pin"
    assert (tenant.resources[0].endpoint.params, tenant.tenants) == ({"org": "7"}, None)
    with pytest.raises(TenantError, match=r"tenant x: client\.base_url: unknown setting `host`"):
        connection.of_tenant(Tenant(name="x"))
    with pytest.raises(TenantError, match=r"tenant x: client\.base_url: a secret must not be"):
        connection.of_tenant(Tenant(name="x", settings={"host": "user:pw@evil.example/#", "org": "7"}))


def test_a_setting_of_the_connection_is_that_of_all_tenants() -> None:
    connection = made(settings={"host": "shared.example"}, tenants=[{"name": "north"}])
    assert connection.of_tenant(Tenant(name="north")).client.base_url == "https://shared.example/api"


def test_a_whole_address_can_be_a_setting() -> None:
    connection = made(client={"base_url": "{settings.url}/v1", "auth": {"type": "bearer"}})
    assert (
        connection.of_tenant(Tenant(name="n", settings={"url": "https://a.example"})).client.base_url
        == "https://a.example/v1"
    )


def test_a_profile_is_used_by_many_tenants() -> None:
    connection = Connection.model_validate(
        {
            "name": "msp", "profile": "tactical_rmm", "api_key": {"env": "KEY_{tenant}"}, "resources": ["agents"],
            "settings": {"timezone": "UTC"}, "tenants": [{"name": "north", "settings": {"host": "api.north.example"}}],
        }
    )  # fmt: skip
    tenant = connection.of_tenant(connection.tenants.list[0])  # type: ignore[union-attr,index]
    assert tenant.client.base_url == "https://api.north.example"
    assert tenant.api_key is not None and tenant.api_key.env == "KEY_NORTH"
    with pytest.raises(TenantError, match=r"settings\.host: does not match"):
        connection.of_tenant(Tenant(name="x", settings={"host": "api.example/path?"}))


def test_what_columns_use_is_the_same_for_all_tenants() -> None:
    zone = {"seen": {"data_type": "timestamp", "format": "%d.%m.%Y %H:%M", "timezone": "{settings.zone}"}}
    said = faults(resources=[{"name": "devices", "columns": zone}])
    assert said == {"settings": "`zone` is missing: columns use it, so it is the same for all tenants"}
    assert made(resources=[{"name": "devices", "columns": zone}], settings={"zone": "Europe/Paris"}).resources


@pytest.mark.parametrize(
    ("changes", "key", "sentence"),
    [
        ({"tenants": []}, "tenants.list", "write at least one tenant"),
        ({"tenants": {}}, "tenants", "write one of `list`, `file` and `from`"),
        ({"tenants": {"file": "a.csv", "from": "a/b"}}, "tenants", "write one of `list`, `file` and `from`"),
        ({"tenants": {"file": "a.csv", "settings": {"host": "h"}}}, "tenants.settings", "only used with `from`"),
        ({"tenants": [{"name": "a-b"}, {"name": "a_b"}]}, "tenants.list", "two names have the same letters and digits"),
        ({"tenants": [{"name": "a b"}]}, "tenants.list.0.name", "pattern"),
        ({"tenants": None, "settings": {"host": "h.example"}}, "api_key", "`{tenant}` needs `tenants`"),
        ({"simulator": {}, "client": {"base_url": None}}, "simulator", "does not work with `tenants`"),
        ({"resources": [{"name": "d", "write_disposition": "replace"}], "destination": {"type": "filesystem"}},
         "resources.0.write_disposition", "filesystem cannot replace the rows of some tenants"),
        ({"resources": [{"name": "d", "history": True, "write_disposition": {
            "disposition": "merge", "row_version_column_name": "changed"}}]},
         "resources.0.write_disposition.row_version_column_name", "tenants may have the same values"),
    ],
)  # fmt: skip
def test_a_fault_says_what_to_write(changes: dict[str, Any], key: str, sentence: str) -> None:
    assert sentence in faults(**changes)[key]


def test_tenants_are_read_from_a_file(tmp_path: Path) -> None:
    csv, yaml = tmp_path / "tenants.csv", tmp_path / "tenants.yaml"
    csv.write_text("name,host,note\nnorth , n.example,x\nsouth,s.example,\n", encoding="utf-8-sig")
    yaml.write_text("- {name: north, settings: {host: n.example}}\n- {name: 7}\n")
    assert in_file(csv, ["host"]).tenants == [
        Tenant(name="north", settings={"host": "n.example"}),
        Tenant(name="south", settings={"host": "s.example"}),
    ]
    expected = [Tenant(name="north", settings={"host": "n.example"}), Tenant(name="7")]
    assert in_file(yaml, ["host"]) == (expected, [])


def test_a_file_as_a_spreadsheet_writes_it_has_the_same_tenants(tmp_path: Path) -> None:
    file = tmp_path / "tenants.csv"
    lines = ['"name", host,note', "", ",,", 'north,"n.example","one, two\u2028three\r\nfour"', " ", "south,s.example"]
    file.write_bytes("\r\n".join(lines).encode("utf-8-sig"))
    found = in_file(file, ["host"])
    assert [(tenant.name, tenant.settings["host"]) for tenant in found.tenants] == [
        ("north", "n.example"), ("south", "s.example"),
    ]  # fmt: skip
    assert found.faults == []


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("a/b,h", "t.csv: tenant 2, `a/b`: name: a name has letters, digits and `_ . @ -`, begins"),
        ("Müller GmbH,h", "t.csv: tenant 2, `Müller GmbH`: name: a name has letters"),
        ("x" * 200 + ",h", f"t.csv: tenant 2, `{'x' * 60}`: name: a name has letters"),
        (",h", "t.csv: tenant 2: name: a name has letters"),
        ("south,a,b", "t.csv: tenant 2: line 3 has more values than columns; quote a comma"),
        ("a-b,h\nA.b,h", "t.csv: a-b, A.b: two names have the same letters and digits"),
        ("south,h\nsouth,h", "t.csv: south: two names have the same letters and digits"),
    ],
)
def test_a_line_with_a_fault_spares_the_other_tenants(tmp_path: Path, line: str, fault: str) -> None:
    (tmp_path / "t.csv").write_text(f"name,host\nnorth,n\n{line}\nwest,w\n")
    found = in_file(tmp_path / "t.csv", ["host"])
    assert [tenant.name for tenant in found.tenants] == ["north", "west"]
    [said] = found.faults
    assert said.startswith(fault) and found.problem == said


def test_a_line_that_is_cut_off_is_no_tenant(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("name,host,note\nnorth,n\nsou")
    found = in_file(tmp_path / "t.csv", ["host"])
    assert [tenant.name for tenant in found.tenants] == ["north"]
    assert found.problem == "t.csv: tenant 2: line 3 ends before the column `host`"


def test_many_faults_are_counted(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("name\nnorth\n" + "a/b\n" * 1000)
    assert in_file(tmp_path / "t.csv", []).problem.endswith("; and 995 more")


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("t.csv", "name\n", "t.csv: has no tenants"),
        ("t.csv", "", "t.csv: the first line has no column `name`"),
        ("t.csv", "host\nx\n", "t.csv: the first line has no column `name`; columns are separated by commas"),
        ("t.csv", "name;host\nx;y\n", "t.csv: the first line has no column `name`; columns are separated by commas"),
        ("t.csv", "name,host,host\nx,y,z\n", "t.csv: the first line has the column `host` twice"),
        ("t.csv", 'name\n"nor', "t.csv: cannot be read: Error"),
        ("t.csv", "name\na-b\na.b\n", "t.csv: a-b, a.b: two names have the same letters and digits"),
        ("t.yaml", "- {name: a, key: SECRET}\n", "t.yaml: tenant 1, `a`: key: unknown key `key`"),
        ("t.yaml", "name: SECRET: x", "t.yaml: cannot be read"),
        (
            "t.yaml",
            "- SECRET\n- 7\n",
            "t.yaml: tenant 1: write a mapping with `name` and `settings`; t.yaml: tenant 2: write a",
        ),
        ("t.yaml", "SECRET", "t.yaml: the list:"),
    ],
)
def test_a_fault_of_a_file_names_the_tenant_and_no_value(tmp_path: Path, name: str, text: str, sentence: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(TenantError) as raised:
        in_file(tmp_path / name, ["host"])
    assert str(raised.value).startswith(sentence) and "SECRET" not in str(raised.value)
    with pytest.raises(TenantError, match=r"missing\.csv: cannot be read: No such file"):
        in_file(tmp_path / "missing.csv", [])


def test_a_file_in_another_encoding_says_so(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("name\nnorth\n", encoding="utf-16")
    with pytest.raises(TenantError, match=r"t\.csv: cannot be read: save it as UTF-8"):
        in_file(tmp_path / "t.csv", [])

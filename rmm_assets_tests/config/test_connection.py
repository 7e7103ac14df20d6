"""Tests that a connection file is read as written, or refused with file, line, the fault and what to write."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
import traceback
from copy import deepcopy
from pathlib import Path
from typing import Any, get_args

import certifi
import dlt
import jsonschema  # type: ignore[import-untyped]
import pytest
import yaml
from dlt.common.data_types import TDataType
from dlt.common.schema.typing import TColumnSchema, TLoaderMergeStrategy
from dlt.sources.rest_api import config_setup, rest_api_resources
from dlt.sources.rest_api.typing import AuthType, Endpoint, EndpointResource, PaginatorType

import rmm_assets
from rmm_assets.config import Connection, client, endpoint, resource, secrets, table_hints
from rmm_assets.definitions import load_connections
from rmm_assets.http.auth import AuthSettings
from rmm_assets.http.settings import Limits, Retry, Throttle, Tls
from rmm_assets.orchestration.component import RmmConnection
from rmm_assets.reading import paginators
from rmm_assets.settings import Settings
from rmm_assets.tables.settings import DEFAULT_DATABASE, Destination

PACKAGE = Path(rmm_assets.__file__).parent
SECRET = "s3cr3t-9f8e7d6c5b"

ACME = """\
type: rmm_assets.RmmConnection
attributes:
  name: acme
  client:
    base_url: https://rmm.example.com/api
    auth: {type: api_key, name: key, location: query}
  api_key: {env: ACME_API_KEY}
  resource_defaults:
    primary_key: id
    write_disposition: merge
    endpoint:
      paginator: {type: offset, limit: 100}
  resources:
    - name: devices
      endpoint: {path: /v1/devices, data_selector: data}
    - name: alerts
      endpoint: {path: "/v1/devices/{resources.devices.id}/alerts", data_selector: data}
"""


def load(tmp_path: Path, text: str) -> RmmConnection:
    folder = tmp_path / "acme"
    folder.mkdir(exist_ok=True)
    (folder / "defs.yaml").write_text(text, encoding="utf-8")
    (connection,) = load_connections(folder)
    return connection


def refusal(tmp_path: Path, text: str) -> str:
    with pytest.raises(ValueError, match=r"defs\.yaml") as raised:
        load(tmp_path, text)
    return str(raised.value)


def attributes(**changes: Any) -> dict[str, Any]:
    return {**yaml.safe_load(ACME)["attributes"], **changes}


# --- valid files


def test_the_generic_profile_is_dlts_own_config() -> None:
    (connection,) = load_connections_of(PACKAGE / "profiles" / "generic.yaml")

    assert connection.api_key is not None and connection.api_key.dlt_secret == "api_key"
    assert connection.rest_api_config() == {
        "client": {
            "base_url": "https://api.example.com",
            "auth": {"type": "api_key", "name": "api_key", "location": "query"},
        },
        "resources": [
            {
                "name": "resource_name",
                "primary_key": ["id"],
                "write_disposition": "merge",
                "endpoint": {
                    "path": "/v1/resource",
                    "data_selector": "data",
                    "paginator": {"type": "offset", "limit": 100},
                },
            }
        ],
    }


def load_connections_of(file: Path) -> list[RmmConnection]:
    return [RmmConnection.from_attributes_dict(attributes=yaml.safe_load(file.read_text())["attributes"])]


def test_a_connection_loads_with_no_secret_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ACME_API_KEY", raising=False)
    assert load(tmp_path, ACME).api_key is not None


def test_defaults_are_merged_as_dlt_merges_them() -> None:
    defaults: dict[str, Any] = {
        "primary_key": ["id"],
        "write_disposition": "append",
        "columns": {"id": {"data_type": "bigint", "nullable": False}, "name": {"data_type": "text"}},
        "endpoint": {
            "method": "POST",
            "params": {"expand": "all", "sort": "id"},
            "json": {"a": 1, "b": {"c": 2}},
            "paginator": {"type": "page_number", "base_page": 1, "total_path": None},
            "data_selector": "rows",
        },
    }
    resources: list[Any] = [
        "plain",
        {"name": "named"},
        {"name": "path_only", "endpoint": "some/path"},
        {
            "name": "own",
            "primary_key": ["uid"],
            "columns": {"id": {"nullable": True}, "seen": {"data_type": "timestamp"}},
            "endpoint": {
                "path": "own/{kind}",
                "params": {"sort": "uid", "kind": "x"},
                "json": {"b": 3},
                "paginator": {"type": "cursor", "cursor_path": "next"},
            },
        },
        {"name": "one", "endpoint": {"path": "plain/{resources.plain.id}"}},
    ]
    theirs: dict[str, Any] = {}
    merged: Any = defaults
    for one in resources:  # each with its own copy: dlt writes a resource's hints back into the defaults
        theirs |= config_setup.expand_and_index_resources(deepcopy([one]), deepcopy(merged))
    ours = Connection.model_validate(
        {
            "name": "x",
            "client": {"base_url": "https://h"},
            "resource_defaults": defaults,
            "resources": resources,
        }
    ).rest_api_config()["resources"]
    # dlt fills path parameters into the path later; ours are still as written, so dlt does it for both.
    ours_in_dlt: dict[str, Any] = dict(config_setup.expand_and_index_resources(ours, {}))
    for name, expected in theirs.items():
        got = dict(ours_in_dlt[name])
        for config in (expected, got):
            config["columns"] = {
                column: {key: value for key, value in hints.items() if key != "name"}
                for column, hints in config.get("columns", {}).items()
            }
        assert got == expected


def _one_thing(client: dict[str, str], **endpoint: Any) -> Connection:
    endpoint = {"path": "devices/{resources.devices.id}", **endpoint}
    devices = {"name": "devices", "endpoint": {"paginator": "json_link"}}
    resources = [devices, {"name": "one", "endpoint": endpoint}]
    return Connection.model_validate(
        {"name": "x", "client": {"base_url": "https://h", **client}, "resources": resources}
    )


def test_a_path_to_a_single_object_implies_no_paginator_and_no_selector() -> None:
    with pytest.raises(ValueError, match="`one` has no paginator, and guessing one loses rows"):
        _one_thing({})
    one = _one_thing({"paginator": "header_link"}).resource("one")
    assert one.endpoint.paginator == paginators.HeaderLinkPaginator(), "the client's paginator applies here, too"
    one = _one_thing({}, paginator="single_page", data_selector="$", single_object=True).resource("one")
    assert one.endpoint.paginator == paginators.SinglePagePaginator()
    assert one.endpoint.single_object


def test_the_clients_paginator_applies_to_resources_without_one() -> None:
    connection = Connection.model_validate(
        {
            "name": "x",
            "client": {"base_url": "https://h", "paginator": "header_link"},
            "resources": ["devices"],
        }
    )
    assert connection.resources[0].endpoint.paginator == paginators.HeaderLinkPaginator()


def test_a_connection_can_be_created_in_python() -> None:
    connection = Connection(
        name="x",
        client=client.Client(base_url="https://h", paginator=paginators.OffsetPaginator(limit=5)),
        resources=(resource.Resource(name="devices", primary_key=("id",)),),
    )
    assert connection.rest_api_config()["resources"][0]["endpoint"]["paginator"] == {
        "type": "offset",
        "limit": 5,
    }


def test_a_template_can_be_used_for_a_value_of_any_type(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACME_BASE_URL", "https://other.example.com")
    monkeypatch.setenv("ACME_CONCURRENCY", "3")
    text = ACME.replace("https://rmm.example.com/api", "\"{{ env('ACME_BASE_URL') }}\"")
    connection = load(tmp_path, text + "  limits: {max_concurrency: \"{{ env('ACME_CONCURRENCY') }}\"}\n")
    assert connection.client.base_url == "https://other.example.com"
    assert connection.limits.max_concurrency == 3


def test_text_that_looks_like_a_number_stays_text(tmp_path: Path) -> None:
    text = ACME.replace(
        "data_selector: data}\n    - name: alerts",
        'data_selector: data, params: {site: "12"}}\n    - name: alerts',
    )
    assert load(tmp_path, text).resource("devices").endpoint.params == {"site": "12"}


def test_unique_checks_default_to_the_primary_key_in_the_tables_names() -> None:
    one, two, none = Connection.model_validate(
        {
            "name": "x",
            "client": {"base_url": "https://h", "paginator": "single_page"},
            "resources": [
                {"name": "one", "primary_key": ["siteId", "id"]},
                {"name": "two", "primary_key": "id", "checks": {"unique": [["id"], ["a", "b"]]}},
                {"name": "none", "primary_key": "id", "checks": {"unique": []}},
            ],
        }
    ).resources
    assert one.unique == (("site_id", "id"),)
    assert two.unique == (("id",), ("a", "b"))
    assert none.unique == ()


def test_history_is_dlts_scd2() -> None:
    (devices,) = Connection.model_validate(
        {
            "name": "x",
            "client": {"base_url": "https://h", "paginator": "single_page"},
            "resources": [{"name": "devices", "primary_key": "id", "history": True}],
        }
    ).resources
    assert (devices.disposition, devices.strategy) == ("merge", "scd2")
    assert devices.as_dlt()["write_disposition"] == {"disposition": "merge", "strategy": "scd2"}


def test_the_database_is_a_file_unless_the_file_or_the_environment_says_otherwise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("RMM_DATABASE", raising=False)
    assert Destination().resolved_credentials() == DEFAULT_DATABASE
    monkeypatch.setenv("RMM_DATABASE", "elsewhere.duckdb")
    assert Destination().resolved_credentials() == "elsewhere.duckdb"
    assert Destination(credentials="mine.duckdb").resolved_credentials() == "mine.duckdb"
    assert Destination(type="postgres").resolved_credentials() is None


def test_the_demo_uses_the_simulator_and_its_schedule_is_stopped() -> None:
    (demo,) = load_connections(PACKAGE / "defs" / "demo")
    assert demo.simulator is not None and demo.api_key is None and demo.client.base_url is None
    assert [resource.name for resource in demo.resources] == ["organizations", "devices", "alerts", "patches"]
    assert all(resource.unique == (("id",),) and "status" in resource.checks.not_null for resource in demo.resources)
    assert demo.schedule is not None and demo.schedule.status == "stopped"


# --- dlt's keys


def test_every_paginator_of_dlt_but_guessing_can_be_written_with_all_its_keys() -> None:
    assert set(paginators.STYLES) == set(get_args(PaginatorType)) - {"auto", "json_response"}
    for kind, model in paginators.STYLES.items():
        keys = set(inspect.signature(config_setup.PAGINATOR_MAP[kind]).parameters)
        assert set(model.model_fields) - {"type", *resource.OUR_PAGINATOR_KEYS} == keys, kind


def test_every_auth_of_dlt_can_be_written_with_all_its_keys_but_the_secret() -> None:
    assert set(AuthSettings.kinds()) == {*get_args(AuthType), "token"}
    secrets = {"api_key", "token", "password", "client_secret", "access_token", "session"}
    for model in set(get_args(client._AnyAuth)) - {AuthSettings.kinds()["token"]}:
        keys = set(config_setup.AUTH_MAP[model.model_fields["type"].default].get_resolvable_fields())
        assert set(model.model_fields) - {"type", "prefix"} == keys - secrets


def test_every_key_of_dlts_resources_endpoints_and_columns_can_be_written() -> None:
    refused = set(resource.Resource.elsewhere)
    assert set(EndpointResource.__annotations__) - refused <= _keys(resource.Resource)
    assert set(Endpoint.__annotations__) == _keys(endpoint.Endpoint) - resource.OUR_ENDPOINT_KEYS
    columns = {key for key in TColumnSchema.__annotations__ if not key.startswith("x-")}
    assert columns - set(table_hints.Column.elsewhere) <= _keys(table_hints.Column)
    assert _keys(resource.Resource) - set(EndpointResource.__annotations__) == resource.OUR_KEYS
    assert set(_literals(table_hints.Column, "data_type")) == set(get_args(TDataType))
    assert set(_literals(table_hints.WriteDisposition, "strategy")) == set(get_args(TLoaderMergeStrategy))


def _keys(model: type[Settings]) -> set[str]:
    return {field.alias or name for name, field in model.model_fields.items()}


def _literals(model: type[Settings], key: str) -> list[str]:
    literal = next(kind for kind in get_args(model.model_fields[key].annotation) if kind is not type(None))
    return list(get_args(literal))


def test_dlt_builds_its_resources_from_a_connection() -> None:
    connection = Connection.model_validate(
        {
            "name": "full",
            "client": {
                "base_url": "https://h/",
                "headers": {"Accept": "application/json"},
                "auth": "bearer",
                "paginator": {"type": "page_number", "base_page": 1, "total_path": None},
            },
            "api_key": {"env": "FULL"},
            "resources": [
                {
                    "name": "devices",
                    "endpoint": {
                        "path": "devices",
                        "method": "get",
                        "params": {"site": "{incremental.start_value}"},
                        "incremental": {"cursor_path": "updated", "initial_value": "2024-01-01", "lag": 60},
                        "response_actions": [{"status_code": 404, "action": "ignore"}],
                    },
                    "primary_key": ["site", "id"],
                    "merge_key": "site",
                    "write_disposition": {"disposition": "merge", "strategy": "upsert"},
                    "columns": [{"name": "id", "data_type": "bigint"}, {"name": "who", "sensitive": True}],
                    "schema_contract": {"columns": "freeze"},
                    "references": [{"columns": "site", "referenced_table": "sites", "referenced_columns": "id"}],
                    "max_table_nesting": 0,
                    "table_name": "machines",
                    "tags": {"a": "b"},
                    "owners": "team:rmm",
                },
                {
                    "name": "disks",
                    "endpoint": {"path": "devices/{resources.devices.id}/disks", "json": {"all": True}},
                    "include_from_parent": "id",
                    "schema_contract": "evolve",
                },
            ],
        }
    )
    config = connection.rest_api_config()
    assert "sensitive" not in json.dumps(config) and "tags" not in json.dumps(config)
    config["client"]["auth"]["token"] = "x"
    devices, disks = rest_api_resources(config)  # type: ignore[arg-type]
    assert devices.compute_table_schema()["name"] == "machines"
    assert disks.name == "disks"
    assert isinstance(devices, dlt.sources.DltResource)


# --- faults, at the line marked with `<-`

REFUSED = {
    "an unknown key": ("  name: acme", "  nmae: acme # <-", ["`nmae`", "did you mean `name`?"]),
    "a key in the wrong place": (
        "  name: acme",
        "  name: acme\n  base_url: x # <-",
        ["write it under `client`"],
    ),
    "an unknown key deep inside": (
        "{type: offset, limit: 100}",
        "{type: offset, limit: 100, offset_parm: o} # <-",
        ["resource_defaults.endpoint.paginator.offset_parm", "did you mean `offset_param`?"],
    ),
    "a wrong type": ("limit: 100}", "limit: many} # <-", ["paginator.limit", "integer"]),
    "an unknown paginator": ("type: offset, limit: 100}", "type: ofset} # <-", ["did you mean `offset`?"]),
    "a guessed paginator": ("{type: offset, limit: 100}", "auto # <-", ["page_number", "single_page"]),
    "no paginator at all": (
        ACME[ACME.index("    endpoint:\n") : ACME.index("    - name: alerts")],
        "  resources:\n    - name: devices\n      endpoint: {path: /v1/devices} # <-\n",
        ["`devices` has no paginator", "offset", "cursor", "single_page"],
    ),
    "no primary key under merge": (
        "    primary_key: id\n    write_disposition: merge\n",
        "    write_disposition: merge # <-\n",
        ["`devices` merges", "primary_key: id"],
    ),
    "an unknown parent": (
        '{resources.devices.id}/alerts", data_selector: data}',
        '{resources.device.id}/alerts", data_selector: data} # <-',
        ["unknown resource `device`", "did you mean `devices`?"],
    ),
    "two bodies": (
        "{path: /v1/devices, data_selector: data}",
        "{path: /v1/devices, data_selector: data, method: POST, json: {a: 1}, data: {b: 2}} # <-",
        ["endpoint.data", "either `json` or `data`"],
    ),
    "two resources with one name": ("- name: alerts", "- name: devices # <-", ["two resources `devices`"]),
    "two resources with one table": (
        "- name: alerts",
        "- name: Devices # <-",
        ["`Devices`", "`devices`", "both write the table `devices`", "table_name"],
    ),
    "a table that holds another one's rejects": (
        "- name: alerts",
        "- name: devices_rejected # <-",
        ["both write the table `devices_rejected`"],
    ),
    "plain http": (
        "https://rmm.example.com/api",
        "http://rmm.example.com/api # <-",
        ["https", "allow_http: true"],
    ),
    "a name that only looks like this machine": (
        "https://rmm.example.com/api",
        "http://rmm.localhost/api # <-",
        ["unencrypted", "allow_http: true"],
    ),
    "no address": ("https://rmm.example.com/api", "rmm.example.com # <-", ["https://host/path"]),
    "another origin": (
        "path: /v1/devices, data_selector: data}",
        "path: https://other.example.com/devices, data_selector: data} # <-",
        ["another origin"],
    ),
    "a key with nowhere to go": (
        "    auth: {type: api_key, name: key, location: query}\n  api_key: {env: ACME_API_KEY}",
        "  api_key: {env: ACME_API_KEY} # <-",
        ["client.auth", "bearer"],
    ),
    "an auth with no key": (
        "    auth: {type: api_key, name: key, location: query}\n  api_key: {env: ACME_API_KEY}\n",
        "    auth: bearer # <-\n",
        ["api_key: {env: ACME_API_KEY}"],
    ),
    "two places for the key": (
        "  api_key: {env: ACME_API_KEY}",
        "  api_key: {env: A, dlt_secret: b} # <-",
        ["either `env: NAME_OF_A_VARIABLE` or `dlt_secret: path.in.dlt.secrets`"],
    ),
    "a check on a column of another name": (
        "    - name: alerts\n",
        "    - name: alerts\n      checks: {not_null: [deviceId]} # <-\n",
        ["`deviceId`", "`device_id`"],
    ),
    "a check on a column that the contract keeps out": (
        "    - name: alerts\n",
        "    - name: alerts\n      schema_contract: freeze\n      columns: {status: {data_type: text}}\n"
        "      checks: {not_null: [statsu]} # <-\n",
        ["`statsu`", "did you mean `status`?"],
    ),
    "a truth value where YAML ate a word": (
        "    - name: alerts\n",
        "    - name: alerts\n      columns: {status: {data_type: text}}\n"
        "      checks: {accepted_values: {status: [on, off]}} # <-\n",
        ["put them in quotes"],
    ),
    "a bad cron expression": (
        "  name: acme",
        "  name: acme\n  schedule: {cron: every hour} # <-",
        ["`every hour` is not a valid cron expression", "`0 * * * *`"],
    ),
    "an unknown time zone": (
        "  name: acme",
        "  name: acme\n  schedule: {cron: 0 * * * *, timezone: Mars/Olympus} # <-",
        ["Mars/Olympus", "Europe/Vienna"],
    ),
    "an unknown destination": (
        "  name: acme",
        "  name: acme\n  destination: duckdbb # <-",
        ["did you mean `duckdb`?"],
    ),
    "a name with two underscores": ("  name: acme", "  name: ac__me # <-", ["attributes.name"]),
    "Python": ("- name: devices", "- name: devices\n      processing_steps: [] # <-", ["Python"]),
    "a template that cannot be rendered": (
        "https://rmm.example.com/api",
        "\"{{ env('RMM_NOT_SET_ANYWHERE') }}\" # <-",
        ["RMM_NOT_SET_ANYWHERE"],
    ),
    "what only dlt knows": (
        "- name: devices\n      endpoint: {path: /v1/devices,",
        "- name: devices # <-\n      endpoint: {path: '/v1/{site}/devices',",
        ["dlt rejects this", "requires a param named 'site'"],
    ),
    "a range without a cursor": (
        "path: /v1/devices, data_selector: data}",
        "path: /v1/devices, data_selector: data, params: {since: {type: incremental}}} # <-",
        ["params.since.cursor_path"],
    ),
    "a parent without a field": (
        "path: /v1/devices, data_selector: data}",
        "path: /v1/devices, data_selector: data, params: {x: {type: resolve, resource: alerts}}} # <-",
        ["params.x.field"],
    ),
    "a parameter that is a mapping": (
        "path: /v1/devices, data_selector: data}",
        "path: /v1/devices, data_selector: data, params: {filter: {site: 7}}} # <-",
        ["params.filter", "`type: incremental`"],
    ),
    "a table that loads nothing": (
        "write_disposition: merge",
        "write_disposition: skip # <-",
        ["write_disposition", "`selected: false`"],
    ),
    "an option without its strategy": (
        "write_disposition: merge",
        "write_disposition: {disposition: merge, destination_scope: a > 1} # <-",
        ["destination_scope", "`strategy: cdc or delete-insert or scd2`"],
    ),
    "an option of another strategy": (
        "write_disposition: merge",
        "write_disposition: {disposition: merge, strategy: insert-only, source_filter: a > 1} # <-",
        ["source_filter", "cdc or delete-insert or scd2 or upsert"],
    ),
    "a strategy without a merge": (
        "write_disposition: merge",
        "write_disposition: {disposition: append, strategy: upsert} # <-",
        ["only `merge` has a strategy"],
    ),
    "a table format that the destination does not have": (
        "- name: devices",
        "- name: devices\n      table_format: iceberg # <-",
        ["table_format", "duckdb does not support this format"],
    ),
    "a choice among rows that another strategy cannot make": (
        "- name: devices",
        "- name: devices\n      write_disposition: {disposition: merge, strategy: upsert}\n"
        "      columns: {seen: {dedup_sort: desc}} # <-",
        ["columns.seen.dedup_sort", "`strategy: delete-insert`"],
    ),
    "a key of dlt's own": (
        "- name: devices",
        "- name: devices\n      columns: {id: {root_key: true}} # <-",
        ["columns.id.root_key", "dlt sets it"],
    ),
    "a nested table's parent": (
        "- name: devices",
        "- name: devices\n      parent_table_name: organizations # <-",
        ["parent_table_name", "`child_tables: true`"],
    ),
    "an order of rows": (
        "data_selector: data}\n    - name: alerts",
        "data_selector: data,\n        incremental: {cursor_path: seen, row_order: asc}} # <-\n    - name: alerts",
        ["row_order", "leave it out"],
    ),
    "no resource": (
        ACME[ACME.index("  resources:\n") :],
        "  resources: [] # <-\n",
        ["at least one resource"],
    ),
    "a link that runs a script": (
        "  name: acme",
        "  name: acme\n  docs: javascript:alert(1) # <-",
        ["attributes.docs", "not the URL of a web page", "https://host/page"],
    ),
    "a link to no page": (
        "- name: devices",
        "- name: devices\n      docs: see the wiki # <-",
        ["resources[0].docs", "https://host/page"],
    ),
    "a link that ends the link": (
        "  name: acme",
        "  name: acme\n  docs: 'https://h/a> [b](javascript:x)' # <-",
        ["attributes.docs", "https://host/page"],
    ),
    "an owner that is nobody": (
        "- name: devices",
        "- name: devices\n      owners: [infrastructure] # <-",
        ["resources[0].owners", "infrastructure", "team:"],
    ),
    "a tag that Dagster does not take": (
        "- name: devices",
        '- name: devices\n      tags: {"a tag": b} # <-',
        ["resources[0].tags", "a tag"],
    ),
    "a secret that is not there": (
        "data_selector: data}",
        "headers: {X-App: '{secrets.APPP}'}} # <-",
        ["resources[0].endpoint.headers.X-App", "unknown secret `APPP`", "`secrets: {APPP: {env: VARIABLE}}`"],
    ),
    "a secret that nothing uses": (
        "  name: acme",
        "  name: acme\n  secrets: {APP: {env: ACME_APP}} # <-",
        ["secrets.APP", "not used", "`{secrets.APP}`"],
    ),
    "a secret in an address": (
        "https://rmm.example.com/api",
        "'https://rmm.example.com/{secrets.APP}' # <-",
        ["client.base_url", "in headers, auth, query parameters and request bodies only"],
    ),
    "a prefix of a parameter": (
        "auth: {type: api_key, name: key, location: query}",
        "auth: {type: api_key, name: key, location: query, prefix: Token} # <-",
        ["client.auth.prefix", "only a header has a prefix"],
    ),
    "the simulator and an address": (
        "  client:\n    base_url: https://rmm.example.com/api",
        "  simulator: {}\n  client:\n    base_url: https://rmm.example.com/api # <-",
        ["remove `base_url` or `simulator`"],
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_fault_is_reported_with_its_line_and_what_to_write(tmp_path: Path, case: str) -> None:
    right, wrong, words = REFUSED[case]
    assert right in ACME
    text = ACME.replace(right, wrong, 1)
    line = next(number for number, row in enumerate(text.splitlines(), 1) if "# <-" in row)
    if case == "no primary key under merge":  # set in the defaults, missing in the resource
        line = next(number for number, row in enumerate(text.splitlines(), 1) if "- name: devices" in row)

    message = refusal(tmp_path, text)

    assert f"defs.yaml:{line}: " in message
    assert all(word in message for word in words), message


@pytest.mark.parametrize(
    "wrong",
    [
        "endpoint: {path: '/v1/{site}/devices', params: {tenant: SECRET}}",
        "endpoint: {path: devices, params: {tenant: SECRET, x: {type: resolve, resource: alerts}}}",
        "endpoint: {path: 'devices/{incremental.nothing}', json: {tenant: SECRET}}",
        "endpoint: {path: devices, headers: {X-Tenant: SECRET, X-Site: '{resources.alerts.id}/{site}'}}",
        "endpoint: {path: devices, params: {tenant: SECRET, n: 4711008}}\n      file_format: 4711008",
    ],
)
def test_an_error_about_one_key_prints_no_other_value_of_the_file(tmp_path: Path, wrong: str) -> None:
    text = ACME.replace("endpoint: {path: /v1/devices, data_selector: data}", wrong.replace("SECRET", SECRET))
    message = refusal(tmp_path, text)
    assert SECRET not in message and "4711008" not in message, message


def test_a_fault_in_the_defaults_is_reported_at_its_line(tmp_path: Path) -> None:
    text = ACME.replace("    primary_key: id\n", "    primary_key: id\n    checks: {not_null: [deviceId]}\n")
    assert "defs.yaml:10: attributes.resource_defaults.checks.not_null: " in refusal(tmp_path, text)


def test_a_table_cannot_share_its_name_with_anothers_rejects() -> None:
    for names in (["devices", "devices_rejected"], ["devices_rejected", "devices"]):
        with pytest.raises(ValueError, match="both write the table"):
            Connection.model_validate(attributes(resources=names))


@pytest.mark.parametrize("table", ["rmm_syncs", "rmm_locks"])
def test_no_resource_can_use_this_project_s_tables(table: str) -> None:
    with pytest.raises(ValueError, match=f"the table `{table}` is this project's own"):
        Connection.model_validate(attributes(resources=[table]))


def test_all_faults_are_reported_at_once(tmp_path: Path) -> None:
    text = (
        ACME.replace("base_url:", "bas_url:")
        .replace("limit: 100", "limit: 0")
        .replace("- name: alerts", "- nam: alerts")
    )
    message = refusal(tmp_path, text)
    assert {f":{line}: " in message for line in (5, 12, 16)} == {True}, message


def test_plain_http_is_accepted_on_loopback_and_with_allow_http(tmp_path: Path) -> None:
    for address in ("http://127.0.0.1:8099", "http://localhost:1/x", "http://[::1]:5"):
        assert load(tmp_path, ACME.replace("https://rmm.example.com/api", address)).client.base_url == address
    load(tmp_path, ACME.replace("https:", "http:") + "  allow_http: true\n")


def test_a_ca_file_is_relative_to_the_connection_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    (tmp_path / "acme" / "certs").mkdir(parents=True)
    file = tmp_path / "acme" / "certs" / "ca.pem"
    text = ACME + "  tls: {ca_file: certs/ca.pem}\n"
    message = refusal(tmp_path, text)
    assert "defs.yaml:18: attributes.tls.ca_file: " in message and f"{file}: No such file" in message
    file.write_text("not a certificate")
    assert f"{file} does not contain a PEM certificate" in refusal(tmp_path, text)
    file.write_text(Path(certifi.where()).read_text())
    assert load(tmp_path, text).tls.ca_file == str(file)


# --- secrets

PLAIN = {
    "the key itself": ("{env: ACME_API_KEY}", SECRET),
    "the key in auth": ("name: key, location", f"api_key: {SECRET}, name: key, location"),
    "a token": ("{type: api_key, name: key, location: query}", f"{{token: {SECRET}}}"),
    "a word where auth's type belongs": ("{type: api_key, name: key, location: query}", SECRET),
    "a password": (
        "{type: api_key, name: key, location: query}",
        f"{{type: http_basic, username: me, password: {SECRET}}}",
    ),
    "a client secret": (
        "{type: api_key, name: key, location: query}",
        f"{{type: oauth2_client_credentials, client_id: a, access_token_url: https://h, client_secret: {SECRET}}}",
    ),
    "a secret in the token request": (
        "{type: api_key, name: key, location: query}",
        "{type: oauth2_client_credentials, client_id: a, access_token_url: https://h, "
        f"access_token_request_data: {{password: {SECRET}}}}}",
    ),
    "an Authorization header": ("    auth:", f"    headers: {{Authorization: Bearer {SECRET}}}\n    auth:"),
    "an X-API-KEY header": ("    auth:", f"    headers: {{X-API-KEY: {SECRET}}}\n    auth:"),
    "a bearer under another name": ("    auth:", f"    headers: {{X-Forward: Bearer {SECRET}}}\n    auth:"),
    "a header of an endpoint": (
        "data_selector: data}",
        f"headers: {{Ocp-Apim-Subscription-Key: {SECRET}}}}}",
    ),
    "a parameter": ("data_selector: data}", f"params: {{apiKey: {SECRET}}}}}"),
    "the base URL": ("https://rmm.example.com/api", f"https://rmm.example.com/api?api_key={SECRET}"),
    "a user in the base URL": ("https://rmm.example.com/api", f"https://me:{SECRET}@rmm.example.com/api"),
    "a path": ("path: /v1/devices,", f"path: /v1/devices?token={SECRET},"),
    **{
        f"a header {name}": ("    auth:", f"    headers: {{{name}: {SECRET}}}\n    auth:")
        for name in ("DD-APPLICATION-KEY", "X-Functions-Key", "X-Tokens", "auth", "X-Vendor-Key")
    },
    "a parameter code": ("data_selector: data}", f"params: {{code: {SECRET}}}}}"),
    "a field of a body": ("data_selector: data}", f"method: POST, json: {{query: {{userToken: {SECRET}}}}}}}"),
    "a named secret in plain text": ("  name: acme", f"  name: acme\n  secrets: {{OTHER: {SECRET}}}"),
    "the top": ("  name: acme", f"  name: acme\n  password: {SECRET}"),
    "a resource": ("    - name: devices", f"    - name: devices\n      api_key: {SECRET}"),
    "the destination": (
        "  name: acme",
        f"  name: acme\n  destination: {{type: postgres, credentials: 'postgresql://me:{SECRET}@h/db'}}",
    ),
    "the destination's mapping": (
        "  name: acme",
        f"  name: acme\n  destination: {{type: postgres, credentials: {{password: {SECRET}}}}}",
    ),
    "a wrong key beside it": ("{env: ACME_API_KEY}", f"{{envv: {SECRET}}}"),
    "a wrong type": ("{type: offset, limit: 100}", f"{{type: offset, limit: {SECRET}}}"),
    "a name that is none": ("  name: acme", f"  name: {SECRET}!"),
    "an alias that is none": ("{env: ACME_API_KEY}", f"*{SECRET}"),
    "a tag that is none": ("{env: ACME_API_KEY}", f"!{SECRET} x"),
    "text that YAML cannot read": ("{env: ACME_API_KEY}", f"'{SECRET}"),
}


@pytest.mark.parametrize("case", PLAIN)
def test_a_secret_in_the_file_is_refused_and_never_repeated(tmp_path: Path, case: str) -> None:
    right, wrong = PLAIN[case]
    assert right in ACME
    text = ACME.replace(right, wrong, 1)
    with pytest.raises(ValueError, match=r"defs\.yaml:\d+: ") as raised:
        load(tmp_path, text)

    told = "".join(traceback.format_exception(raised.value)) + repr(raised.value)
    assert SECRET not in told


@pytest.mark.parametrize(
    ("case", "advice"),
    [
        ("the key itself", "`api_key: {env: ACME_API_KEY}`"),
        ("an X-API-KEY header", "`auth: {type: api_key, name: X-API-KEY, location: header}`"),
        ("an Authorization header", "`auth: bearer`"),
        ("a parameter", "`auth: {type: api_key, name: apiKey, location: query}`"),
        ("the base URL", "`auth: {type: api_key, name: api_key, location: query}`"),
        ("the destination", "DESTINATION__POSTGRES__CREDENTIALS"),
    ],
)
def test_the_error_about_a_secret_says_what_to_write(tmp_path: Path, case: str, advice: str) -> None:
    right, wrong = PLAIN[case]
    assert advice in refusal(tmp_path, ACME.replace(right, wrong, 1))


def test_a_template_that_reads_a_secret_is_refused_without_reading_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ACME_API_KEY", raising=False)  # reading it would fail with another message
    for right, wrong in (
        ("{env: ACME_API_KEY}", "\"{{ env('ACME_API_KEY') }}\""),
        ("    auth:", "    headers: {X-API-KEY: \"{{ env('ACME_API_KEY') }}\"}\n    auth:"),
        ("https://rmm.example.com/api", "\"https://h/?api_key={{ env('ACME_API_KEY') }}\""),
    ):
        message = refusal(tmp_path, ACME.replace(right, wrong, 1))
        assert "or come from a template" in message and "is not set" not in message


def test_a_url_with_a_secret_from_the_environment_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACME_BASE_URL", f"https://h/?token={SECRET}")
    message = refusal(tmp_path, ACME.replace("https://rmm.example.com/api", "\"{{ env('ACME_BASE_URL') }}\""))
    assert "defs.yaml:5: attributes.client.base_url" in message and SECRET not in message


@pytest.mark.parametrize(
    ("name", "secret"),
    [
        *((f"chosen {name}", True) for name in ("auth", "code", "X-Functions-Key", "DD-APPLICATION-KEY", "userToken")),
        *(
            (f"chosen {name}", False)
            for name in ("sort_key", "pageToken", "$skiptoken", "country_code", "token_type", "author")
        ),
        *(
            (name, True)
            for name in ("api_key", "apiKey", "X-API-KEY", "apikey", "token", "access_token", "X-Auth-Token")
        ),
        *((name, True) for name in ("Authorization", "Cookie", "client_secret", "password", "key", "sig", "App-Token")),
        *((name, False) for name in ("primary_key", "merge_key", "cursor_key", "page_token", "links_next_key")),
        *(
            (name, False)
            for name in ("client_id", "clientId", "username", "sort", "access_token_url", "monkey", "author")
        ),
    ],
)
def test_names_of_secrets_are_recognized(name: str, secret: bool) -> None:
    assert secrets.is_secret_name(name.removeprefix("chosen "), chosen=name.startswith("chosen ")) is secret


def test_columns_and_parent_fields_can_be_named_like_secrets() -> None:
    Connection.model_validate(
        attributes(
            resources=[
                {
                    "name": "tokens",
                    "columns": {"token": {"data_type": "text", "sensitive": True}},
                    "checks": {"not_null": ["token"], "accepted_values": {"key": ["a", "b"]}},
                },
                {
                    "name": "uses",
                    "endpoint": {"path": "uses", "params": {"token": "{resources.tokens.token}"}},
                },
            ]
        )
    )


# --- documentation


def test_every_key_is_described() -> None:
    models: set[type[Settings]] = {Connection, Retry, Limits, Tls, Throttle}
    models |= {model for module in (client, resource) for model in vars(module).values()
               if isinstance(model, type) and issubclass(model, Settings)}  # fmt: skip
    undescribed = [
        f"{model.__name__}.{name}"
        for model in models
        for name, field in model.model_fields.items()
        if name != "type" and not (field.description or "").endswith(".")
    ]
    assert undescribed == []


def test_the_json_schema_accepts_the_shipped_files_and_rejects_a_wrong_key() -> None:
    model = RmmConnection.get_model_cls()
    assert model is not None
    schema = model.model_json_schema()
    for file in (PACKAGE / "profiles" / "generic.yaml", PACKAGE / "defs" / "demo" / "defs.yaml"):
        jsonschema.validate(yaml.safe_load(file.read_text())["attributes"], schema)
    with pytest.raises(jsonschema.ValidationError, match="paginater"):
        jsonschema.validate(attributes(client={"base_url": "https://h", "paginater": "auto"}), schema)


@pytest.mark.slow
def test_reading_a_connection_does_not_import_dagster() -> None:
    check = "import sys, rmm_assets.config, rmm_assets.http.settings; sys.exit('dagster' in sys.modules)"
    subprocess.run([sys.executable, "-c", check], check=True, cwd=PACKAGE.parent)

"""Tests that an error about one key of a connection file never contains the value of another key."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import ValidationError

from rmm_assets.orchestration.component import RmmConnection, faults_of
from rmm_assets_tests.examples import examples

SECRET = "s3cr3tQ9f8e7d6c5b"

# A valid connection in which every key with free text contains the secret.
FULL: dict[str, Any] = {
    "name": "acme",
    "docs": f"https://h/{SECRET}",
    "client": {
        "base_url": f"https://rmm.example.com/{SECRET}",
        "headers": {"X-Tenant": SECRET},
        "auth": {
            "type": "oauth2_client_credentials",
            "client_id": SECRET,
            "access_token_url": f"https://rmm.example.com/{SECRET}/oauth",
            "access_token_request_data": {"scope": SECRET},
            "default_token_expiration": 60,
        },
    },
    "api_key": {"dlt_secret": f"sources.{SECRET}"},
    "secrets": {"APP": {"env": SECRET}},
    "resource_defaults": {
        "primary_key": "id",
        "write_disposition": {"disposition": "merge", "strategy": "delete-insert"},
        "endpoint": {"params": {"tenant": SECRET}, "headers": {"X-Site": "{secrets.APP}"}},
        "columns": {"id": {"data_type": "bigint", "nullable": False}},
        "tags": {"a": SECRET},
    },
    "resources": [
        {
            "name": "devices",
            "description": f"Of {SECRET}.",
            "docs": f"https://h/{SECRET}/devices",
            "owners": [f"team:{SECRET}"],
            "table_name": "machines",
            "file_format": "parquet",
            "endpoint": {
                "path": f"/v1/{SECRET}/devices",
                "method": "POST",
                "json": {"filter": {"site": SECRET}, "list": [SECRET]},
                "data_selector": SECRET,
                "paginator": {"type": "offset", "limit": 100, "total_path": SECRET, "offset_param": SECRET},
                "response_actions": [{"status_code": 404, "content": SECRET, "action": "ignore"}],
                "incremental": {
                    "cursor_path": SECRET,
                    "initial_value": SECRET,
                    "start_param": SECRET,
                    "end_param": "until",
                },
                "total_header": SECRET,
                "count": {"path": f"/{SECRET}", "params": {"a": SECRET}, "total_path": SECRET},
                "wrong_signals": [SECRET],
            },
            "columns": {"site": {"data_type": "text", "description": SECRET, "precision": 3}},
            "references": [
                {
                    "columns": "site",
                    "referenced_table": SECRET,
                    "referenced_columns": "id",
                    "label": SECRET,
                    "cardinality": "many_to_one",
                }
            ],
            "checks": {
                "not_null": ["id"],
                "accepted_values": {"status": [SECRET, "x"]},
                "row_count": {"min": 0, "band": 0.5},
                "references": {"site": "sites.id"},
                "sql": {"mine": f"SELECT * FROM {{table}} WHERE name = '{SECRET}'"},
            },
            "absent": "mark",
            "deadline": 60,
        },
        {
            "name": "sites",
            "endpoint": {
                "path": "/v1/{resources.devices.id}/sites",
                "paginator": {"type": "cursor", "cursor_path": SECRET, "cursor_param": SECRET},
                "params": {"x": SECRET},
                "auth": {
                    "type": "token",
                    "access_token_url": f"https://rmm.example.com/{SECRET}/login",
                    "access_token_request": {
                        "headers": {"X-Tenant": SECRET, "X-App": "{secrets.APP}"},
                        "params": {"tenant": SECRET},
                        "json": {"user": SECRET},
                        "http_basic": {"username": SECRET, "password": "public"},
                    },
                    "access_token_path": SECRET,
                    "expires_in_path": SECRET,
                    "refresh": {
                        "url": f"https://rmm.example.com/{SECRET}/refresh",
                        "refresh_token_path": SECRET,
                        "data": f"{SECRET} {{refresh_token}}",
                    },
                    "send": {"name": SECRET, "location": "query", "value": f"{SECRET} {{token}}"},
                },
            },
            "include_from_parent": [SECRET],
        },
    ],
    "retry": {"max_retries": 1},
    "limits": {
        "max_concurrency": 2,
        "wait_path": SECRET,
        "throttle": [{"status": 403, "text": SECRET, "path": SECRET}],
    },
    "destination": {"type": "duckdb", "credentials": f"data/{SECRET}.duckdb", "options": {"a": SECRET}},
    "dataset": "acme_data",
    "schedule": {"cron": "0 * * * *", "timezone": "UTC"},
}
BAD: list[Any] = ["!bad value{", "", {"type": {}}, ["!"], -1, None, "{x}"]


def places(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Yields the path of every key of the file, and of every entry of its lists."""
    if isinstance(value, (dict, list)):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield (*path, key)
            yield from places(inner, (*path, key))


def broken(path: tuple[str | int, ...], change: Any) -> tuple[dict[str, Any], Any]:
    """Returns the file with one key changed, and the value that the key had."""
    made = copy.deepcopy(FULL)
    at: Any = made
    for part in path[:-1]:
        at = at[part]
    before = at[path[-1]]
    if change is UNKNOWN:
        if isinstance(at, dict):
            at["zz_unknown"] = "!"
    else:
        at[path[-1]] = change
    return made, before


UNKNOWN = object()


def told(attributes: dict[str, Any]) -> str:
    try:
        RmmConnection.model_validate(attributes)
    except ValidationError as error:
        # As shown in the asset's description, the log, the command line and a traceback.
        return "\n".join([*(str(fault) for fault in faults_of(error, None)), str(error), repr(error)])
    return ""


def test_the_full_file_is_valid() -> None:
    assert told(FULL) == ""


@pytest.mark.slow
@pytest.mark.parametrize("top", FULL)
def test_an_error_about_one_key_never_repeats_the_value_of_another(top: str) -> None:
    leaks, refused = [], 0
    changes, each = (*BAD, UNKNOWN), examples(3, 1)
    for number, path in enumerate([(top,), *places(FULL[top], (top,))]):
        for change in changes[number % each :: each]:  # a third of them at each place, by turns
            said = told(broken(path, change)[0])
            refused += bool(said)
            if SECRET.lower() in said.lower():
                leaks.append((path, change, said[:600]))
    assert not leaks, "\n\n".join(map(str, leaks[:20]))
    assert refused

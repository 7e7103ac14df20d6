"""Tests the commands for the time before the first run: `rmm init`, `check`, `preview`, and `sync` of single resources."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
import yaml

from rmm_assets.config import profiles
from rmm_assets_tests.commands import Started
from rmm_assets_tests.commands import rmm as rmm_command
from rmm_assets_tests.http.servers import Say, Scripted, Seen
from rmm_assets_tests.vendors.dialect import KEY, Asked, Dialect
from rmm_assets_tests.vendors.dialects import DIALECTS
from rmm_assets_tests.vendors.loading import at_loopback, secrets_of

pytestmark = pytest.mark.slow


def environment(folder: Path, **variables: str) -> dict[str, str]:
    places = {"DAGSTER_HOME": str(folder / "home"), "RMM_CONNECTIONS": str(folder / "connections")}
    (folder / "home").mkdir(exist_ok=True)
    return {**os.environ, **places, **variables}


def rmm(folder: Path, *words: str, said: str = "", **variables: str) -> CompletedProcess[str]:
    return rmm_command(words, folder, environment(folder, **variables), said)


def write(folder: Path, attributes: Mapping[str, Any]) -> None:
    place = folder / "connections" / str(attributes["name"])
    place.mkdir(parents=True, exist_ok=True)
    content = {"type": "rmm_assets.RmmConnection", "attributes": dict(attributes)}
    (place / "defs.yaml").write_text(yaml.safe_dump(content, sort_keys=False))


def initialized(folder: Path, dialect: Dialect, url: str) -> dict[str, str]:
    """Runs `rmm init` for a dialect's profile, moves the file to a server on loopback, and returns the variables to set."""
    settings = [f"--set={name}={value}" for name, value in dialect.settings.items()]
    done = rmm(folder, "init", dialect.profile, "acme", *settings, "--json")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["file"] == str(folder / "connections" / "acme" / "defs.yaml")
    attributes = yaml.safe_load(Path(said["file"]).read_text())["attributes"]
    client = at_loopback(dialect, profiles.merged(attributes)["client"], url)
    write(folder, {**attributes, "client": client, "limits": {"requests_per_minute": None}})
    values = secrets_of(dialect)
    secrets = {"api_key": values.api_key, **values.named}
    named = profiles.profile_named(dialect.profile).secrets
    assert [each["name"] for each in said["variables"]] == [f"ACME_{secret.variable}" for secret in named.values()]
    return {
        f"ACME_{secret.variable}": value.get_secret_value()
        for name, secret in named.items()
        if (value := secrets[name]) is not None
    }


@pytest.mark.parametrize("profile", sorted(DIALECTS))
def test_init_check_preview_and_sync_work_for_each_profile(profile: str, tmp_path: Path) -> None:
    dialect = DIALECTS[profile]()
    name = next(iter(dialect.resources()))
    with Scripted(dialect.answer) as server:
        variables = initialized(tmp_path, dialect, server.url)
        checked = rmm(tmp_path, "check", "acme", "--json", **variables)
        [found] = json.loads(checked.stdout)
        assert (checked.returncode, found["right"]) == (0, True), checked.stdout
        assert [each["resource"] for each in found["resources"]] == list(profiles.profile_named(profile).resources)
        assert all(each["status"] in (200, 206) and each["rows"] and each["proof"] for each in found["resources"])
        assert all(each["requests"] <= 5 for each in found["resources"])

        shown = rmm(tmp_path, "preview", "acme", name, "--json", **variables)
        assert shown.returncode == 0, shown.stderr
        assert len(json.loads(shown.stdout)["table"]) == found["resources"][0]["rows"]

        synced = rmm(tmp_path, "sync", "acme", name, "--json", **variables)
        [asset] = json.loads(synced.stdout)["assets"]
    assert synced.returncode == 0, synced.stdout + synced.stderr
    assert (asset["asset"], asset["rows"], asset["complete"]) == (f"acme/{name}", len(dialect.resources()[name]), True)
    printed = checked.stdout + checked.stderr + shown.stdout + shown.stderr + synced.stdout + synced.stderr
    assert KEY not in printed


def test_sync_loads_only_the_resources_that_are_named(tmp_path: Path) -> None:
    dialect = DIALECTS["hudu"]()
    with Scripted(dialect.answer) as server:
        variables = initialized(tmp_path, dialect, server.url)
        done = rmm(tmp_path, "sync", "acme", "assets", "companies", "--json", **variables)
    assert done.returncode == 0, done.stderr
    assert [asset["asset"] for asset in json.loads(done.stdout)["assets"]] == ["acme/assets", "acme/companies"]
    assert {path for path, _ in dialect.answered} == {"/api/v1/assets", "/api/v1/companies"}
    unknown = rmm(tmp_path, "sync", "acme", "asets", **variables)
    assert unknown.returncode == 2 and "asets is neither a connection (acme) nor a resource of acme" in unknown.stderr


def test_init_asks_for_what_is_missing_and_says_what_to_set(tmp_path: Path) -> None:
    done = rmm(tmp_path, "init", "syncro", said="acme\nNOT VALID\nacme-it\n")
    assert done.returncode == 0, done.stderr
    assert "does not match" in done.stderr
    assert "Set ACME_API_TOKEN" in done.stdout and "Admin > API" in done.stdout
    file = tmp_path / "connections" / "acme" / "defs.yaml"
    assert yaml.safe_load(file.read_text())["attributes"] == {
        "name": "acme", "profile": "syncro", "settings": {"subdomain": "acme-it"},
    }  # fmt: skip
    again = rmm(tmp_path, "init", "syncro", "acme", "--set", "subdomain=other")
    assert again.returncode == 1 and "exists" in again.stderr
    assert "acme-it" in file.read_text()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("init", "syncr", "acme"), "there is no profile syncr; did you mean `syncro`?"),
        (("init", "syncro", "acme", "--set", "sub=x"), "the profile has no setting sub; its settings: subdomain"),
        (("init", "syncro", "acme", "--set", "subdomain=A B"), "subdomain: does not match"),
        (("init", "syncro", "Acme!", "--set", "subdomain=acme"), "name: String should match pattern"),
        (("check", "nobody"), "unknown connection nobody"),
        (("preview", "nobody", "devices"), "unknown connection nobody"),
        (("sync", "nobody"), "unknown connection nobody"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_sentence(words: tuple[str, ...], said: str, tmp_path: Path) -> None:
    done = rmm(tmp_path, *words)
    assert done.returncode in (1, 2) and said in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "connections").exists()


# An API without a profile


def keyed(answer: Any) -> Any:
    """Returns a server's answer that refuses requests without the key."""

    def answered(seen: Seen) -> Say:
        return answer(Asked.of(seen)) if seen.headers.get("x-key") == KEY else Say({"error": "no"}, 401)

    return answered


def page_numbers(asked: Asked) -> Say:
    page = max(asked.number("page", 1), 1)
    rows = [{"name": f"PC-{i % 3}", "deviceId": i} for i in range((page - 1) * 20 + 1, min(page * 20, 47) + 1)]
    return Say({"result": {"items": rows}, "meta": {"page": page, "totalPages": 3}})


def links(asked: Asked) -> Say:
    start = asked.number("start", 0)
    rows = [{"id": f"d{i}"} for i in range(start, min(start + 20, 47))]
    return Say({"data": rows, "links": {"next": f"{asked.path}?start={start + 20}" if start + 20 < 47 else None}})


def tokens(asked: Asked) -> Say:
    start = asked.number("pageToken", 0)
    rows = [{"uuid": f"d{i}"} for i in range(start, min(start + 20, 47))]
    return Say({"devices": rows, **({"nextPageToken": str(start + 20)} if start + 20 < 47 else {})})


def offsets(asked: Asked) -> Say:
    start = asked.number("offset", 0)
    size = asked.number("limit", 20)
    return Say({"devices": [{"id": i} for i in range(start, min(start + size, 47))], "total": 47})


@pytest.mark.parametrize(
    ("answer", "paginator", "selector", "key"),
    [
        (page_numbers, {"type": "page_number", "base_page": 1, "total_path": "meta.totalPages"}, "result.items", "deviceId"),
        (links, {"type": "json_link", "next_url_path": "links.next"}, "data", "id"),
        (tokens, {"type": "cursor", "cursor_path": "nextPageToken", "cursor_param": "pageToken"}, "devices", "uuid"),
        (offsets, {"type": "offset", "limit": 20, "total_path": "total"}, "devices", "id"),
    ],
    ids=["page_numbers", "links", "tokens", "offsets"],
)  # fmt: skip
def test_one_answer_of_an_unknown_api_is_enough_for_a_file_that_loads_every_row(
    answer: Any, paginator: dict[str, Any], selector: str, key: str, tmp_path: Path
) -> None:
    with Scripted(keyed(answer)) as server:
        words = ("init", "--url", f"{server.url}/api/devices", "--auth", "header:X-Key", "--yes", "acme")
        without = rmm(tmp_path, *words)
        assert without.returncode == 1 and "set the environment variable ACME_API_KEY" in without.stderr
        done = rmm(tmp_path, *words, ACME_API_KEY=KEY)
        assert done.returncode == 0, done.stderr
        [resource] = yaml.safe_load((tmp_path / "connections/acme/defs.yaml").read_text())["attributes"]["resources"]
        assert resource["endpoint"]["paginator"] == paginator
        assert resource["endpoint"]["data_selector"] == selector
        assert resource["primary_key"] == key
        # Each with its reason.
        assert f"data_selector: {selector} (" in done.stderr and "paginator: {" in done.stderr
        synced = rmm(tmp_path, "sync", "acme", "--json", ACME_API_KEY=KEY)
    [asset] = json.loads(synced.stdout)["assets"]
    assert (asset["rows"], asset["complete"]) == (47, True), synced.stdout + synced.stderr
    assert KEY not in done.stdout + done.stderr + synced.stdout + synced.stderr


def test_yes_accepts_the_name_and_the_auth_that_are_proposed(tmp_path: Path) -> None:
    with Scripted(lambda seen: Say({"data": [{"id": 1}, {"id": 2}]})) as server:
        done = rmm(tmp_path, "init", "--url", f"{server.url}/devices", "--yes", RMM_127_0_0_1_API_KEY=KEY)
    assert done.returncode == 0, done.stderr
    [file] = tmp_path.glob("connections/*/defs.yaml")
    attributes = yaml.safe_load(file.read_text())["attributes"]
    assert (attributes["name"], attributes["client"]["auth"]) == ("rmm_127_0_0_1", {"type": "bearer"})


# Faults


def device(number: int, **more: Any) -> dict[str, Any]:
    return {"id": number, "name": f"PC-{number}", "updated_at": f"2026-01-{number:02}T00:00:00Z", **more}


def checked(folder: Path, answer: Any, resource: dict[str, Any], **changes: Any) -> tuple[int, dict[str, Any]]:
    """Returns the exit code and the result of `rmm check` for one resource of a server."""
    endpoint = {
        "path": "/devices", "data_selector": "data", "paginator": {"type": "offset", "limit": 10, "total_path": "total"},
        **resource.pop("endpoint", {}),
    }  # fmt: skip
    made = {"name": "devices", "primary_key": "id", "write_disposition": "merge", "endpoint": endpoint, **resource}
    with Scripted(answer) as server:
        client = {"base_url": server.url, "auth": "bearer"}
        api_key = {"env": "ACME_API_KEY"}
        write(folder, {"name": "acme", "client": client, "api_key": api_key, "resources": [made], **changes})
        done = rmm(folder, "check", "--json", ACME_API_KEY=KEY)
    assert KEY not in done.stdout + done.stderr
    [found] = json.loads(done.stdout)
    [sampled] = found["resources"]
    return done.returncode, sampled


ROWS = [device(number) for number in range(1, 26)]


def offset_pages(asked: Asked, cap: int = 10, rows: list[dict[str, Any]] = ROWS) -> Say:
    start, size = asked.number("offset", 0), min(asked.number("limit", 10), cap)
    since = asked.first("since")
    found = [row for row in rows if row["updated_at"] >= since]
    return Say({"data": found[start : start + size], "total": len(found)})


def plain(answer: Any) -> Any:
    return lambda seen: answer(Asked.of(seen))


def test_check_says_that_everything_is_right_and_why(tmp_path: Path) -> None:
    incremental = {"cursor_path": "updated_at", "start_param": "since", "initial_value": "2000-01-01T00:00:00Z"}
    rows = [{**row, "site": {"id": 7, "name": "Main"}} for row in ROWS]
    code, found = checked(tmp_path, plain(lambda asked: offset_pages(asked, rows=rows)), {
        "endpoint": {"incremental": incremental},
        "columns": {"id": {"data_type": "text"}, "gone": {"data_type": "text"}, "site": {"data_type": "json"}},
    })  # fmt: skip
    assert (code, found["problems"]) == (0, [])
    facts = {
        name: found[name] for name in ("status", "rows", "asked", "second", "total", "proof", "keyless", "repeated")
    }
    assert facts == {
        "status": 200, "rows": 10, "asked": 10, "second": 10, "total": 25, "proof": "the stated total", "keyless": 0,
        "repeated": 0,
    }  # fmt: skip
    assert found["incremental"] == "10 rows since 2026-01-10T00:00:00Z"
    assert {"name": "id", "data_type": "text", "inferred": "bigint", "declared": "text"} in found["columns"]
    # An object that is declared as JSON is one column.
    site = {"name": "site", "data_type": "json", "inferred": "json", "declared": "json"}
    assert [each for each in found["columns"] if each["name"].startswith("site")] == [site]
    assert found["notes"] == ["no row of the page has gone, which the file declares"]


FAULTS: dict[str, tuple[Any, dict[str, Any], str]] = {
    "selector": (
        plain(offset_pages), {"endpoint": {"data_selector": "rows"}},
        "write data_selector: data (the only list of objects in the body)",
    ),
    "paging parameter": (
        plain(lambda asked: Say({"data": ROWS[:10], "total": 25})), {},
        "the second page repeats the first: the API ignores `offset`; correct the paginator's parameter",
    ),
    "total": (
        plain(offset_pages), {"endpoint": {"paginator": {"type": "offset", "limit": 10, "total_path": "meta.total"}}},
        "paginator.total_path `meta.total` is not in the response: correct it, or write null if the API states no total",
    ),
    "key that is null": (
        plain(lambda asked: Say({"data": [device(1), device(2, id=None)], "total": 2})), {},
        "1 of 2 rows have no primary key (id); write another primary_key",
    ),
    "key that is not unique": (
        plain(offset_pages), {"primary_key": "site", "endpoint": {"path": "/sites"}}, "10 of 10 rows have no primary key (site)",
    ),
    "key that is shared": (
        plain(lambda asked: Say({"data": [device(1), device(1, name="other")], "total": 2})), {},
        "1 of 2 rows have the primary key (id) of another row and differ from it; write a primary_key that distinguishes them",
    ),
    "type": (
        plain(offset_pages), {"columns": {"name": {"data_type": "bigint"}}}, "10 of 10 rows would be rejected: ",
    ),
    "incremental parameter": (
        plain(offset_pages),
        {"endpoint": {"incremental": {
            "cursor_path": "updated_at", "start_param": "changed_since", "initial_value": "2000-01-01T00:00:00Z"}}},
        "the API ignores `changed_since`: of 10 rows since 2026-01-10T00:00:00Z, 9 are older; correct start_param",
    ),
    "incremental field": (
        plain(offset_pages),
        {"endpoint": {"incremental": {"cursor_path": "modified", "start_param": "since", "initial_value": "2000-01-01"}}},
        "no row has `modified`; correct cursor_path",
    ),
    "key of the API": (lambda seen: Say({"error": "no"}, 401), {}, "HTTP 401"),
}  # fmt: skip


@pytest.mark.parametrize("case", FAULTS)
def test_check_says_what_is_wrong_and_what_to_write(case: str, tmp_path: Path) -> None:
    answer, resource, said = FAULTS[case]
    code, found = checked(tmp_path, answer, json.loads(json.dumps(resource)))
    assert code == 1
    assert [problem for problem in found["problems"] if said in problem], found["problems"]


def test_check_notes_that_a_server_caps_its_pages(tmp_path: Path) -> None:
    code, found = checked(tmp_path, plain(lambda asked: offset_pages(asked, cap=4)), {})
    assert code == 0
    assert "the API caps pages at 4 rows, asked for 10" in found["notes"]


def test_check_and_preview_leave_nothing_behind(tmp_path: Path) -> None:
    with Scripted(plain(offset_pages)) as server:
        endpoint = {"path": "/devices", "data_selector": "data", "paginator": {"type": "offset", "limit": 10}}
        resource = {"name": "devices", "primary_key": "id", "write_disposition": "merge", "endpoint": endpoint}
        write(tmp_path, {"name": "acme", "client": {"base_url": server.url}, "resources": [resource]})
        for words in (("check",), ("preview", "acme", "devices")):
            done = rmm(tmp_path, *words)
            assert done.returncode == 0, done.stdout + done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["connections", "home"]
    assert list((tmp_path / "home").iterdir()) == []


def test_check_names_every_fault_of_all_files_and_every_secret_that_is_missing(tmp_path: Path) -> None:
    resources = ["devices"]
    client = {
        "base_url": "http://127.0.0.1:9",
        "auth": "bearer",
        "headers": {"X-App": "{secrets.APP}"},
        "paginator": "single_page",
    }
    secrets = {"api_key": {"env": "ACME_API_KEY"}, "secrets": {"APP": {"env": "ACME_APP"}}}
    write(tmp_path, {"name": "acme", "client": client, **secrets, "resources": resources})
    write(tmp_path, {"name": "other", "client": {"base_url": "nowhere", "paginater": 1}, "resources": []})
    done = rmm(tmp_path, "check", "--json")
    found = {each["connection"]: each for each in json.loads(done.stdout)}
    assert done.returncode == 1
    assert len(found["other"]["file_faults"]) == 2 and all(
        "defs.yaml:" in fault for fault in found["other"]["file_faults"]
    )
    assert found["acme"]["missing_secrets"] == [
        "No API key: set the environment variable ACME_API_KEY", "No secret APP: set the environment variable ACME_APP",
    ]  # fmt: skip
    printed = rmm(tmp_path, "check", "other")
    assert printed.returncode == 1 and "unknown key `paginater`" in " ".join(printed.stdout.split())


def test_preview_masks_what_is_sensitive_and_names_would_be_rejects(tmp_path: Path) -> None:
    rows = [device(1, user="ana"), device(2, user="bo"), device(3, size="large", user=None)]
    with Scripted(plain(lambda asked: Say({"data": rows, "total": 3}))) as server:
        columns = {"user": {"sensitive": True}, "size": {"data_type": "bigint"}}
        endpoint = {"path": "/devices", "data_selector": "data", "paginator": {"type": "offset", "limit": 10}}
        resource = {
            "name": "devices",
            "primary_key": "id",
            "write_disposition": "merge",
            "endpoint": endpoint,
            "columns": columns,
        }
        write(tmp_path, {"name": "acme", "client": {"base_url": server.url}, "resources": [resource]})
        done = rmm(tmp_path, "preview", "acme", "devices")
        programs = rmm(tmp_path, "preview", "acme", "devices", "--json")
    assert done.returncode == programs.returncode == 1
    for printed in (done.stdout, programs.stdout):
        assert "***" in printed and '"ana"' not in printed and "large" not in printed
        assert "would be rejected" in printed
    found = json.loads(programs.stdout)
    assert [(row["id"], row["user"]) for row in found["table"]] == [(1, "***"), (2, "***")]
    assert "PC-1" in done.stdout and "bigint" in done.stdout


@pytest.mark.parametrize("words", [("check",), ("preview", "acme", "devices")], ids=lambda words: words[0])
def test_ctrl_c_ends_a_command_at_once(words: tuple[str, ...], tmp_path: Path) -> None:
    asked: list[float] = []

    def slow(seen: Seen) -> Say:
        asked.append(time.monotonic())
        time.sleep(600)
        return Say({})

    with Scripted(slow) as server:
        endpoint = {"path": "/devices", "paginator": "single_page"}
        write(
            tmp_path,
            {
                "name": "acme",
                "client": {"base_url": server.url},
                "resources": [{"name": "devices", "endpoint": endpoint}],
            },
        )
        command = Started(words, tmp_path, environment(tmp_path))
        while not asked and not command.is_over:
            time.sleep(0.05)
        command.send_signal(signal.SIGINT)
        done = command.end(within=300)
    assert done.returncode == 130, done.stderr
    assert "Interrupted" in done.stderr and "Traceback" not in done.stderr

"""Tests reads from Redmine, which Debian packages; see `installed_servers`.

Its pages are offsets or numbers with a stated number of rows, at most 100 of them; it shows each key what its roles allow, and an
unknown key what everybody may see.
"""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rmm_assets.errors import SuspiciousLossError, TransportError
from rmm_assets.reading.report import Evidence
from rmm_assets_tests.integration.installed_servers import (
    Endpoint,
    Server,
    complete_or_red,
    installed,
    meddling,
    resource,
    running,
)
from rmm_assets_tests.integration.test_foreign_servers import free_port
from rmm_assets_tests.syncing import rows_of

HOME = Path("/usr/share/redmine")
ISSUES = 950
# Keys consist of letters and digits.
KEY, LIMITED = "amadeupkey", "anothermadeupkey"
# Every fourth issue is closed; 300 belong to the second tracker; every tenth one is private.
FILL = """
def key(user, value)
  Token.create!(user_id: user.id, action: 'api').update_columns(value: value)
end
Setting.rest_api_enabled = '1'
now = Time.now.utc
admin = User.find_by_login('admin')
key(admin, '%(key)s')
projects = (1..12).map do |n|
  Project.create!(name: "Project #{n}", identifier: "p#{n}", is_public: false, tracker_ids: [1, 2, 3])
end
User.insert_all((1..250).map { |n|
  {login: "u#{n}", firstname: 'Ü', lastname: "U#{n}", type: 'User', status: 1, created_on: now, updated_on: now,
   mail_notification: 'none'}
})
users = User.where("login LIKE 'u%%'").order(:id).to_a
limited = users.first
key(limited, '%(limited)s')
Role.find(5).update!(issues_visibility: 'own', permissions: [:view_issues, :view_members])
[250, 100, 25, 1, 0, 30].each_with_index do |number, index|
  members = users.first(number)
  Member.insert_all(members.map { |u| {user_id: u.id, project_id: projects[index].id, created_on: now} }) if number > 0
  rows = Member.where(project_id: projects[index].id).map { |m| {member_id: m.id, role_id: 5} }
  MemberRole.insert_all(rows) if number > 0
end
Issue.insert_all((1..%(issues)d).map { |n|
  {tracker_id: n <= 300 ? 2 : 1, project_id: projects[n %% 3].id, subject: "Issue #{n} ü", description: "\\n\\"#{n}",
   status_id: n %% 4 == 0 ? 5 : 1, priority_id: 2, author_id: n %% 5 == 0 ? limited.id : admin.id, created_on: now,
   updated_on: now, is_private: n %% 10 == 0, lft: 1, rgt: 2, estimated_hours: n / 4.0}
})
Issue.update_all('root_id = id')
"""


class Redmine(Server):
    """A running Redmine.

    Attributes:
        database: Its SQLite file.
    """

    def __init__(self, url: str, key: str, database: Path) -> None:
        auth = {"type": "api_key", "name": "X-Redmine-API-Key", "location": "header"}
        super().__init__(url, auth, {"X-Redmine-API-Key": key}, secret=key)
        self.database = database

    def stored(self, query: str) -> list[tuple[Any, ...]]:
        """Returns the rows of a query on its database."""
        client = sqlite3.connect(self.database)
        try:
            return client.execute(query).fetchall()
        finally:
            client.close()

    def ids(self, condition: str = "1", table: str = "issues") -> set[int]:
        return {row[0] for row in self.stored(f"SELECT id FROM {table} WHERE {condition}")}


@pytest.fixture(scope="module")
def redmine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Redmine]:
    packages = "redmine redmine-sqlite thin"
    if not (HOME / "bin" / "rails").exists():
        pytest.skip(f"Redmine is not installed: apt-get install --no-install-recommends {packages}")
    installed("thin", packages)
    folder, port = tmp_path_factory.mktemp("redmine"), free_port()
    for name in ("config", "log", "files", "tmp", "public/plugin_assets"):
        (folder / name).mkdir(parents=True)
    database = folder / "redmine.db"
    (folder / "config" / "database.yml").write_text(
        f"production:\n  adapter: sqlite3\n  database: {database}\n  timeout: 20000\n"
    )
    (folder / "config" / "secret_key.txt").write_text("0" * 64)
    (folder / "fill.rb").write_text(FILL % {"key": KEY, "limited": LIMITED, "issues": ISSUES})
    # An instance is a folder below Redmine's own.
    env = {
        "REDMINE_INSTANCE": "../" * 8 + str(folder),
        "RAILS_ENV": "production",
        "REDMINE_LANG": "en",
        "SCHEMA": str(folder / "schema.rb"),
    }
    for command in (
        ["rake", "db:migrate"],
        ["rake", "redmine:load_default_data"],
        ["rails", "runner", str(folder / "fill.rb")],
    ):
        done = subprocess.run(
            [str(HOME / "bin" / command[0]), *command[1:]], cwd=HOME, env={**os.environ, **env}, capture_output=True, text=True,
            check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    server = Redmine(f"http://127.0.0.1:{port}", KEY, database)
    command = [str(HOME / "bin" / "rails"), "server", "-u", "thin", "-b", "127.0.0.1", "-p", str(port)]
    command += ["-P", str(folder / "server.pid")]
    with running(command, folder, lambda: server.ask("/trackers.json"), env):
        yield server


ALL: Endpoint = {
    "path": "/issues.json",
    "params": {"status_id": "*"},
    "data_selector": "issues",
    "paginator": {"type": "offset", "limit": 100, "total_path": "total_count"},
}


def tried(server: Server, endpoint: Endpoint, **more: Any) -> Any:
    return server.connection(resource("tried", "id", endpoint, **more))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"paginator": {"type": "offset", "limit": 500, "total_path": "total_count"}},
        {"paginator": {"type": "offset", "limit": 30, "total_path": "total_count"}},
        {"paginator": {"type": "offset", "limit": 100, "total_path": None}},
        {"paginator": {"type": "page_number", "base_page": 1, "total_path": None}, "params": {"status_id": "*", "limit": 100}},
        {"paginator": {"type": "page_number", "base_page": 1}, "params": {"status_id": "*", "limit": 500}},
        {"paginator": {"type": "page_number", "base_page": 0}},
    ],
    ids=json.dumps,
)  # fmt: skip
def test_redmine_is_read_to_the_last_issue(redmine: Redmine, changes: Endpoint, tmp_path: Path) -> None:
    counted = {"total_path": "total_count"} if "base_page" in changes.get("paginator", {}) else {}
    outcome = redmine.load(tmp_path, tried(redmine, {**ALL, **changes}, **counted), "tried")
    assert outcome.report.complete
    held = redmine.stored(
        "SELECT id, subject, description, project_id, status_id, author_id, is_private, estimated_hours FROM issues ORDER BY id"
    )
    names = ("id", "subject", "description", "project__id", "status__id", "author__id", "is_private", "estimated_hours")
    assert [tuple(row[name] for name in names) for row in rows_of(tmp_path, "tried")] == held
    assert len(held) == ISSUES
    if changes.get("paginator", {}).get("limit") == 500:
        assert any("at most 100 rows per page" in text for text in outcome.report.warnings)


@pytest.mark.parametrize("limit", [20, 75, 100, 500])
def test_an_exactly_full_last_page_of_redmine_is_green(redmine: Redmine, limit: int, tmp_path: Path) -> None:
    endpoint = {**ALL, "params": {"status_id": "*", "tracker_id": 2}}
    endpoint["paginator"] = {"type": "offset", "limit": limit, "total_path": "total_count"}
    how = complete_or_red(redmine, tmp_path, endpoint, "id", redmine.ids("tracker_id = 2"))
    assert how == str(Evidence.STATED_TOTAL)
    assert len(redmine.ids("tracker_id = 2")) == 300


def test_without_a_status_redmine_sends_open_issues_only(redmine: Redmine, tmp_path: Path) -> None:
    """Nothing in its responses says so."""
    endpoint = {**ALL, "params": {}}
    assert complete_or_red(redmine, tmp_path, endpoint, "id", redmine.ids("status_id = 1")) == str(
        Evidence.STATED_TOTAL
    )


def test_a_wrong_key_is_an_empty_read_at_first_and_later_red(redmine: Redmine, tmp_path: Path) -> None:
    wrong = Redmine(redmine.url, "wrong", redmine.database)
    outcome = wrong.load(tmp_path, tried(wrong, ALL), "tried")
    assert (outcome.report.complete, outcome.report.empty, outcome.row_count) == (True, True, 0)
    assert redmine.load(tmp_path, tried(redmine, ALL), "tried").row_count == ISSUES
    with pytest.raises(SuspiciousLossError, match="if the key has lost permissions"):
        wrong.load(tmp_path, tried(wrong, ALL), "tried")
    assert len(rows_of(tmp_path, "tried")) == ISSUES
    users: Endpoint = {"path": "/users.json", "data_selector": "users", "paginator": ALL["paginator"]}
    with pytest.raises(TransportError, match="HTTP 401: the API refused the key"):
        wrong.load(tmp_path, tried(wrong, users), "tried")


@pytest.mark.parametrize(
    "paginator",
    [ALL["paginator"], {"type": "page_number", "base_page": 1, "total_path": None}],
    ids=["offset", "page_number"],
)
def test_a_key_with_few_rights_receives_what_it_may_see(redmine: Redmine, paginator: Any, tmp_path: Path) -> None:
    limited = Redmine(redmine.url, LIMITED, redmine.database)
    seen = redmine.ids("author_id = (SELECT id FROM users WHERE login = 'u1')")
    assert 0 < len(seen) < ISSUES / 2
    assert complete_or_red(limited, tmp_path, {**ALL, "paginator": paginator}, "id", seen) != "red"


def test_memberships_of_every_project_are_read(redmine: Redmine, tmp_path: Path) -> None:
    page = {"paginator": ALL["paginator"]}
    projects: Endpoint = {"path": "/projects.json", "data_selector": "projects", **page}
    members: Endpoint = {
        "path": "/projects/{resources.projects.id}/memberships.json",
        "data_selector": "memberships",
        **page,
    }
    made = redmine.connection(
        resource("projects", "id", projects), resource("members", "id", members, include_from_parent=["identifier"])
    )
    for name in ("projects", "members"):
        assert redmine.load(tmp_path, made, name).report.complete
    assert {row["id"] for row in rows_of(tmp_path, "projects")} == redmine.ids(table="projects")
    held = redmine.stored(
        "SELECT m.id, p.identifier, m.user_id FROM members m JOIN projects p ON p.id = m.project_id ORDER BY m.id"
    )
    found = [(row["id"], row["_projects_identifier"], row["user__id"]) for row in rows_of(tmp_path, "members")]
    assert found == held
    assert len(held) == 250 + 100 + 25 + 1 + 30


def test_a_project_that_the_key_may_not_see_is_red_by_name(redmine: Redmine, tmp_path: Path) -> None:
    limited = Redmine(redmine.url, LIMITED, redmine.database)
    path = "/projects/p12/memberships.json"
    with pytest.raises(TransportError, match="HTTP 403: the key may not read this"):
        limited.load(tmp_path, tried(limited, {**ALL, "path": path, "data_selector": "memberships"}), "tried")


def test_issues_that_come_and_go_during_the_read_lose_none(redmine: Redmine, tmp_path: Path) -> None:
    """The newest issue is the first one, so that each new one moves all others."""
    stays = redmine.ids()
    made: list[int] = []

    def before(page: int) -> None:
        if page in (3, 4):
            issue = {"project_id": 1, "tracker_id": 1, "subject": f"new {page}", "priority_id": 2}
            made.append(redmine.ask("/issues.json", "POST", {"issue": issue})["issue"]["id"])
        elif page == 6:
            redmine.ask(f"/issues/{made[0]}.json", "DELETE")

    with meddling(redmine, before) as server:
        outcome = server.load(tmp_path, tried(server, ALL), "tried")
    found = {row["id"] for row in rows_of(tmp_path, "tried")}
    for issue in redmine.ids() - stays:
        redmine.ask(f"/issues/{issue}.json", "DELETE")
    assert outcome.report.complete
    assert stays <= found <= stays | set(made)
    assert len(made) == 2


@pytest.mark.parametrize(
    "changes",
    [
        {"paginator": {"type": "offset", "limit": 100}},
        {"paginator": {"type": "offset", "limit": 500, "total_path": None}},
        {"paginator": {"type": "offset", "limit": 100, "total_path": "limit"}},
        {"paginator": {"type": "offset", "limit": 100, "total_path": "offset"}},
        {"paginator": {"type": "offset", "limit": 100, "offset_param": "skip", "total_path": "total_count"}},
        {"paginator": {"type": "offset", "limit": 100, "offset_param": "page", "total_path": "total_count"}},
        {"paginator": {"type": "offset", "limit": 100, "limit_param": "per_page", "total_path": "total_count"}},
        {"paginator": {"type": "offset", "limit": 100, "limit_param": "page", "total_path": None}},
        {"paginator": {"type": "page_number", "base_page": 1, "total_path": "total_count"}},
        {"paginator": {"type": "page_number", "base_page": 1, "total_path": "limit"}, "params": {"status_id": "*", "limit": 100}},
        {"paginator": {"type": "page_number", "base_page": 1, "page_param": "p"}},
        {"paginator": {"type": "page_number", "base_page": 1, "page": 2}},
        {"paginator": {"type": "cursor", "cursor_path": "offset", "cursor_param": "offset"}},
        {"paginator": {"type": "cursor", "cursor_path": "next", "cursor_param": "offset"}},
        {"paginator": {"type": "cursor", "cursor_path": "issues[-1].id", "cursor_param": "offset"}},
        {"paginator": {"type": "json_link", "next_url_path": "next"}},
        {"paginator": "header_link", "params": {"status_id": "*", "limit": 100}},
        {"paginator": "header_link", "params": {"status_id": "*", "limit": 500}},
        {"paginator": "single_page"},
        {"paginator": "single_page", "params": {"status_id": "*", "limit": 500}},
        {"data_selector": None},
        {"data_selector": "$"},
        {"params": {"status_id": "*", "limit": 10}},
    ],
    ids=json.dumps,
)  # fmt: skip
def test_redmine_is_read_completely_or_red_however_it_is_misconfigured(
    redmine: Redmine, changes: Endpoint, tmp_path: Path
) -> None:
    endpoint = {name: value for name, value in {**ALL, **changes}.items() if value is not None}
    how = complete_or_red(redmine, tmp_path, endpoint, "id", redmine.ids())
    print(f"\n{json.dumps(changes)}: {how}", file=sys.stderr)

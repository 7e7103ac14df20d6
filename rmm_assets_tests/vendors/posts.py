"""Speaks the APIs of vendors whose lists are requested with POST: Addigy, Comet Backup."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from functools import cached_property
from typing import Any, ClassVar

from rmm_assets_tests.http.servers import Say
from rmm_assets_tests.vendors.dialect import (
    ALERTS,
    DEVICES,
    KEY,
    NOT_FOUND,
    ORGANIZATIONS,
    Asked,
    Dialect,
    List,
    Row,
    Rows,
    Whole,
    three_pages,
)


def seconds(text: str) -> int:
    """Returns a time of the fleet as whole seconds since 1970."""
    return int(datetime.fromisoformat(text).timestamp())


class Addigy(Dialect):
    """Addigy 2: page numbers in a JSON body, facts on request. Clients."""

    profile = "addigy"
    hosts = ("api.addigy.com",)
    page_size = 50

    @cached_property
    def lists(self) -> Mapping[str, List]:
        number = three_pages(50)
        devices = [
            {
                "agentid": row["uid"],
                "orgid": f"{row['organization']['id']}",
                "audit_date": row["updated_at"],
                "agent_audit_date": row["last_seen_at"],
                "facts": Whole({
                    name: {"type": kind, "value": value, "error_msg": ""}
                    for name, kind, value in (
                        ("device_name", "string", row["name"]), ("serial_number", "string", row["serial_number"]),
                        ("device_model_name", "string", row["model"]), ("os_version", "string", row["os"]["version"]),
                        ("online", "boolean", row["status"] == "online"), ("last_online", "date", row["last_seen_at"]),
                        ("policy_ids", "list", [str(row["organization"]["id"])]), ("battery_cycles", "number", 7),
                    )
                }),
            }
            for row in DEVICES[:number]
        ]  # fmt: skip
        values = [
            {"agentid": DEVICES[index // 3]["uid"], "static_field_id": f"f{index % 3}", "value": "yes"}
            for index in range(number)
        ]
        return {
            "/devices": List(devices, 1000, 20),
            "/static-fields/value": List(values, 1000, 20, frozenset({"page", "per_page"})),
        }

    def resources(self) -> Mapping[str, Rows]:
        asked = (
            "device_name",
            "serial_number",
            "device_model_name",
            "os_version",
            "online",
            "last_online",
            "policy_ids",
        )
        return {
            "devices": self._with_facts(self.lists["/devices"].rows, asked),
            "static_field_values": self.lists["/static-fields/value"].rows,
        }

    def _with_facts(self, rows: Rows, names: Any) -> Rows:
        return [{**row, "facts": Whole({name: row["facts"][name] for name in names})} for row in rows]

    def respond(self, asked: Asked) -> Say:
        if asked.headers.get("x-api-key") != KEY:
            return Say({"message": "Unauthorized"}, 401)
        path = asked.path.removeprefix("/api/v2")
        found = self.lists.get(path)
        if found is None or (asked.method == "POST") is not (path == "/devices"):
            return NOT_FOUND
        body: Row = asked.json if asked.method == "POST" else {name: asked.first(name) for name in asked.query}
        size, page = found.size(str(body.get("per_page", ""))), int(body.get("page", 1))
        rows = found.rows
        if path == "/devices":
            if body.keys() - {"desired_fact_identifiers", "page", "per_page", "query", "sort_direction", "sort_field"}:
                return Say({"message": "unknown field"}, 400)
            rows = self._with_facts(rows, body.get("desired_fact_identifiers", ["device_name"]))
            # Without an order, rows can move between pages.
            rows = rows if body.get("sort_field") else rows[page:] + rows[:page]
        part = self.page(asked, found, rows[(page - 1) * size : page * size])
        pages = -(-len(rows) // size)
        metadata = {"page": page, "page_count": pages, "per_page": size, "result_count": len(part), "total": len(rows)}
        return Say({"items": part, "metadata": metadata})


class Comet(Dialect):
    """Comet Backup: forms with the login, maps of users and policies, jobs that started or ended in a range. Its own client."""

    profile = "comet"
    settings: ClassVar[Mapping[str, str]] = {"host": "backup.example.com", "username": "reporting"}
    hosts = ("backup.example.com",)
    secrets: ClassVar[Mapping[str, str]] = {"PASSWORD": KEY}
    unpaged = frozenset({"users", "policies", "jobs"})

    @cached_property
    def lists(self) -> Mapping[str, List]:
        users = [
            {
                "Username": f"user{row['id']}",
                "AccountName": row["city"],
                "GroupID": "",
                "Emails": [row["contact"]["email"]],
                "OverrideEmailSettings": Whole(),
                "Destinations": Whole({f"d{row['id']}": {"Description": row["name"], "EncryptionKey": "x"}}),
                "Sources": Whole({f"s{row['id']}": {"Engine": "engine1/file"}}),
                "BackupRules": Whole(),
                "Devices": Whole(
                    {f"{row['id']:064x}": {"FriendlyName": row["name"], "RegistrationTime": 1_600_000_000}}
                ),
                "Policy": Whole({"PreventNewProtectedItem": False}),
                "IsSuspended": row["status"] == "suspended",
                "AllProtectedItemsQuotaBytes": 2**42,
                "PasswordHash": "h4sh",
                "PasswordRecovery": "",
                "TOTPKey": "",
                "OrganizationID": "",
                "PolicyID": "",
                "ServerConfig": Whole({"AutoCreateDestination": False}),
                "CreateTime": seconds(row["created_at"]),
                "CreationGUID": f"{row['id']:032x}",
            }
            for row in ORGANIZATIONS[:311]
        ]
        policies = [
            {
                "PolicyID": f"p{row['id']}",
                "Description": row["city"],
                "OrganizationID": "",
                "Policy": Whole({"ModifiedBy": None}),
                "CreatedDate": seconds(row["created_at"]),
                "ModifiedDate": seconds(row["updated_at"]),
            }
            for row in ORGANIZATIONS[:211]
        ]
        jobs = [
            {
                "GUID": f"{row['id']:032x}",
                "Username": f"user{row['id'] % 7}",
                "Classification": 4001,
                "Status": 5000 if row["resolved_at"] else 6001,
                "StartTime": seconds(row["opened_at"]),
                "EndTime": seconds(row["resolved_at"]) if row["resolved_at"] else 0,
                "TotalSize": row["id"] * 2**33,
                "UploadSize": 0,
                "DownloadSize": 0,
            }
            for row in ALERTS
        ]
        return {
            "/list-users-full": List(users, 0, 0),
            "/policies/list-full": List(policies, 0, 0),
            "/get-jobs-for-date-range": List(jobs, 0, 0),
        }

    def resources(self) -> Mapping[str, Rows]:
        return dict(zip(("users", "policies", "jobs"), (found.rows for found in self.lists.values()), strict=True))

    def respond(self, asked: Asked) -> Say:
        form = dict(asked.form)
        login = {name: form.pop(name, None) for name in ("Username", "AuthType", "Password")}
        kind = asked.headers.get("content-type", "")
        if login != {"Username": "reporting", "AuthType": "Password", "Password": KEY} or "urlencoded" not in kind:
            return Say({"Status": 403, "Message": "Access denied"}, 403)
        path = asked.path.removeprefix("/api/v1/admin")
        found = self.lists.get(path)
        if found is None or asked.method != "POST":
            return NOT_FOUND
        if path != "/get-jobs-for-date-range":
            key = "Username" if path == "/list-users-full" else "PolicyID"
            rows = self.page(asked, found, found.rows)
            # The name of a policy is only its key in the map.
            return Say({
                row[key]: row if key == "Username" else {name: value for name, value in row.items() if name != key}
                for row in rows
            })  # fmt: skip
        start, end = int(form["Start"]), int(form["End"])
        rows = [row for row in found.rows if start <= row["StartTime"] <= end or start <= row["EndTime"] <= end]
        return Say(self.page(asked, found, rows))

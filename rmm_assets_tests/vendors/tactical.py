"""Speaks the API of Tactical RMM that its dashboard uses: bare lists, alerts and audit logs by PATCH."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from functools import cached_property
from typing import ClassVar
from zoneinfo import ZoneInfo

from rmm_assets_tests.http.servers import Say
from rmm_assets_tests.vendors.dialect import (
    ALERTS,
    DEVICES,
    KEY,
    NOT_FOUND,
    ORGANIZATIONS,
    PATCHES,
    Asked,
    Dialect,
    List,
    Row,
    Rows,
    Whole,
    three_pages,
)


class TacticalStable(Dialect):
    """Tactical RMM: Django REST framework without pages, and one list in pages whose last is repeated. Its source code."""

    profile = "tactical_rmm"
    settings: ClassVar[Mapping[str, str]] = {"host": "api.acme.example", "timezone": "America/Los_Angeles"}
    hosts = ("api.acme.example",)
    unpaged = frozenset({
        "clients", "sites", "agents", "agent_numbers", "alerts", "checks", "software", "windows_updates", "pending_actions",
    })  # fmt: skip
    page_size = 1000
    short = frozenset({"id", "hostname", "agent_id", "client", "site"})

    @cached_property
    def lists(self) -> Mapping[str, List]:
        def found(rows: Rows, *params: str) -> List:
            return List(rows, len(rows), len(rows), frozenset(params))

        sites = [
            {
                "id": row["id"],
                "name": row["city"],
                "client": row["id"] // 2,
                "client_name": row["name"],
                "agent_count": 3,
            }
            for row in ORGANIZATIONS[:233]
        ]
        clients = [
            {
                "id": row["id"],
                "name": row["name"],
                "sites": [site for site in sites if site["client"] == row["id"]],
                "custom_fields": [],
                "failing_checks": {"error": False, "warning": row["is_internal"]},
            }
            for row in ORGANIZATIONS[:117]
        ]
        agents = [
            {
                "id": row["id"],
                "agent_id": row["uid"].replace("-", ""),
                "hostname": row["name"],
                "client": row["organization"]["name"],
                "site": row["organization"]["name"],
                "site_name": row["organization"]["name"],
                "client_name": row["organization"]["name"],
                "status": {"online": "online", "offline": "offline"}.get(row["status"], "overdue"),
                "monitoring_type": "server" if row["device_class"] == "server" else "workstation",
                "plat": "windows",
                "last_seen": row["last_seen_at"],
                "boot_time": datetime.fromisoformat(row["created_at"]).timestamp() + 0.25,
                "checks": {"total": 3, "passing": 2, "failing": 1, "has_failing_checks": True},
                "logged_username": row["last_user"] or "-",
                "public_ip": next(iter(row["ip_addresses"] or ["198.51.100.7"])),
                "needs_reboot": row["needs_reboot"],
                "cpu_model": [row["model"]],
                "serial_number": row["serial_number"],
                "custom_fields": [{"id": 1, "field": 2, "agent": row["id"], "value": ["a", "b"]}],
            }
            for row in DEVICES[:617]
        ]
        severities = {"information": "info", "minor": "warning", "major": "error", "critical": "error"}
        alerts: Rows = [
            {
                "id": row["id"],
                "hostname": agents[row["id"] % 617]["hostname"],
                "agent_id": agents[row["id"] % 617]["agent_id"],
                "alert_time": row["opened_at"],
                "alert_type": "check",
                "message": row["message"],
                "severity": severities[row["severity"]],
                "snoozed": row["acknowledged"],
                "resolved": row["resolved_at"] is not None,
                "resolved_on": row["resolved_at"],
                "agent": agents[row["id"] % 617]["id"],
            }
            for row in ALERTS
        ]
        # A custom alert has no agent, so that its fields are left out.
        alerts[-1] = {**alerts[-1], "agent": None, "alert_type": "custom"}
        del alerts[-1]["hostname"], alerts[-1]["agent_id"]
        checks = [
            {
                "id": row["id"],
                "agent": row["device_id"] if row["id"] % 3 else None,
                "policy": None if row["id"] % 3 else 7,
                "check_type": "ping",
                "ip": "192.0.2.1",
                "info_return_codes": [],
                "check_result": {},
            }
            for row in ALERTS[:511]
        ]
        software = [
            {"id": row["id"], "agent": row["id"], "software": [{"name": "7-Zip", "version": "24.08", "size": "5.4 MB"}]}
            for row in DEVICES[:611]
        ]
        actions = [
            {
                "id": row["id"],
                "agent": row["device_id"],
                "entry_time": row["opened_at"],
                "action_type": "schedreboot",
                "status": "pending",
                "due": "2026-05-01 10:00",
                "details": {"time": "2026-05-01 10:00"},
            }
            for row in ALERTS[:53]
        ]
        audit = [
            {
                "id": row["id"],
                "username": row["type"],
                "agent": None,
                "entry_time": row["opened_at"],
                "action": "modify",
                "object_type": "agent",
                "before_value": Whole({"hostname": "a"}) if row["id"] % 2 else None,
                "after_value": Whole({"hostname": "b"}),
                "debug_info": Whole({"ip": "198.51.100.7"}),
                "ip_address": "198.51.100.7",
                "site": None,
            }
            for row in ALERTS[: three_pages(1000) - 100]
        ]
        return {
            "/clients/": found(clients),
            "/clients/sites/": found(sites),
            "/agents/": found(agents, "detail", "monitoring_type", "client", "site"),
            "/alerts/": found(alerts),
            "/checks/": found(checks),
            "/software/": found(software),
            "/logs/pendingactions/": found(actions),
            "/logs/audit/": List(audit, 10**9, 0),
        }

    def _updates(self, agent: Row) -> Rows:
        """Returns the Windows updates of an agent; some have none."""
        return [
            {
                "id": 5 * agent["id"] + index,
                "agent": agent["id"],
                "kb": f"KB{row['id']}",
                "title": row["name"],
                "installed": row["installed_at"] is not None,
                "categories": ["Updates"],
                "action": "approve",
                "result": "n/a",
                "date_installed": row["installed_at"] and f"{row['installed_at'][:16]}Z",
            }
            for index, row in enumerate(PATCHES[agent["id"] % 40 :][: agent["id"] % 5])
        ]

    def resources(self) -> Mapping[str, Rows]:
        rows = {path: found.rows for path, found in self.lists.items()}
        agents = rows["/agents/"]
        return {
            "clients": rows["/clients/"],
            "sites": rows["/clients/sites/"],
            "agents": [self._detailed(row) for row in agents],
            "agent_numbers": [self._short(row) for row in agents],
            "alerts": rows["/alerts/"],
            "checks": rows["/checks/"],
            "software": rows["/software/"],
            "windows_updates": [
                {**row, "_agents_agent_id": agent["agent_id"]} for agent in agents for row in self._updates(agent)
            ],
            "pending_actions": rows["/logs/pendingactions/"],
            "audit_log": rows["/logs/audit/"],
        }

    def _short(self, row: Row) -> Row:
        return {name: value for name, value in row.items() if name in self.short}

    def _detailed(self, row: Row) -> Row:
        return {name: value for name, value in row.items() if name not in self.short - {"hostname", "agent_id"}}

    @staticmethod
    def _local(row: Row) -> Row:
        """Returns an update with its time as the server writes it."""
        if row["date_installed"] is None:
            return row
        local = datetime.fromisoformat(row["date_installed"]).astimezone(ZoneInfo("America/Los_Angeles"))
        return {**row, "date_installed": f"{local:%m %d %Y %H:%M}"}

    def respond(self, asked: Asked) -> Say:
        if asked.headers.get("x-api-key") != KEY:
            return Say({"detail": "Authentication credentials were not provided."}, 401)
        if matched := re.fullmatch(r"/winupdate/([^/]{21,})/", asked.path):
            agent = next((row for row in self.lists["/agents/"].rows if row["agent_id"] == matched[1]), None)
            if agent is None:
                return Say({"detail": "Not found."}, 404)
            rows = self._updates(agent)
            return Say([self._local(row) for row in self.page(asked, List(rows, 0, 0), rows)])
        if (found := self.lists.get(asked.path)) is None:
            return NOT_FOUND
        if (asked.method == "PATCH") is not (asked.path in ("/alerts/", "/logs/audit/")):
            return Say({"detail": f'Method "{asked.method}" not allowed.'}, 405)
        if asked.path == "/alerts/":
            return self._alerts(asked, found)
        if asked.path == "/logs/audit/":
            return self._audit(asked, found)
        rows = found.rows
        if asked.path == "/agents/":
            detail = asked.first("detail", "true") == "true"
            rows = [self._detailed(row) if detail else self._short(row) for row in rows]
        return Say(self.page(asked, found, rows))

    def _alerts(self, asked: Asked, found: List) -> Say:
        """Lists alerts; a filter that is false leaves out the others, and one that is true does nothing."""
        given, rows = asked.json, found.rows
        for name, field in (("resolvedFilter", "resolved"), ("snoozedFilter", "snoozed")):
            if name in given and not given[name]:
                rows = [row for row in rows if not row[field]]
        if "timeFilter" in given:
            rows = rows[-100:]
        if "top" in given:
            return Say({"alerts_count": len(rows), "alerts": rows[: int(given["top"])]})
        return Say(self.page(asked, found, rows))

    def _audit(self, asked: Asked, found: List) -> Say:
        asked_for = asked.json["pagination"]
        rows = sorted(found.rows, key=lambda row: row[asked_for["sortBy"]], reverse=asked_for["descending"])
        size = min(int(asked_for["rowsPerPage"]), found.most)
        # Behind the last page, Django's paginator returns the last one.
        page = min(int(asked_for["page"]), -(-len(rows) // size))
        part = self.page(asked, found, rows[(page - 1) * size : page * size])
        return Say({"audit_logs": part, "total": len(rows)})

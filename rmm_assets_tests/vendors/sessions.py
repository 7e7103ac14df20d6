"""Speaks the APIs of vendors that exchange a login for a token: Datto RMM."""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar
from urllib.parse import urlencode

from rmm_assets_tests.http.servers import Say
from rmm_assets_tests.vendors.dialect import (
    ALERTS,
    DEVICES,
    KEY,
    ORGANIZATIONS,
    PATCHES,
    Asked,
    Dialect,
    List,
    Millis,
    Row,
    Rows,
    three_pages,
)

NOT_FOUND = Say({"message": "Not Found"}, 404)


@dataclass
class Sessions(Dialect):
    """An API whose requests carry a token that a login returned.

    Attributes:
        tokens: The tokens that were issued, and when they end.
        logins: How often tokens were asked for with the login itself.
    """

    lifetime: ClassVar[float]

    tokens: dict[str, float] = field(default_factory=dict)
    logins: int = 0

    def issue(self) -> str:
        """Returns a new token."""
        token = secrets.token_hex(20)
        self.tokens[token] = time.monotonic() + self.lifetime
        return token

    def may(self, asked: Asked) -> bool:
        """Returns whether a request has a bearer token that is valid."""
        scheme, _, token = asked.headers.get("authorization", "").partition(" ")
        return scheme == "Bearer" and self.tokens.get(token, 0) > time.monotonic()


class Datto(Sessions):
    """Datto RMM: links to the next page, at most 250 rows, tokens by user name and password. Its OpenAPI description."""

    profile = "datto_rmm"
    settings: ClassVar[Mapping[str, str]] = {"platform": "pinotage"}
    hosts = ("pinotage-api.centrastage.net",)
    secrets: ClassVar[Mapping[str, str]] = {"KEY": "4p1k3y", "SECRET": KEY}
    page_size = 250
    lifetime = 360_000

    @cached_property
    def lists(self) -> Mapping[str, List]:
        number = three_pages(250)

        def found(rows: Rows, *more: str) -> List:
            return List(rows, 250, 50, frozenset({"page", "max", *more}))

        sites = [
            {
                "id": row["id"],
                "uid": f"5173-{row['id']:08}",
                "accountUid": "acc0",
                "name": row["city"],  # which is not unique
                "description": row["description"],
                "notes": None,
                "onDemand": row["is_internal"],
                "proxySettings": {"host": "proxy.example.com", "port": 3128, "username": "p", "password": "x"},
                "devicesStatus": {"numberOfDevices": 3, "numberOfOnlineDevices": 2, "numberOfOfflineDevices": 1},
                "autotaskCompanyId": f"{row['id']:012}",
            }
            for row in ORGANIZATIONS[:number]
        ]
        devices = [
            {
                "id": row["id"],
                "uid": row["uid"],
                "siteId": row["organization"]["id"],
                "siteUid": f"5173-{row['organization']['id']:08}",
                "hostname": row["model"],
                "description": row["display_name"],
                "deviceType": {"category": row["device_class"], "type": row["model"]},
                "deviceClass": "printer" if index % 7 == 3 else "device",
                "lastLoggedInUser": row["last_user"],
                "extIpAddress": "198.51.100.7",
                "online": row["status"] == "online",
                "suspended": False,
                "deleted": index % 100 == 0,
                "lastSeen": Millis.of(row["last_seen_at"]),
                "lastReboot": None,
                "lastAuditDate": Millis.of(row["updated_at"]),
                "creationDate": Millis.of(row["created_at"]),
                "warrantyDate": row["warranty_until"],
                "patchManagement": {"patchStatus": "FullyPatched", "patchesInstalled": 12},
                "udf": {"udf1": row["serial_number"], "udf2": None},
            }
            for index, row in enumerate(DEVICES[:number])
        ]
        priorities = {"information": "Information", "minor": "Low", "major": "High", "critical": "Critical"}

        def alerts(*, resolved: bool) -> Rows:
            return [
                {
                    "alertUid": f"a1e27-{row['id']}",
                    "priority": priorities[row["severity"]],
                    "diagnostics": row["message"],
                    "resolved": resolved,
                    "resolvedBy": "api" if resolved else None,
                    "resolvedOn": Millis.of(row["updated_at"]) if resolved else None,
                    "muted": row["acknowledged"],
                    "timestamp": Millis.of(row["opened_at"]),
                    "alertSourceInfo": {"deviceUid": f"{row['device_id']}", "siteName": None},
                    "alertContext": {"@class": "perf_resource_usage_ctx", "percentage": 97.5},
                    "responseActions": [],
                    "autoresolveMins": 60,
                }
                for row in ALERTS[number if resolved else 0 :][:number]
            ]

        users = [
            {
                "username": row["contact"]["email"].replace("@", f"+{row['id']}@"),
                "firstName": row["contact"]["name"],
                "email": row["contact"]["email"],
                "telephone": row["contact"]["phone"],
                "disabled": False,
                "created": Millis.of(row["created_at"]),
                "lastAccess": None,
            }
            for row in ORGANIZATIONS[:number]
        ]
        components = [
            {
                "id": row["id"],
                "uid": f"c0-{row['id']}",
                "name": row["vendor"],
                "categoryCode": "scripts",
                "variables": [],
            }
            for row in PATCHES[:number]
        ]
        return {
            "/account/sites": found(sites, "siteName"),
            "/account/devices": found(devices, "filterId", "hostname", "deviceType", "operatingSystem", "siteName"),
            "/account/alerts/open": found(alerts(resolved=False), "muted"),
            "/account/alerts/resolved": found(alerts(resolved=True), "muted"),
            "/account/users": found(users),
            "/account/components": found(components),
        }

    def _software(self, device: Row) -> Rows:
        """Returns the programs of a device; the first one has more than two pages of them."""
        count = three_pages(250) if device["id"] == DEVICES[0]["id"] else device["id"] % 3
        return [{"name": row["name"], "version": f"1.{number}"} for number, row in enumerate(PATCHES[:count])]

    def resources(self) -> Mapping[str, Rows]:
        names = {"/account/alerts/open": "open_alerts", "/account/alerts/resolved": "resolved_alerts"}
        found = {names.get(path, path.rpartition("/")[2]): each.rows for path, each in self.lists.items()}
        found["software"] = [
            {**row, "_devices_uid": device["uid"]}
            for device in found["devices"]
            if device["deviceClass"] == "device"
            for row in self._software(device)
        ]
        return found

    def _found(self, path: str) -> List | None:
        steps = path.split("/")
        if steps[1:3] == ["audit", "device"] and steps[4:] == ["software"]:
            device = next((row for row in self.lists["/account/devices"].rows if row["uid"] == steps[3]), None)
            if device is None or device["deviceClass"] != "device":
                return None
            return List(self._software(device), 250, 50, frozenset({"page", "max"}))
        return self.lists.get(path)

    def respond(self, asked: Asked) -> Say:
        if asked.path == "/auth/oauth/token":
            wanted = {"grant_type": "password", "username": "4p1k3y", "password": KEY}
            if asked.method != "POST" or asked.basic != ("public-client", "public") or dict(asked.form) != wanted:
                return Say({"error": "unauthorized"}, 401)
            self.logins += 1
            return Say({"access_token": self.issue(), "token_type": "bearer", "expires_in": 359_999, "scope": "public"})
        if not self.may(asked):
            return Say({"error": "invalid_token"}, 401)
        path = asked.path.removeprefix("/api/v2")
        found = self._found(path)
        if found is None or path == asked.path:
            return NOT_FOUND
        size, page = found.size(asked.first("max")), asked.number("page", 1)
        rows = self.page(asked, found, found.rows[(page - 1) * size : page * size])

        def link(number: int) -> str | None:
            query = urlencode({"max": size, "page": number})
            known = 1 <= number <= -(-len(found.rows) // size)
            return f"http://{asked.headers['host']}{asked.path}?{query}" if known else None

        details = {
            "count": len(rows),
            "totalCount": len(found.rows),
            "prevPageUrl": link(page - 1),
            "nextPageUrl": link(page + 1),
        }
        return Say({"pageDetails": details, "alerts" if "/alerts/" in path else path.rpartition("/")[2]: rows})

"""Speaks the APIs of vendors that exchange a login for a token."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cached_property
from typing import ClassVar
from urllib.parse import urlencode
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
    List,
    Millis,
    Row,
    Rows,
    Sessions,
    three_pages,
)


class Datto(Sessions):
    """Datto RMM: links to the next page, at most 250 rows, tokens by user name and password. Its OpenAPI description."""

    profile = "datto_rmm"
    settings: ClassVar[Mapping[str, str]] = {"platform": "pinotage"}
    hosts = ("pinotage-api.centrastage.net",)
    secrets: ClassVar[Mapping[str, str]] = {"KEY": "4p1k3y", "SECRET": KEY}
    page_size = 250
    page_sizes: ClassVar[Mapping[str, int]] = {"activity_log": 100}
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

    @cached_property
    def activities(self) -> Rows:
        """The activity log, in the order in which it happened."""
        return [
            {
                "id": f"60761aa3-d03e-3d76-b75b-{row['id']:012}",
                "entity": "DEVICE" if index % 3 else "USER",
                "category": "job",
                "action": "deployment",
                "date": 1_689_072_497.714 + 600 * index,
                "site": {"id": 3, "name": "Main"},
                "deviceId": row["device_id"] if index % 3 else None,
                "hostname": None,
                "user": {"id": 9, "userName": "admin", "firstName": None, "lastName": None},
                "details": row["message"],
                "hasStdOut": False,
            }
            for index, row in enumerate(ALERTS[: three_pages(100)])
        ]

    def _activity_log(self, asked: Asked) -> Say:
        """Answers with activities since a time, by default the last 15 minutes; links have nothing but the place to go on."""
        names = (
            "size",
            "order",
            "searchAfter",
            "page",
            "from",
            "until",
            "entities",
            "categories",
            "actions",
            "siteIds",
        )
        found = List(self.activities, 500, 50, frozenset(names))
        start = self.activities[-1]["date"] - 900
        if since := asked.first("from"):
            start = datetime.strptime(since, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC).timestamp()
        rows = [row for row in self.activities if row["date"] >= start]
        if asked.first("order") != "asc":
            rows.reverse()
        if (after := asked.first("searchAfter").partition(",")[2]) in (known := [row["id"] for row in rows]):
            rows = rows[known.index(after) + 1 :]
        elif after:
            rows = []
        part = self.page(asked, found, rows[: found.size(asked.first("size"))])
        following = None
        if len(part) < len(rows):
            place = {"page": "next", "searchAfter": f"{part[-1]['date'] * 1000:.0f},{part[-1]['id']}"}
            following = f"http://{asked.headers['host']}{asked.path}?{urlencode(place)}"
        details = {"count": len(part), "totalCount": None, "prevPageUrl": None, "nextPageUrl": following}
        return Say({"pageDetails": details, "activities": part})

    def _software(self, device: Row) -> Rows:
        """Returns the programs of a device; the first one has more than two pages of them."""
        count = three_pages(250) if device["id"] == DEVICES[0]["id"] else device["id"] % 3
        return [{"name": row["name"], "version": f"1.{number}"} for number, row in enumerate(PATCHES[:count])]

    def resources(self) -> Mapping[str, Rows]:
        names = {"/account/alerts/open": "open_alerts", "/account/alerts/resolved": "resolved_alerts"}
        found = {names.get(path, path.rpartition("/")[2]): each.rows for path, each in self.lists.items()}
        found["activity_log"] = self.activities
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
        if path == "/activity-logs":
            return self._activity_log(asked)
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


class NCentral(Sessions):
    """N-central: page numbers from 1, tokens for a JWT that are refreshed. N-able's pages and maintained clients."""

    profile = "ncentral"
    settings: ClassVar[Mapping[str, str]] = {"host": "ncentral.example.com"}
    hosts = ("ncentral.example.com",)
    secrets: ClassVar[Mapping[str, str]] = {"JWT": KEY}
    page_size = 50
    unpaged = frozenset({"service_statuses"})
    lifetime = 3600

    refreshable: str = ""

    @cached_property
    def lists(self) -> Mapping[str, List]:
        number = three_pages(50)
        params = frozenset({"pageNumber", "pageSize", "select", "sortBy", "sortOrder", "filterId"})

        def contact(row: Row) -> Row:
            return {
                "contactEmail": row["contact"]["email"],
                "contactPhone": row["contact"]["phone"],
                "city": row["city"],
            }

        service_orgs = [
            {"soId": str(row["id"]), "soName": row["city"], "orgUnitType": "SO", "isSystem": False, **contact(row)}
            for row in ORGANIZATIONS[:number]
        ]
        customers = [
            {
                "customerId": str(row["id"]),
                "customerName": row["city"],
                "parentId": "50",
                "county": None,
                **contact(row),
            }
            for row in ORGANIZATIONS[:number]
        ]
        sites = [
            {"siteId": row["id"], "siteName": row["city"], "parentId": 1, "externalId": "", **contact(row)}
            for row in ORGANIZATIONS[:number]
        ]
        devices = [
            {
                "deviceId": row["id"],
                "longName": row["model"],
                "deviceClass": row["device_class"],
                "isProbe": False,
                "supportedOs": row["os"]["name"],
                "lastLoggedInUser": row["last_user"],
                "stillLoggedIn": "false",
                "customerId": row["organization"]["id"],
                "siteId": None,
                "lastApplianceCheckinTime": row["last_seen_at"],
            }
            for row in DEVICES[:number]
        ]
        return {
            path: List(rows, 500, 50, params)
            for path, rows in {
                "/service-orgs": service_orgs, "/customers": customers, "/sites": sites, "/devices": devices,
            }.items()
        }  # fmt: skip

    def _issues(self, customer: str) -> Rows:
        """Returns the active issues of a customer; the first one has more than two pages of them."""
        count = three_pages(50) if customer == str(ORGANIZATIONS[0]["id"]) else int(customer) % 3
        return [
            {
                "orgUnitId": int(customer),
                "deviceId": row["device_id"],
                "notificationState": 5,
                "serviceId": 7,
                "serviceName": row["type"],
                "taskId": row["id"],
                "serviceItemId": 1,
                "_extra": {"deviceName": None, "transitionTime": row["opened_at"], "customerTree": ["SO", customer]},
            }
            for row in ALERTS[:count]
        ]

    def _statuses(self, device: int) -> Rows:
        return [
            {
                "taskId": task,
                "moduleName": name,
                "stateStatus": "Normal",
                "lastScanTime": "2026-01-02 03:04:05.678 +0000",
            }
            for task, name in enumerate(("CPU", "Disk", "Memory")[: device % 4])
        ]

    def resources(self) -> Mapping[str, Rows]:
        found = {path[1:].replace("-", "_"): each.rows for path, each in self.lists.items()}
        found["active_issues"] = [
            {**issue, "_customers_customerId": row["customerId"]}
            for row in found["customers"]
            for issue in self._issues(row["customerId"])
        ]
        found["service_statuses"] = [
            {**status, "_devices_deviceId": row["deviceId"]}
            for row in found["devices"]
            for status in self._statuses(row["deviceId"])
        ]
        return found

    def _tokens(self) -> Say:
        self.refreshable = secrets.token_hex(20)
        access = {"token": self.issue(), "type": "Bearer", "expirySeconds": int(self.lifetime)}
        return Say({"tokens": {"access": access, "refresh": {"token": self.refreshable, "expirySeconds": 90_000}}})

    def respond(self, asked: Asked) -> Say:
        if asked.path == "/api/auth/authenticate":
            if asked.method != "POST" or asked.headers.get("authorization") != f"Bearer {KEY}":
                return Say({"message": "Authentication failed"}, 401)
            self.logins += 1
            return self._tokens()
        if asked.path == "/api/auth/refresh":
            text = asked.headers.get("content-type", "").startswith("text/plain")
            if asked.method != "POST" or not text or asked.body.decode() != self.refreshable:
                return Say({"message": "invalid refresh token"}, 401)
            return self._tokens()
        if not self.may(asked):
            return Say({"message": "Token expired"}, 401)
        path = asked.path.removeprefix("/api")
        steps = path.split("/")
        if steps[1] == "devices" and steps[3:] == ["service-monitor-status"]:
            return Say({"data": self.page(asked, List([], 0, 0), self._statuses(int(steps[2])))})
        params = self.lists["/devices"].params
        issues = steps[1] == "org-units" and steps[3:] == ["active-issues"]
        found = List(self._issues(steps[2]), 500, 50, params) if issues else self.lists.get(path)
        if found is None:
            return NOT_FOUND
        size, page = found.size(asked.first("pageSize")), asked.number("pageNumber", 1)
        rows = self.page(asked, found, found.rows[(page - 1) * size : page * size])
        pages = -(-len(found.rows) // size)
        return Say(
            {
                "data": rows,
                "pageNumber": page,
                "pageSize": size,
                "itemCount": len(rows),
                "totalItems": len(found.rows),
                "totalPages": pages,
            }
        )


class Automate(Sessions):
    """ConnectWise Automate: page numbers from 1, no total, at most 1000 rows, tokens for JSON logins. Its OpenAPI description."""

    profile = "connectwise_automate"
    settings: ClassVar[Mapping[str, str]] = {
        "host": "acme.hostedrmm.com",
        "username": "reporting",
        "client_id": "0b5c6f1e-1111-4222-8333-444455556666",
    }
    hosts = ("acme.hostedrmm.com",)
    secrets: ClassVar[Mapping[str, str]] = {"PASSWORD": KEY}
    page_size = 1000
    lifetime = 3600

    @cached_property
    def lists(self) -> Mapping[str, List]:
        number = three_pages(1000)
        params = frozenset(
            {"page", "pageSize", "orderBy", "condition", "expands", "includedFields", "excludedFields", "ids"}
        )

        def client(row: Row) -> Row:
            return {"Id": str(row["id"]), "Name": row["name"]}

        clients = [
            {"Id": str(row["id"]), "Name": row["city"], "City": row["city"], "PhoneNumber": row["contact"]["phone"]}
            for row in ORGANIZATIONS[:number]
        ]
        locations = [
            {
                "Id": row["id"],
                "Name": row["city"],
                "PhoneNumber": None,
                "ScriptUsername": "svc",
                "ScriptPassword": "x",
                "Client": client(row),
            }
            for row in ORGANIZATIONS[:number]
        ]
        computers = [
            {
                "Id": str(row["id"]),
                "ComputerName": row["model"],
                "Client": client(row["organization"]),
                "Status": row["status"].title(),
                "SerialNumber": row["serial_number"],
                "OperatingSystemName": row["os"]["name"],
                "LastHeartbeat": row["last_seen_at"],
                "RemoteAgentLastContact": row["last_seen_at"],
                "DateAdded": row["created_at"],
                "LastUserName": row["last_user"],
                "LoggedInUsers": [],
                "UserAccounts": ["admin"],
                "TotalMemory": int(row["memory_gb"] * 1024),
            }
            for row in DEVICES[:number]
        ]
        network_devices = [
            {
                "Id": str(row["id"]),
                "Name": row["model"],
                "LastContact": row["last_seen_at"],
                "SNMPCommunityGet": "public",
                "SNMPCommunitySet": None,
                "IsLowOnToner": False,
            }
            for row in DEVICES[:number]
        ]
        retired = [
            {"Id": str(row["id"]), "ComputerId": "1", "ComputerName": row["model"], "RetiredDate": row["updated_at"]}
            for row in DEVICES[:number]
        ]
        alerts = [
            {
                "AlertId": row["id"],
                "Computer": {"ComputerId": row["device_id"], "ComputerName": None},
                "AlertDate": row["opened_at"],
                "Severity": {"SeverityId": 3, "Description": row["severity"]},
                "Message": row["message"],
            }
            for row in ALERTS[:number]
        ]
        history = [
            {
                "ComputerId": row["device_id"],
                "UpdateId": f"{row['id'] // 2:08}-aaaa",
                "ActionDate": row["updated_at"],
                "ResultCode": {"Code": index},
            }
            for index, row in enumerate(PATCHES[:number])
        ]
        software = [
            {
                "ApplicationId": row["id"] // 2,
                "ComputerId": row["id"] % 2,
                "Name": row["vendor"],
                "Version": "1",
                "DateInstalled": None,
                "DateLastInventoried": row["updated_at"],
                "Size": int(row["size_mb"]),
            }
            for row in PATCHES[:number]
        ]
        tickets = [
            {
                "TicketId": row["id"],
                "Subject": row["message"],
                "From": "ana@example.com",
                "Status": {"Id": 1, "Name": row["status"]},
                "StartDate": row["opened_at"],
                "UpdateDate": row["updated_at"],
                "DueDate": None,
            }
            for row in ALERTS[:number]
        ]
        contacts = [
            {
                "Id": str(row["id"]),
                "FirstName": row["contact"]["name"],
                "Email": row["contact"]["email"],
                "PhoneNumber": row["contact"]["phone"],
                "MobileNumber": "",
                "CreatedDate": row["created_at"],
            }
            for row in ORGANIZATIONS[:number]
        ]
        return {
            path: List(rows, 1000, 25, params)
            for path, rows in {
                "/Clients": clients, "/Locations": locations, "/Computers": computers, "/NetworkDevices": network_devices,
                "/RetiredAssets": retired, "/Alerts": alerts, "/PatchHistory": history, "/Computers/Software": software,
                "/Tickets": tickets, "/Contacts": contacts,
            }.items()
        }  # fmt: skip

    def resources(self) -> Mapping[str, Rows]:
        names = {
            "NetworkDevices": "network_devices",
            "RetiredAssets": "retired_assets",
            "PatchHistory": "patch_history",
        }
        words = {path: path.rpartition("/")[2] for path in self.lists}
        return {names.get(word, word.lower()): self.lists[path].rows for path, word in words.items()}

    def respond(self, asked: Asked) -> Say:
        if asked.headers.get("clientid") != self.settings["client_id"]:
            return Say({"Message": "Invalid or missing ClientId"}, 401)
        path = asked.path.removeprefix("/cwa/api/v1")
        if path == "/apitoken":
            json = asked.headers.get("content-type", "").startswith("application/json")
            if asked.method != "POST" or not json or asked.json != {"UserName": "reporting", "Password": KEY}:
                return Say({"Message": "Invalid credentials"}, 401)
            self.logins += 1
            ends = "2026-01-02T04:04:05.1234567Z"
            return Say({"AccessToken": self.issue(), "TokenType": "Bearer", "ExpirationDate": ends, "UserId": 7})
        if not self.may(asked):
            return Say({"Message": "Authorization has been denied for this request."}, 401)
        if (found := self.lists.get(path)) is None:
            return NOT_FOUND
        size, page = found.size(asked.first("pageSize")), asked.number("page", 1)
        # Without an order, rows can move between pages.
        rows = found.rows if asked.first("orderBy").endswith(" asc") else found.rows[page:] + found.rows[:page]
        return Say(self.page(asked, found, rows[(page - 1) * size : page * size]))


class Glpi(Sessions):
    """GLPI: ranges of rows with a Content-Range, sessions for two tokens. Its description of the API."""

    profile = "glpi"
    settings: ClassVar[Mapping[str, str]] = {"url": "glpi.example.com", "timezone": "Europe/Paris"}
    hosts = ("glpi.example.com",)
    secrets: ClassVar[Mapping[str, str]] = {"APP_TOKEN": "4pp-t0k3n", "USER_TOKEN": KEY}
    page_size = 200
    lifetime = 3600

    @cached_property
    def lists(self) -> Mapping[str, List]:
        number = three_pages(200)
        params = frozenset({"range", "get_hateoas", "expand_dropdowns", "only_id", "sort", "order", "searchText"})
        entities = [{"id": row["id"] - 1, "name": row["city"], "entities_id": 0} for row in ORGANIZATIONS[:number]]
        computers = [
            {
                "id": row["id"],
                "entities_id": row["organization"]["id"],
                "name": row["model"],
                "serial": row["serial_number"],
                "contact": row["last_user"],
                "is_deleted": (index % 9 == 0 and 1) or 0,
                "date_mod": row["updated_at"],
            }
            for index, row in enumerate(DEVICES[:number])
        ]
        tickets = [
            {
                "id": row["id"],
                "entities_id": 0,
                "name": row["type"],
                "content": row["message"],
                "status": 6,
                "is_deleted": 0,
                "date_mod": row["updated_at"],
            }
            for row in ALERTS[:number]
        ]
        return {
            path: List(rows, 990, 50, params)
            for path, rows in {"/Entity": entities, "/Computer": computers, "/Ticket": tickets}.items()
        }

    def resources(self) -> Mapping[str, Rows]:
        return dict(
            zip(("entities", "computers", "tickets"), (found.rows for found in self.lists.values()), strict=True)
        )

    @staticmethod
    def _local(row: Row) -> Row:
        """Returns a row with its times as GLPI writes them: local, without an offset."""
        if row.get("date_mod") is None:
            return row
        local = datetime.fromisoformat(row["date_mod"]).astimezone(ZoneInfo("Europe/Paris"))
        return {**row, "date_mod": f"{local:%Y-%m-%d %H:%M:%S}"}

    def respond(self, asked: Asked) -> Say:
        if asked.headers.get("app-token") != "4pp-t0k3n":
            return Say(["ERROR_WRONG_APP_TOKEN_PARAMETER", "parameter app_token seems wrong"], 400)
        path = asked.path.removeprefix("/apirest.php")
        if path == "/initSession":
            if asked.method != "GET" or asked.headers.get("authorization") != f"user_token {KEY}":
                return Say(["ERROR_GLPI_LOGIN_USER_TOKEN", "parameter user_token seems invalid"], 401)
            self.logins += 1
            return Say({"session_token": self.issue()})
        if not self.is_valid(asked.headers.get("session-token", "")):
            return Say(["ERROR_SESSION_TOKEN_INVALID", "session_token seems invalid"], 401)
        if (found := self.lists.get(path)) is None:
            return Say(["ERROR_RESOURCE_NOT_FOUND_NOR_COMMONDBTM", "resource not found"], 400)
        first, _, last = asked.first("range", "0-49").partition("-")
        total, start = len(found.rows), int(first)
        if start >= total:
            return Say(["ERROR_RANGE_EXCEED_TOTAL", "Provided range exceed total count of data"], 400)
        rows = found.rows[start : start + found.size(str(int(last) - start + 1))]
        part = [self._local(row) for row in self.page(asked, found, rows)]
        headers = (("Content-Range", f"{start}-{start + len(part) - 1}/{total}"), ("Accept-Range", f"{path[1:]} 990"))
        return Say(part, 200 if len(part) == total else 206, headers)

"""Speaks the APIs of vendors that page differently by list or by parent: NinjaOne, Action1, Auvik, SuperOps."""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import Any, ClassVar
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
    Row,
    Rows,
    Sessions,
    three_pages,
)


def seconds(text: str | None) -> float | None:
    """Returns a time of the fleet as seconds since 1970, as NinjaOne writes times."""
    return None if text is None else datetime.fromisoformat(text).timestamp()


class OAuth(Sessions):
    """An API with OAuth client credentials."""

    lifetime = 3600
    token_path: ClassVar[str]
    wanted: ClassVar[Mapping[str, str]]
    """The form of the token request, without the grant type."""

    def token(self, asked: Asked) -> Say:
        form = dict(asked.form)
        if asked.method != "POST" or form.pop("grant_type", "") != "client_credentials" or form != self.wanted:
            return Say({"error": "invalid_client"}, 401)
        return Say({"access_token": self.issue(), "expires_in": 3600, "token_type": "Bearer"})


@dataclass
class NinjaOne(OAuth):
    """NinjaOne: lists after the last id, activities before it, queries with a cursor, and lists that are not paged.

    Attributes:
        cursors: For each cursor of a query, the number of rows that were sent.
    """

    cursors: dict[str, int] = field(default_factory=dict)

    profile = "ninjaone"
    settings: ClassVar[Mapping[str, str]] = {"region": "eu", "client_id": "c11ent"}
    hosts = ("eu.ninjarmm.com",)
    unpaged = frozenset({"alerts", "policies", "groups", "roles", "users"})
    token_path = "/ws/oauth/token"
    wanted: ClassVar[Mapping[str, str]] = {"client_id": "c11ent", "client_secret": KEY, "scope": "monitoring"}

    @cached_property
    def lists(self) -> Mapping[str, List]:
        number = three_pages(1000)
        paging = frozenset({"pageSize", "after", "of", "df"})

        def whole(rows: Rows, *params: str) -> List:
            return List(rows, len(rows), len(rows), frozenset(params))

        organizations = [
            {"id": row["id"], "name": row["name"], "description": row["description"], "nodeApprovalMode": "AUTOMATIC"}
            for row in ORGANIZATIONS[:number]
        ]
        locations = [
            {"id": 7 * row["id"], "name": row["city"], "organizationId": row["id"], "address": ""}
            for row in ORGANIZATIONS[:number]
        ]
        devices = [
            {
                "id": row["id"],
                "uid": row["uid"],
                "organizationId": row["organization"]["id"],
                "locationId": 7,
                "nodeClass": "WINDOWS_SERVER" if row["device_class"] == "server" else "WINDOWS_WORKSTATION",
                "approvalStatus": "APPROVED",
                "offline": row["status"] == "offline",
                "displayName": row["display_name"],
                "systemName": row["name"],
                "created": seconds(row["created_at"]),
                "lastContact": seconds(row["last_seen_at"]),
                "lastUpdate": seconds(row["updated_at"]),
                "tags": row["tags"],
                "ipAddresses": row["ip_addresses"],
                "publicIP": next(iter(row["ip_addresses"] or [None])),
                "maintenance": {"status": "PENDING", "start": seconds(row["created_at"])},
            }
            for row in DEVICES[:number]
        ]
        alerts = [
            {
                "uid": f"00000000-0000-4000-8000-{row['id']:012}",
                "deviceId": row["device_id"] % 3,
                "message": row["message"],
                "sourceType": "CONDITION_AGENT_CPU",
                "createTime": datetime.fromisoformat(row["opened_at"]).timestamp() + 0.25,
                "updateTime": seconds(row["updated_at"]),
                "subject": row["type"],
            }
            for row in ALERTS[:61]
        ]
        activities = [
            {
                "id": 2**33 + row["id"],
                "activityTime": seconds(row["opened_at"]),
                "deviceId": row["device_id"],
                "severity": "MAJOR",
                "statusCode": "COMPLETED",
                "message": row["message"],
                "data": {"params": {"code": row["id"]}},
            }
            for row in ALERTS[:number]
        ]
        plain = [
            {"id": row["id"], "name": row["name"], "description": row["description"]} for row in ORGANIZATIONS[:31]
        ]
        changed = seconds(ORGANIZATIONS[0]["created_at"])
        users = [
            {
                "id": row["id"],
                "firstName": row["contact"]["name"],
                "email": row["contact"]["email"],
                "phone": row["contact"]["phone"],
                "userType": "TECHNICIAN",
                "administrator": row["is_internal"],
            }
            for row in ORGANIZATIONS[:31]
        ]
        return {
            "/v2/organizations": List(organizations, 1000, 1000, paging - {"df"}),
            "/v2/locations": List(locations, 1000, 1000, paging - {"df", "of"}),
            "/v2/devices-detailed": List(devices, 1000, 1000, paging - {"of"}),
            "/v2/alerts": whole(alerts, "sourceType", "df", "lang", "tz"),
            "/v2/policies": whole([{**row, "nodeClassDefault": False, "updated": changed} for row in plain]),
            "/v2/groups": whole([{**row, "created": changed, "updated": changed, "shared": True} for row in plain]),
            "/v2/roles": whole([{**row, "custom": False} for row in plain]),
            "/v2/users": whole(users, "userType", "includeRoles"),
            "/v2/activities": List(activities, 1000, 200, frozenset({
                "class", "before", "after", "olderThan", "newerThan", "type", "status", "user", "seriesUid", "df", "pageSize",
                "lang", "tz", "sourceConfigUid",
            })),
        }  # fmt: skip

    @cached_property
    def queries(self) -> Mapping[str, Rows]:
        number = three_pages(1000)
        health = [
            {"deviceId": row["id"], "healthStatus": "HEALTHY", "offline": row["status"] == "offline", "alertCount": 0}
            for row in DEVICES[:number]
        ]
        # The same patch on each device: only the device distinguishes them.
        patches = [
            {
                "id": f"00000000-0000-4000-8000-{row['id'] % 7:012}",
                "name": row["name"],
                "severity": row["severity"],
                "status": "APPROVED",
                "type": "SECURITY_UPDATES",
                "installedAt": seconds(row["installed_at"]),
                "deviceId": row["id"],
                "timestamp": seconds(row["updated_at"]),
            }
            for row in PATCHES[:number]
        ]
        # Some attempts are alike.
        installs = [
            {**row, "status": "FAILED", "deviceId": row["deviceId"] % 5, "installedAt": None} for row in patches
        ]
        software = [
            {
                "name": "7-Zip",
                "version": "24.08",
                "publisher": "",
                "size": 2**33,
                "location": f"C:/{row['id']}",
                "deviceId": row["id"] % 500,
                "timestamp": seconds(row["updated_at"]),
            }
            for row in DEVICES[:number]
        ]
        antivirus = [
            {
                "productName": "Defender",
                "productState": "ON",
                "definitionStatus": "Up-to-Date",
                "deviceId": row["id"],
                "timestamp": seconds(row["updated_at"]),
            }
            for row in DEVICES[:number]
        ]
        return {
            "device-health": health, "os-patches": patches, "software-patches": patches, "os-patch-installs": installs,
            "software-patch-installs": installs, "software": software, "antivirus-status": antivirus,
        }  # fmt: skip

    def resources(self) -> Mapping[str, Rows]:
        names = {"/v2/devices-detailed": "devices", "antivirus-status": "antivirus"}
        found = {names.get(path, path.rpartition("/")[2]): found.rows for path, found in self.lists.items()}
        return {**found, **{names.get(path, path.replace("-", "_")): rows for path, rows in self.queries.items()}}

    def query(self, asked: Asked, rows: Rows) -> Say:
        """Answers a query: a cursor has a name, and the server remembers where it is."""
        found = List(rows, 1000, 100, frozenset({"df", "ts", "status", "cursor", "pageSize"}))
        name = asked.first("cursor")
        if name and name not in self.cursors:
            return Say({"resultCode": "FAILURE", "errorMessage": "Unknown cursor"}, 400)
        name = name or secrets.token_hex(8)
        start = self.cursors.get(name, 0)
        part = rows[start : start + found.size(asked.first("pageSize"))]
        self.cursors[name] = start + len(part)
        cursor = {"name": name, "offset": start + len(part), "count": len(rows), "expires": time.time() + 600}
        if part:
            self.page(asked, found, part)
        return Say({"cursor": cursor, "results": part})

    def respond(self, asked: Asked) -> Say:
        if asked.path == self.token_path:
            return self.token(asked)
        if not self.may(asked):
            return Say({"resultCode": "FAILURE", "errorMessage": "Unauthorized"}, 401)
        if (rows := self.queries.get(asked.path.removeprefix("/v2/queries/"))) is not None:
            return self.query(asked, rows)
        if (found := self.lists.get(asked.path)) is None:
            return Say({"resultCode": "FAILURE", "errorMessage": "Not found"}, 404)
        if asked.path == "/v2/activities":
            newer, older = asked.number("newerThan", 0), asked.number("olderThan", 2**62)
            rows = sorted((row for row in found.rows if newer < row["id"] < older), key=lambda row: -row["id"])
            part = self.page(asked, found, rows[: found.size(asked.first("pageSize"))])
            return Say({"lastActivityId": part[-1]["id"] if part else 0, "activities": part})
        rows = found.rows
        if "after" in found.params:
            rows = [row for row in sorted(rows, key=lambda row: row["id"]) if row["id"] > asked.number("after", 0)]
            rows = rows[: found.size(asked.first("pageSize"))]
        return Say(self.page(asked, found, rows))


class Action1(OAuth):
    """Action1: `from` and `limit` for each organization, with a total that is text. The vendor's own client."""

    profile = "action1"
    settings: ClassVar[Mapping[str, str]] = {"region": "eu", "client_id": "api-key-1@action1.com"}
    hosts = ("app.eu.action1.com",)
    token_path = "/api/3.0/oauth2/token"
    wanted: ClassVar[Mapping[str, str]] = {"client_id": "api-key-1@action1.com", "client_secret": KEY}
    page_size = 200

    params = frozenset({"from", "limit", "fields", "filter", "sort"})
    kinds: ClassVar[Mapping[str, str]] = {
        "endpoints/managed": "endpoints", "endpoints/groups": "endpoint_groups", "automations/instances": "automations",
        "updates": "updates", "installed-software": "installed_software",
        "vulnerabilities": "vulnerabilities",
    }  # fmt: skip

    @cached_property
    def organizations(self) -> Rows:
        return [
            {"id": f"org-{row['id']}", "type": "Organization", "name": row["name"], "description": row["description"]}
            for row in ORGANIZATIONS[: three_pages(200)]
        ]

    def of(self, kind: str, organization: str) -> Rows:
        """Returns the rows of an organization; only three of them have any."""
        number = int(organization.removeprefix("org-"))
        if number > 3:
            return []
        start = 700 * (number - 1)
        if kind == "endpoints":
            return [
                {
                    "id": f"ep-{row['id'] % 500}",  # unique in its organization only
                    "type": "Endpoint",
                    "name": row["name"],
                    "online_status": "CONNECTED" if row["status"] == "online" else "DISCONNECTED",
                    "last_seen": row["last_seen_at"],
                    "serial": row["serial_number"],
                    "RAM": f"{row['memory_gb']} GB",
                    "user": row["last_user"],
                }
                for row in DEVICES[start : start + 10 + 200 * (number == 1) * 2]
            ]
        if kind == "endpoint_groups":
            return [{"id": f"g-{at}", "name": f"Group {at}", "total": at} for at in range(5)]
        if kind == "automations":
            return [
                {"id": f"a-{row['id']}", "name": row["type"], "status": row["status"]}
                for row in ALERTS[start : start + 20]
            ]
        if kind == "updates":
            return [
                {"name": row["name"], "vendor": row["vendor"], "severity": row["severity"], "missing": 3}
                for row in PATCHES[start : start + 20]
            ]
        if kind == "vulnerabilities":
            return [
                {"cve_id": f"CVE-2025-{row['id']:05}", "cvss_score": "7.5", "endpoints_count": 3}
                for row in PATCHES[start : start + 10 + 400 * (number == 1)]
            ]
        # Two computers have the same software.
        return [{"name": "7-Zip", "version": "24.08", "vendor": "Igor Pavlov"} for _ in range(2)]

    def resources(self) -> Mapping[str, Rows]:
        found: dict[str, Rows] = {"organizations": self.organizations}
        for kind in self.kinds.values():
            found[kind] = [
                {**row, "_organizations_id": above["id"]}
                for above in self.organizations
                for row in self.of(kind, above["id"])
            ]
        return found

    def respond(self, asked: Asked) -> Say:
        if asked.path == self.token_path:
            return self.token(asked)
        if not self.may(asked):
            return Say({"error": "unauthorized"}, 401)
        path = asked.path.removeprefix("/api/3.0/")
        rows, found = self._rows(path, asked), List([], 200, 50, self.params)
        if rows is None:
            return Say({"error": "forbidden"}, 403)  # for paths that do not exist, too
        start, size = asked.number("from", 0), found.size(asked.first("limit"))
        part = rows[start : start + size]
        # Organizations without rows are not pages of the list.
        shown = self.page(asked, found, part) if part else []
        return Say({
            "id": "list", "type": "ResultPage", "items": shown, "total_items": str(len(rows)), "limit": size, "from": start,
        })  # fmt: skip

    def _rows(self, path: str, asked: Asked) -> Rows | None:
        if path == "organizations":
            return self.organizations
        for kind, name in self.kinds.items():
            matched = re.fullmatch(rf"{kind}/(org-\d+)(/data)?", path)
            if matched is not None and bool(matched[2]) is (name == "installed_software"):
                rows = self.of(name, matched[1])
                if name == "endpoints" and asked.first("fields") != "*":
                    rows = [{key: row[key] for key in ("id", "type", "name")} for row in rows]
                return rows
        return None


class Auvik(Dialect):
    """Auvik: JSON:API with links, for each tenant. The vendor's guide and a maintained client."""

    profile = "auvik"
    settings: ClassVar[Mapping[str, str]] = {"region": "eu1", "username": "api@example.com"}
    hosts = ("auvikapi.eu1.my.auvik.com",)
    unpaged = frozenset({"tenants"})
    page_size = 100

    tenants: ClassVar[Rows] = [
        {
            "id": f"{600000000000000000 + number}",
            "type": "tenant",
            "attributes": {"domainPrefix": f"t{number}", "tenantType": "client"},
        }
        for number in range(3)
    ]

    @cached_property
    def lists(self) -> Mapping[str, Mapping[str, Rows]]:
        """The rows of each path, by tenant."""
        number = three_pages(100)

        def of(rows: Rows, made: Any) -> Mapping[str, Rows]:
            # The second tenant has a few rows, the third has none.
            return {
                self.tenants[0]["id"]: [made(row) for row in rows[:number]],
                self.tenants[1]["id"]: [made(row) for row in rows[number : number + 5]],
                self.tenants[2]["id"]: [],
            }

        def item(kind: str, row: Row, **attributes: Any) -> Row:
            return {
                "id": f"NjAw{row['id']:012}",
                "type": kind,
                "attributes": attributes,
                "relationships": {"tenant": {"data": {"id": "600", "type": "tenant"}}},
                "links": {"self": f"https://auvikapi.eu1.my.auvik.com/v1/{kind}/{row['id']}"},
            }

        return {
            "/v1/inventory/device/info": of(DEVICES, lambda row: item(
                "device", row, deviceName=row["name"], ipAddresses=row["ip_addresses"], deviceType="server",
                makeModel=row["model"], vendorName=row["manufacturer"], serialNumber=row["serial_number"],
                onlineStatus=row["status"], lastModified=row["updated_at"], lastSeenTime=row["last_seen_at"],
            )),
            "/v1/inventory/network/info": of(ORGANIZATIONS, lambda row: item(
                "network", row, networkName=row["name"], networkType="routed", scanStatus="true", description=row["description"],
            )),
            "/v1/inventory/interface/info": of(DEVICES, lambda row: item(
                "interface", row, interfaceName="eth0", interfaceType="ethernet", adminStatus=True, macAddress=row["uid"],
            )),
            "/v1/alert/history/info": of(ALERTS, lambda row: item(
                "alert", row, name=row["type"], description=row["message"], severity=row["severity"],
                detectedOn=row["opened_at"], dismissed=row["acknowledged"],
            )),
        }  # fmt: skip

    def resources(self) -> Mapping[str, Rows]:
        names = {
            "/v1/inventory/device/info": "devices", "/v1/inventory/network/info": "networks",
            "/v1/inventory/interface/info": "interfaces", "/v1/alert/history/info": "alerts",
        }  # fmt: skip
        found = {
            names[path]: [{**row, "_tenants_id": tenant} for tenant, rows in tenants.items() for row in rows]
            for path, tenants in self.lists.items()
        }
        return {"tenants": self.tenants, **found}

    def respond(self, asked: Asked) -> Say:
        if asked.basic != ("api@example.com", KEY):
            return Say({"errors": [{"title": "Unauthorized"}]}, 401)
        found = List([], 1000, 100, frozenset({"tenants", "page[first]", "page[after]", "page[last]", "page[before]"}))
        if asked.path == "/v1/tenants":
            return Say({"data": self.tenants})
        if (lists := self.lists.get(asked.path)) is None:
            return Say({"errors": [{"title": "Not Found"}]}, 404)
        if asked.first("tenants") not in lists:
            return Say({"errors": [{"title": "tenants is required"}]}, 400)
        rows, size = lists[asked.first("tenants")], found.size(asked.first("page[first]"))
        start = asked.number("page[after]", 0)
        part = rows[start : start + size]
        links = {"first": "https://auvikapi.eu1.my.auvik.com/v1"}
        if start + size < len(rows):
            query = {**{name: values[0] for name, values in asked.query.items()}, "page[after]": str(start + size)}
            links["next"] = f"http://{asked.headers['host']}{asked.path}?{urlencode(query)}"
        return Say(
            {"data": self.page(asked, found, part), "links": links, "meta": {"totalPages": -(-len(rows) // size)}},
            headers=(("Content-Type", "application/vnd.api+json"),),
        )


class SuperOps(Dialect):
    """SuperOps: GraphQL; `hasMore` is null on the last page. Notes of tests with an account."""

    profile = "superops"
    settings: ClassVar[Mapping[str, str]] = {"region": "eu", "subdomain": "acme"}
    hosts = ("euapi.superops.ai",)
    page_size = 100

    @cached_property
    def queries(self) -> Mapping[str, tuple[str, Rows]]:
        """For each query, the name of its list and the rows."""
        number = three_pages(100)
        clients = [
            {
                "accountId": f"{9001114136934215000 + row['id']}",
                "name": row["name"],
                "stage": "Active",
                "status": row["status"],
                "emailDomains": ["example.com"],
                "accountManager": {"userId": "1", "name": "Ana"},
                "primaryContact": None,
                "hqSite": {"id": "7", "name": row["city"]},
            }
            for row in ORGANIZATIONS[:number]
        ]
        assets = [
            {
                "assetId": f"{9001114136934215000 + row['id']}",
                "name": row["name"],
                "assetClass": {"classId": "1", "name": row["device_class"]},
                # An integer of 19 digits that is not quoted.
                "client": {
                    "accountId": 9001114136934215000 + row["organization"]["id"],
                    "name": row["organization"]["name"],
                },
                "site": None,
                "status": row["status"],
                "platform": row["os"]["name"],
                "lastCommunicatedTime": row["last_seen_at"],
                "patchStatus": "Fully Patched",
                "deviceCategory": None,
                "hostName": row["name"],
                "serialNumber": row["serial_number"],
                "agentVersion": row["agent_version"],
            }
            for row in DEVICES[:number]
        ]
        alerts = [
            {
                "id": f"{row['id']}",
                "message": row["message"],
                "createdTime": row["opened_at"],
                "status": row["status"],
                "severity": row["severity"],
                "description": row["note"],
                "asset": {"assetId": f"{row['device_id']}"},
                "policy": None,
                "resolvedTime": row["resolved_at"],
                "occurrenceCount": 2,
            }
            for row in ALERTS[:number]
        ]
        tickets = [
            {
                "ticketId": f"{row['id']}",
                "displayId": f"210826-{row['id']:04}",
                "subject": row["message"],
                "requestType": "Incident",
                "source": None,
                "client": {"accountId": "9001", "name": "Acme"},
                "requester": None,
                "techGroup": None,
                "technician": None,
                "status": row["status"],
                "priority": row["severity"],
                "impact": None,
                "urgency": None,
                "category": None,
                "createdTime": row["opened_at"],
                "updatedTime": row["updated_at"],
            }
            for row in ALERTS[:number]
        ]
        technicians = [
            {
                "userId": f"{row['id']}",
                "firstName": row["contact"]["name"],
                "lastName": None,
                "name": row["contact"]["name"],
                "email": row["contact"]["email"],
                "designation": "",
                "role": {"roleId": "1", "name": "Admin"},
                "team": None,
            }
            for row in ORGANIZATIONS[:number]
        ]
        return {
            "getClientList": ("clients", clients),
            "getAssetList": ("assets", assets),
            "getAlertList": ("alerts", alerts),
            "getTicketList": ("tickets", tickets),
            "getTechnicianList": ("userList", technicians),
        }

    def _software(self, asset: str) -> Rows:
        """Returns the software of an asset: much on the first, little on few others."""
        index = [row["assetId"] for row in self.queries["getAssetList"][1]].index(asset)
        number = three_pages(100) if index == 0 else 2 if index < 5 else 0
        return [
            {
                "id": f"{at}",
                "software": {"softwareId": f"{at}", "name": f"Tool {at}"},
                "version": "1.0",
                "installedDate": None,
            }
            for at in range(number)
        ]

    def resources(self) -> Mapping[str, Rows]:
        names = {"userList": "technicians"}
        found = {names.get(name, name): rows for name, rows in self.queries.values()}
        found["asset_software"] = [
            {**row, "_assets_assetId": asset["assetId"]}
            for asset in found["assets"]
            for row in self._software(asset["assetId"])
        ]
        return found

    def respond(self, asked: Asked) -> Say:
        if not asked.headers.get("customersubdomain"):
            return Say(b"", 400)
        if asked.headers.get("authorization") != f"Bearer {KEY}" or asked.headers["customersubdomain"] != "acme":
            return Say({"errors": [{"message": "Unauthorized"}]}, 401)
        if asked.path != "/msp" or asked.method != "POST":
            return Say({"message": "Not Found"}, 404)
        query, given = str(asked.json["query"]), asked.json["variables"]["input"]
        name = re.search(r"\{\s*(\w+)\(input: \$input\)", query)
        assert name is not None, query
        if name[1] == "getAssetSoftwareList":
            listed, rows, info = "assetSoftwares", self._software(given["assetId"]), given["listInfo"]
        elif name[1] in self.queries:
            (listed, rows), info = self.queries[name[1]], given
        else:
            return Say({"errors": [{"message": "Validation error"}], "data": None})
        found = List(rows, 100, 10)
        size = found.size(str(info.get("pageSize", "")))
        page = int(info.get("page", 1))
        part = rows[(page - 1) * size : page * size]
        # Only what the query selects is sent.
        selected = re.search(rf"{listed} \{{ ([^{{}}]*) \}}", query)
        assert selected is not None, query
        shown = [{key: row[key] for key in selected[1].split()} for row in part]
        if shown:
            self.page(asked, found, shown)
        more = True if page * size < len(rows) else None
        told = {"page": page, "pageSize": size, "hasMore": more, "totalCount": len(rows)}
        return Say({"data": {name[1]: {listed: shown, "listInfo": told}}})

"""Speaks the APIs of vendors whose lists are plain: pages by number, offset, link or last row, and a key that does not change."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cached_property
from typing import Any, ClassVar
from urllib.parse import urlencode

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
    Millis,
    Row,
    Rows,
    Sessions,
    three_pages,
)


class Level(Dialect):
    """Level: keyset paging by the id of the last row. Its OpenAPI description of version 2."""

    profile = "level"
    hosts = ("api.level.io",)
    page_size = 100

    @cached_property
    def lists(self) -> Mapping[str, List]:
        number = three_pages(100)
        paging = {"limit", "starting_after", "ending_before"}

        def found(rows: Rows, *more: str) -> List:
            return List(rows, 100, 20, frozenset(paging | set(more)))

        devices = [
            {
                "id": f"Z2lkOi8v{row['id']:X}",
                "hostname": row["name"],
                "nickname": row["display_name"],
                "group_id": f"G{row['organization']['id']}",
                "tags": row["tags"],
                "online": row["status"] == "online",
                "maintenance_mode": False,
                "total_memory": int(row["memory_gb"] * 2**30),
                "serial_number": row["serial_number"],
                "last_logged_in_user": row["last_user"],
                "last_seen_at": row["last_seen_at"],
                "last_reboot_time": None,
                "operating_system": {"full_operating_system": row["os"]["name"], "major_version": row["os"]["version"]},
                "cpus": [{"model": row["model"], "cores": row["cpu_cores"]}],
                "security": {"score": None, "risk": "low", "firewall_enabled": True},
            }
            for row in DEVICES[:number]
        ]
        groups = [
            {
                "id": f"G{row['id']}",
                "name": row["name"],
                "parent_id": None if row["id"] < 9 else "G1",
                "device_count": 3,
            }
            for row in ORGANIZATIONS[:number]
        ]
        severities = {"information": "information", "minor": "warning", "major": "critical", "critical": "emergency"}
        alerts = [
            {
                "id": f"A{row['id']}",
                "device_id": f"Z2lkOi8v{row['device_id']:X}",
                "name": row["type"],
                "description": row["message"],
                "payload": row["note"],
                "severity": severities[row["severity"]],
                "is_resolved": row["resolved_at"] is not None,
                "started_at": row["opened_at"],
                "resolved_at": row["resolved_at"],
            }
            for row in ALERTS[:number]
        ]
        updates = [
            {
                "id": f"U{row['id']}",
                "device_id": f"Z2lkOi8v{row['device_id']:X}",
                "name": row["name"],
                "category": row["severity"],
                "is_available": row["installed_at"] is None,
                "installed_on": row["installed_at"],
            }
            for row in PATCHES[:number]
        ]
        included = ("operating_system", "cpus", "memory", "disks", "network_interfaces", "security")
        return {
            "/v2/devices": found(devices, "group_id", *(f"include_{name}" for name in included)),
            "/v2/groups": found(groups),
            "/v2/alerts": found(alerts, "device_id", "status"),
            "/v2/updates": found(updates, "device_id", "status"),
        }

    def resources(self) -> Mapping[str, Rows]:
        return {path.rpartition("/")[2]: found.rows for path, found in self.lists.items()}

    def respond(self, asked: Asked) -> Say:
        if asked.headers.get("authorization") != KEY:  # the key as it is, without a scheme
            return Say({"error": "unauthorized"}, 401)
        if (found := self.lists.get(asked.path)) is None:
            return NOT_FOUND
        rows = found.rows
        if asked.path == "/v2/devices":  # these are sent on request only
            left_out = {
                name for name in ("operating_system", "cpus", "security") if asked.first(f"include_{name}") != "true"
            }
            rows = [{name: value for name, value in row.items() if name not in left_out} for row in rows]
        after = asked.first("starting_after")
        known = [row["id"] for row in rows]
        if after and after not in known:
            return Say({"error": "unknown cursor"}, 400)
        start = known.index(after) + 1 if after else 0
        part = rows[start : start + found.size(asked.first("limit"))]
        return Say({"data": self.page(asked, found, part), "has_more": start + len(part) < len(rows)})


class Atera(Dialect):
    """Atera: page numbers from 1, at most 50 rows, `""` where there is no next page. Its OpenAPI description."""

    profile = "atera"
    hosts = ("app.atera.com",)
    page_size = 50
    agents_number = 7

    @cached_property
    def lists(self) -> Mapping[str, List]:
        number = three_pages(50)

        def found(rows: Rows, *more: str) -> List:
            return List(rows, 50, 20, frozenset({"page", "itemsInPage", *more}))

        customers = [
            {
                "CustomerID": 2**40 + row["id"],
                "CustomerName": row["name"],
                "CreatedOn": row["created_at"],
                "LastModified": row["updated_at"],
                "City": row["city"],
                "Country": row["country"],
                "Notes": row["description"],
                "Longitude": None,
            }
            for row in ORGANIZATIONS[:number]
        ]
        contacts = [
            {
                "EndUserID": row["id"],
                "CustomerID": 2**40 + row["id"],
                "Firstname": row["contact"]["name"].split(" ")[0] if row["contact"]["name"] else None,
                "Email": row["contact"]["email"],
                "Phone": row["contact"]["phone"],
                "Lastname": row["city"],
                "MobilePhone": "",
                "IsContactPerson": row["is_internal"],
                "CreatedOn": row["created_at"],
                "LastModified": row["updated_at"],
                "Archived": False,
            }
            for row in ORGANIZATIONS[:number]
        ]
        agents = [
            {
                "AgentID": row["id"],
                "DeviceGuid": row["uid"],
                "CustomerID": 2**40 + row["organization"]["id"],
                "MachineName": row["name"],
                "AgentName": row["display_name"],
                "Online": row["status"] == "online",
                "LastSeen": row["last_seen_at"],
                "Created": row["created_at"],
                "Modified": row["updated_at"],
                "Memory": int(row["memory_gb"] * 1024),
                "MacAddresses": row["ip_addresses"],
                "CurrentLoggedUsers": row["last_user"],
            }
            for row in DEVICES[:number]
        ]
        words = {"information": "Information", "minor": "Warning", "major": "Warning", "critical": "Critical"}
        alerts = [
            {
                "AlertID": row["id"],
                "AgentId": row["device_id"],
                "Title": row["type"],
                "Severity": words[row["severity"]],
                "AlertMessage": row["message"],
                "Archived": row["resolved_at"] is not None,
                "Created": row["opened_at"],
                "ArchivedDate": row["resolved_at"],
                "SnoozedEndDate": None,
                "DeviceGuid": None,
                "CustomerID": 2**40 + 1,
            }
            for row in ALERTS[:number]
        ]
        tickets = [
            {
                "TicketID": row["id"],
                "TicketNumber": f"{row['id']:08}",
                "TicketTitle": row["message"],
                "EndUserEmail": "ana@example.com",
                "EndUserPhone": None,
                "TicketStatus": "Open" if row["resolved_at"] is None else "Closed",
                "TicketCreatedDate": row["opened_at"],
                "TicketResolvedDate": row["resolved_at"],
                "OnSiteDurationSeconds": 60,
            }
            for row in ALERTS[:number]
        ]
        contracts = [
            {
                "ContractID": row["id"],
                "CustomerID": 2**40 + row["id"],
                "ContractName": row["name"],
                "Active": row["status"] == "active",
                "StartDate": row["created_at"],
                "EndDate": None,
                "HourlyContract": {"Rate": row["price_per_device"]},
            }
            for row in ORGANIZATIONS[:number]
        ]
        snmp = [
            {
                "DeviceID": row["id"],
                "DeviceGuid": row["uid"],
                "Name": row["name"],
                "CustomerID": 2**40 + row["organization"]["id"],
                "Online": row["status"] == "online",
                "Community": "public",
                "Authentication": None,
                "Privacy": None,
                "Port": "161",
            }
            for row in DEVICES[:number]
        ]
        return {
            "/api/v3/customers": found(customers, "FromLastModifiedDate", "SortBy"),
            "/api/v3/contacts": found(contacts, "Email", "Phone", "FromLastModifiedDate", "SortBy"),
            "/api/v3/agents": found(agents),
            "/api/v3/alerts": found(alerts, "alertStatus"),
            "/api/v3/tickets": found(tickets, "customerId", "ticketStatus", "includeRelations"),
            "/api/v3/contracts": found(contracts),
            "/api/v3/devices/snmpdevices": found(snmp, "customerId", "monitoringAgentId"),
        }

    def _patches(self, guid: str) -> tuple[Rows, Rows]:
        """Returns the available and the installed patches of an agent."""
        index = next(at for at, row in enumerate(DEVICES) if row["uid"] == guid)
        mine = PATCHES[5 * index : 5 * index + 5]
        available = [
            {"name": row["name"], "class": row["severity"], "kbId": f"KB{row['id']}", "status": "Pending"}
            for row in mine[:2]
        ]
        # The same patch on each agent: only the agent's GUID distinguishes them.
        installed = [
            {"name": "Servicing Stack", "class": "Updates", "kbId": "KB1", "installDate": "2026-01-02T03:04:05Z"},
            *(
                {
                    "name": row["name"],
                    "class": row["severity"],
                    "kbId": f"KB{row['id']}",
                    "installDate": row["installed_at"],
                }
                for row in mine[2:]
            ),
        ]
        return available, installed

    def resources(self) -> Mapping[str, Rows]:
        names = {"/api/v3/devices/snmpdevices": "snmp_devices"}
        found = {names.get(path, path.rpartition("/")[2]): each.rows for path, each in self.lists.items()}
        guids = [row["DeviceGuid"] for row in found["agents"]]
        for number, name in enumerate(("available_patches", "installed_patches")):
            found[name] = [{**row, "_agents_DeviceGuid": guid} for guid in guids for row in self._patches(guid)[number]]
        return found

    def respond(self, asked: Asked) -> Say:
        if asked.headers.get("x-api-key") != KEY:
            return Say(b"", 401)
        steps = asked.path.split("/")
        if steps[-1] in ("available-patches", "installed-patches"):
            available, installed = self._patches(steps[-2])
            found = List([], 50, 20)
            rows = self.page(asked, found, available if steps[-1] == "available-patches" else installed)
            name = "availableUpdates" if steps[-1] == "available-patches" else "installedUpdates"
            return Say({"deviceGuid": steps[-2], "timestamp": "2026-01-02T03:04:05Z", name: rows})
        if (found_list := self.lists.get(asked.path)) is None:
            return NOT_FOUND
        size, page = found_list.size(asked.first("itemsInPage")), asked.number("page", 1)
        rows = found_list.rows[(page - 1) * size : page * size]
        pages = -(-len(found_list.rows) // size)

        def link(number: int) -> str:
            query = urlencode({"page": number, "itemsInPage": size})
            return f"https://app.atera.com{asked.path}?{query}" if 1 <= number <= pages else ""

        return Say({
            "items": self.page(asked, found_list, rows), "page": page, "itemsInPage": size,
            "totalItemCount": len(found_list.rows), "totalPages": pages, "prevLink": link(page - 1), "nextLink": link(page + 1),
        })  # fmt: skip


class Syncro(Dialect):
    """Syncro: page numbers from 1 in fixed pages. Its OpenAPI description."""

    profile = "syncro"
    settings: ClassVar[Mapping[str, str]] = {"subdomain": "acme"}
    hosts = ("acme.syncromsp.com",)

    @cached_property
    def lists(self) -> Mapping[str, List]:
        def found(rows: Rows, size: int, *more: str) -> List:
            return List(rows, size, size, frozenset({"page", *more}))

        customers = [
            {
                "id": row["id"],
                "fullname": row["contact"]["name"],
                "business_name": row["name"],
                "email": row["contact"]["email"],
                "phone": row["contact"]["phone"],
                "mobile": None,
                "disabled": row["status"] == "suspended",
                "notes": row["description"],
                "online_profile_url": f"https://acme.syncromsp.com/my_profile/v2/index?portal_key={row['id']}",
                "created_at": row["created_at"],
                "updated_at": row["updated_at"],
            }
            for row in ORGANIZATIONS[: three_pages(25)]
        ]
        contacts = [
            {
                "id": row["id"],
                "name": row["contact"]["name"],
                "customer_id": row["id"],
                "email": row["contact"]["email"],
                "phone": row["contact"]["phone"],
                "latitude": 67.92905002829,
                "mobile": row["contact"]["phone"],
                "opt_out": False,
                "created_at": row["created_at"],
                "updated_at": row["updated_at"],
            }
            for row in ORGANIZATIONS[: three_pages(50)]
        ]
        assets = [
            {
                "id": row["id"],
                "name": row["name"],
                "customer_id": row["organization"]["id"],
                "asset_type": row["device_class"],
                "asset_serial": row["serial_number"],
                "properties": {"OS": row["os"]["name"], "Memory": row["memory_gb"]},
                "created_at": row["created_at"],
                "updated_at": row["updated_at"],
            }
            for row in DEVICES[: three_pages(25)]
        ]
        alerts = [
            {
                "id": row["id"],
                "customer_id": 1,
                "asset_id": row["device_id"],
                "description": row["message"],
                "resolved": row["resolved_at"] is not None,
                "status": row["status"],
                "created_at": row["opened_at"],
                "updated_at": row["updated_at"],
            }
            for row in ALERTS[: three_pages(25)]
        ]
        tickets = [
            {
                "id": row["id"],
                "number": row["id"] + 1000,
                "subject": row["message"],
                "customer_id": 1,
                "status": "New" if row["resolved_at"] is None else "Resolved",
                "tag_list": [],
                "created_at": row["opened_at"],
                "updated_at": row["updated_at"],
                "resolved_at": row["resolved_at"],
                "due_date": row["opened_at"],
            }
            for row in ALERTS[: three_pages(50)]
        ]
        invoices = [
            {
                "id": row["id"],
                "customer_id": row["id"],
                "number": f"{row['id']:04}",
                "total": f"{row['price_per_device']}",
                "is_paid": row["is_internal"],
                "created_at": row["created_at"],
                "updated_at": row["updated_at"],
            }
            for row in ORGANIZATIONS[: three_pages(25)]
        ]
        contracts = [
            {
                "id": row["id"],
                "customer_id": row["id"],
                "name": row["name"],
                "contract_amount": "30k",
                "created_at": row["created_at"],
                "updated_at": row["updated_at"],
            }
            for row in ORGANIZATIONS[: three_pages(50)]
        ]
        timers = [
            {
                "id": row["id"],
                "ticket_id": row["id"],
                "start_time": row["opened_at"],
                "end_time": row["resolved_at"],
                "billable": False,
                "billable_time": 120,
                "notes": row["note"],
            }
            for row in ALERTS[: three_pages(100)]
        ]
        return {
            "/customers": found(customers, 25, "sort", "query", "include_disabled"),
            "/contacts": found(contacts, 50, "customer_id"),
            "/customer_assets": found(assets, 25, "snmp_enabled", "customer_id", "asset_type_id", "query"),
            "/rmm_alerts": found(alerts, 25, "status"),
            "/tickets": found(
                tickets, 50, "customer_id", "created_after", "since_updated_at", "status", "resolved_after"
            ),
            "/invoices": found(invoices, 25, "paid", "unpaid", "ticket_id", "since_updated_at"),
            "/contracts": found(contracts, 50),
            "/ticket_timers": found(timers, 100, "created_at_lt", "created_at_gt"),
        }

    selectors: ClassVar[Mapping[str, str]] = {"/customer_assets": "assets"}

    def resources(self) -> Mapping[str, Rows]:
        names = {"/customer_assets": "assets", "/rmm_alerts": "alerts"}
        return {names.get(path, path[1:]): found.rows for path, found in self.lists.items()}

    def respond(self, asked: Asked) -> Say:
        if asked.headers.get("authorization") != f"Bearer {KEY}":
            return Say({"error": "Not authorized"}, 401)
        path = asked.path.removeprefix("/api/v1")
        found = self.lists.get(path)
        if found is None or path == asked.path:
            return NOT_FOUND
        rows = found.rows
        if path == "/customers" and asked.first("include_disabled") != "true":
            rows = [row for row in rows if not row["disabled"]]
        status = asked.first("status", "active")
        if path == "/rmm_alerts" and status != "all":
            rows = [row for row in rows if row["resolved"] is (status == "resolved")]
        if since := asked.first("since_updated_at"):
            rows = [row for row in rows if row["updated_at"] > since]
        page = max(asked.number("page", 1), 1)
        part = self.page(asked, found, rows[(page - 1) * found.most : page * found.most])
        meta: Row = {"total_pages": -(-len(rows) // found.most), "page": page}
        if path in ("/contacts", "/contracts"):
            meta |= {"total_entries": len(rows), "per_page": found.most}
        return Say({self.selectors.get(path, path[1:]): part, "meta": meta})


class Tactical(Dialect):
    """Tactical RMM's beta API: Django REST framework, at most 1000 rows a page. Its source code."""

    profile = "tactical_rmm_beta"
    settings: ClassVar[Mapping[str, str]] = {"host": "api.acme.example"}
    hosts = ("api.acme.example",)
    page_size = 1000

    @cached_property
    def lists(self) -> Mapping[str, List]:
        def found(rows: Rows, *more: str) -> List:
            return List(rows, 1000, 100, frozenset({"page", "page_size", *more}))

        number = three_pages(1000)
        clients = [
            {"id": row["id"], "name": row["name"], "created_time": row["created_at"]} for row in ORGANIZATIONS[:number]
        ]
        sites = [{"id": row["id"], "client": row["id"], "name": row["city"]} for row in ORGANIZATIONS[:number]]
        agents = [
            {
                "id": row["id"],
                "agent_id": row["uid"].replace("-", ""),
                "hostname": row["name"],
                "site": row["organization"]["id"],
                "operating_system": row["os"]["name"],
                "last_seen": row["last_seen_at"],
                "boot_time": 1764000000.25 + row["id"],
                "total_ram": int(row["memory_gb"]),
                "needs_reboot": row["needs_reboot"],
                "logged_in_username": row["last_user"],
                "last_logged_in_user": None,
                "public_ip": next(iter(row["ip_addresses"] or ["198.51.100.7"])),
                "disks": [{"device": "C:", "total": f"{row['disk']['total_gb']} GB"}],
            }
            for row in DEVICES[:number]
        ]
        return {
            "/beta/v1/client/": found(clients),
            "/beta/v1/site/": found(sites),
            "/beta/v1/agent/": found(agents, "last_seen_range_after", "last_seen_range_before"),
        }

    def resources(self) -> Mapping[str, Rows]:
        return {f"{path.split('/')[3]}s": found.rows for path, found in self.lists.items()}

    def respond(self, asked: Asked) -> Say:
        if not asked.path.startswith("/beta/"):  # the dashboard answers everything with its page
            return Say(b"<!DOCTYPE html><html></html>", headers=(("Content-Type", "text/html"),))
        if asked.headers.get("x-api-key") != KEY:
            return Say({"detail": "Authentication credentials were not provided."}, 401)
        if (found := self.lists.get(asked.path)) is None:
            return NOT_FOUND
        size, page = found.size(asked.first("page_size")), asked.number("page", 1)
        rows = found.rows[(page - 1) * size : page * size]
        if not rows:
            return Say({"detail": "Invalid page."}, 404)
        host = asked.headers["host"]
        more = page * size < len(found.rows)
        url = f"http://{host}{asked.path}?{urlencode({'page': page + 1, 'page_size': size})}" if more else None
        return Say({"count": len(found.rows), "next": url, "previous": None, "results": self.page(asked, found, rows)})


class Hudu(Dialect):
    """Hudu: page numbers from 1 without a total. Its OpenAPI description; the sizes of pages from a maintained client."""

    profile = "hudu"
    settings: ClassVar[Mapping[str, str]] = {"host": "acme.huducloud.com"}
    hosts = ("acme.huducloud.com",)
    page_size = 100
    page_sizes: ClassVar[Mapping[str, int]] = {"asset_layouts": 25}

    @cached_property
    def lists(self) -> Mapping[str, List]:
        number = three_pages(100)

        def found(rows: Rows, *more: str) -> List:
            return List(rows, 1000, 25, frozenset({"page", "page_size", *more}))

        companies = [
            {
                "id": row["id"],
                "name": row["name"],
                "nickname": row["description"],
                "city": row["city"],
                "archived": False,
                "created_at": row["created_at"],
                "updated_at": row["updated_at"],
            }
            for row in ORGANIZATIONS[:number]
        ]
        assets = [
            {
                "id": row["id"],
                "company_id": row["organization"]["id"],
                "asset_layout_id": 3,
                "name": row["name"],
                "primary_serial": row["serial_number"],
                "archived": False,
                "fields": [{"label": "OS", "value": row["os"]["name"]}, {"label": "User", "value": row["last_user"]}],
                "created_at": row["created_at"],
                "updated_at": row["updated_at"],
            }
            for row in DEVICES[:number]
        ]
        layouts = [{"id": row["id"], "name": row["name"], "active": True} for row in ORGANIZATIONS[:number]]
        articles = [
            {
                "id": row["id"],
                "company_id": None,
                "name": row["type"],
                "content": f"<p>{row['message']}</p>",
                "created_at": row["opened_at"],
                "updated_at": row["updated_at"],
            }
            for row in ALERTS[:number]
        ]
        return {
            "/api/v1/companies": found(companies),
            "/api/v1/assets": found(assets, "archived", "company_id", "updated_at"),
            "/api/v1/asset_layouts": List(layouts, 25, 25, frozenset({"page", "updated_at"})),
            "/api/v1/articles": found(articles, "company_id", "updated_at"),
        }

    def resources(self) -> Mapping[str, Rows]:
        return {path.rpartition("/")[2]: found.rows for path, found in self.lists.items()}

    def respond(self, asked: Asked) -> Say:
        if asked.headers.get("x-api-key") != KEY:
            return Say({"error": "Invalid API key"}, 401)
        if (found := self.lists.get(asked.path)) is None:
            return NOT_FOUND
        size, page = found.size(asked.first("page_size")), max(asked.number("page", 1), 1)
        rows = found.rows
        start, comma, end = asked.first("updated_at").partition(",")
        # For assets, a range without an end is not one.
        if comma and (end or "assets" not in asked.path):
            rows = [row for row in rows if start <= row["updated_at"] and (not end or row["updated_at"] <= end)]
        rows = rows[(page - 1) * size : page * size]
        return Say({asked.path.rpartition("/")[2]: self.page(asked, found, rows)})


class VsaX(Dialect):
    """VSA 10: `$skip` and `$top`, at most 100 rows. A maintained client."""

    profile = "vsa_x"
    settings: ClassVar[Mapping[str, str]] = {"tenant": "acme", "token_id": "t0k3n"}
    hosts = ("acme.vsax.net",)
    page_size = 100

    @cached_property
    def lists(self) -> Mapping[str, List]:
        number = three_pages(100)
        params = frozenset({"$skip", "$top", "$count", "$filter", "$orderby"})
        devices = [
            {
                "Identifier": row["uid"],
                "Name": row["name"],
                "Description": row["display_name"],
                "IsAgentInstalled": True,
            }
            for row in DEVICES[:number]
        ]
        assets = [
            {
                "Identifier": row["uid"],
                "Name": row["name"],
                "LastSeenOnline": row["last_seen_at"],
                "AssetInfo": [{"CategoryName": "System", "CategoryData": {"Model": row["model"]}}],
                "IpAddresses": row["ip_addresses"],
            }
            for row in DEVICES[:number]
        ]
        return {"/api/v3/devices": List(devices, 100, 50, params), "/api/v3/assets": List(assets, 100, 50, params)}

    def resources(self) -> Mapping[str, Rows]:
        return {path.rpartition("/")[2]: found.rows for path, found in self.lists.items()}

    def respond(self, asked: Asked) -> Say:
        if asked.basic != ("t0k3n", KEY):
            return Say({"Meta": {"ResponseCode": 401}}, 401)
        if (found := self.lists.get(asked.path)) is None:
            return NOT_FOUND
        start = asked.number("$skip", 0)
        rows = found.rows[start : start + found.size(asked.first("$top"))]
        return Say({"Data": self.page(asked, found, rows), "Meta": {"ResponseCode": 200}})


class ConnectWise(Dialect):
    """ConnectWise PSA: bare lists with a Link header, at most 1000 rows. Maintained clients."""

    profile = "connectwise_psa"
    settings: ClassVar[Mapping[str, str]] = {
        "region": "eu",
        "company": "acme",
        "public_key": "pu8l1c",
        "client_id": "0b5c6f1e-1111-4222-8333-444455556666",
    }
    hosts = ("api-eu.myconnectwise.net",)
    page_size = 1000

    @cached_property
    def lists(self) -> Mapping[str, List]:
        number = three_pages(1000)
        params = frozenset({"page", "pageSize", "pageId", "conditions", "orderBy", "fields"})

        def found(rows: Rows) -> List:
            return List(rows, 1000, 25, params)

        def info(changed: str | None) -> Row:
            return {"lastUpdated": changed, "updatedBy": "api"}

        companies = [
            {
                "id": row["id"],
                "name": row["name"],
                "status": {"id": 1, "name": row["status"]},
                "_info": info(row["updated_at"]),
            }
            for row in ORGANIZATIONS[:number]
        ]
        contacts = [
            {
                "id": row["id"],
                "firstName": row["contact"]["name"],
                "lastName": None,
                "company": {"id": row["id"], "name": row["name"]},
                "_info": info(row["updated_at"]),
            }
            for row in ORGANIZATIONS[:number]
        ]
        configurations = [
            {
                "id": row["id"],
                "name": row["name"],
                "serialNumber": row["serial_number"],
                "company": row["organization"],
                "activeFlag": True,
                "_info": info(row["updated_at"]),
            }
            for row in DEVICES[:number]
        ]
        tickets = [
            {
                "id": row["id"],
                "summary": row["message"],
                "status": {"id": 2, "name": row["status"]},
                "closedFlag": row["resolved_at"] is not None,
                "_info": info(row["updated_at"]),
            }
            for row in ALERTS[:number]
        ]
        agreements = [
            {
                "id": row["id"],
                "name": row["name"],
                "billAmount": row["price_per_device"],
                "_info": info(row["updated_at"]),
            }
            for row in ORGANIZATIONS[:number]
        ]
        entries = [
            {"id": row["id"], "actualHours": row["id"] / 4, "notes": row["note"], "_info": info(row["updated_at"])}
            for row in ALERTS[:number]
        ]
        return {
            "/company/companies": found(companies),
            "/company/contacts": found(contacts),
            "/company/configurations": found(configurations),
            "/service/tickets": found(tickets),
            "/finance/agreements": found(agreements),
            "/time/entries": found(entries),
        }

    def resources(self) -> Mapping[str, Rows]:
        names = {"/time/entries": "time_entries"}
        return {names.get(path, path.rpartition("/")[2]): found.rows for path, found in self.lists.items()}

    def respond(self, asked: Asked) -> Say:
        if asked.basic != ("acme+pu8l1c", KEY) or asked.headers.get("clientid") != self.settings["client_id"]:
            return Say({"code": "Unauthorized", "message": "Invalid or missing clientId"}, 401)
        path = asked.path.removeprefix("/v4_6_release/apis/3.0")
        found = self.lists.get(path)
        if found is None or path == asked.path:
            return NOT_FOUND
        size, page = found.size(asked.first("pageSize")), asked.number("page", 1)
        # Without an order, rows can move between pages.
        rows = found.rows if asked.first("orderBy") == "id asc" else found.rows[page:] + found.rows[:page]
        if condition := asked.first("conditions"):
            # A time is in brackets, in UTC and without a fraction.
            matched = re.fullmatch(r"lastUpdated>\[(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ)\]", condition)
            if matched is None:
                return Say({"code": "InvalidCondition", "message": condition}, 400)
            rows = [row for row in rows if row["_info"]["lastUpdated"] > matched[1]]
        part = rows[(page - 1) * size : page * size]
        pages = -(-len(rows) // size)

        def link(number: int, relation: str) -> str:
            query = {name: values[0] for name, values in asked.query.items()} | {"page": str(number)}
            return f'<http://{asked.headers["host"]}{asked.path}?{urlencode(query)}>; rel="{relation}"'

        links = [link(page + 1, "next"), link(pages, "last")] if page < pages else [link(1, "first")]
        return Say(self.page(asked, found, part), headers=(("Link", ", ".join(links)),))


class Jamf(Sessions):
    """Jamf Pro: page numbers from 0, OAuth client credentials with short tokens. Its reference."""

    profile = "jamf_pro"
    settings: ClassVar[Mapping[str, str]] = {"host": "acme.jamfcloud.com", "client_id": "c11e-n7"}
    hosts = ("acme.jamfcloud.com",)
    page_size = 200
    lifetime = 1200

    @cached_property
    def lists(self) -> Mapping[str, List]:
        number = three_pages(200)
        params = {"page", "page-size", "sort"}

        def found(rows: Rows, *more: str) -> List:
            return List(rows, 2000, 100, frozenset({*params, *more}))

        computers = [
            {
                "id": str(row["id"]),
                "udid": row["uid"],
                "general": {
                    "name": row["name"],
                    "lastContactTime": row["last_seen_at"],
                    "remoteManagement": {"managed": True},
                },
                "hardware": {"model": row["model"], "serialNumber": row["serial_number"]},
                "operatingSystem": {"name": row["os"]["name"], "version": row["os"]["version"]},
                "userAndLocation": {
                    "username": row["last_user"],
                    "realname": row["last_user"],
                    "email": None,
                    "phone": "",
                },
                "security": {"firewallEnabled": True},
                "diskEncryption": None,
            }
            for row in DEVICES[:number]
        ]
        mobile = [
            {
                "id": str(row["id"]),
                "name": row["name"],
                "serialNumber": row["serial_number"],
                "username": row["last_user"],
            }
            for row in DEVICES[:number]
        ]
        buildings = [{"id": str(row["id"]), "name": row["name"], "city": row["city"]} for row in ORGANIZATIONS[:number]]
        plain = [{"id": str(row["id"]), "name": row["name"]} for row in ORGANIZATIONS[:number]]
        return {
            "/api/v1/computers-inventory": found(computers, "section", "filter"),
            "/api/v2/mobile-devices": found(mobile),
            "/api/v1/buildings": found(buildings, "filter"),
            "/api/v1/departments": found(plain, "filter"),
            "/api/v1/categories": found([{**row, "priority": 9} for row in plain], "filter"),
        }

    sections: ClassVar[Mapping[str, str]] = {
        "GENERAL": "general", "HARDWARE": "hardware", "OPERATING_SYSTEM": "operatingSystem",
        "USER_AND_LOCATION": "userAndLocation", "SECURITY": "security",
    }  # fmt: skip

    def resources(self) -> Mapping[str, Rows]:
        names = {"/api/v1/computers-inventory": "computers", "/api/v2/mobile-devices": "mobile_devices"}
        return {names.get(path, path.rpartition("/")[2]): found.rows for path, found in self.lists.items()}

    def respond(self, asked: Asked) -> Say:
        if asked.path == "/api/oauth/token":
            wanted = {"client_id": "c11e-n7", "client_secret": KEY, "grant_type": "client_credentials"}
            if asked.method != "POST" or dict(asked.form) != wanted:
                return Say({"error": "invalid_client"}, 401)
            return Say(
                {"access_token": self.issue(), "scope": "api-role:2", "token_type": "Bearer", "expires_in": 1199}
            )
        if not self.may(asked):
            return Say({"httpStatus": 401, "errors": []}, 401)
        if (found := self.lists.get(asked.path)) is None:
            return NOT_FOUND
        size, page = found.size(asked.first("page-size")), asked.number("page", 0)
        rows: list[dict[str, Any]] = found.rows
        if asked.path == "/api/v1/computers-inventory":  # other sections are null
            shown = {self.sections.get(name, "") for name in asked.query.get("section", ["GENERAL"])}
            rows = [
                {name: value if name in shown or name in ("id", "udid") else None for name, value in row.items()}
                for row in rows
            ]
        part = self.page(asked, found, rows[page * size : (page + 1) * size])
        return Say({"totalCount": len(rows), "results": part})


class EndpointCentral(Dialect):
    """ManageEngine Endpoint Central on premises: page numbers from 1, at most 1000 rows, `--` for empty. ManageEngine's pages."""

    profile = "manageengine"
    settings: ClassVar[Mapping[str, str]] = {"host": "ec.example.com:8383"}
    hosts = ("ec.example.com:8383",)
    page_size = 1000

    @cached_property
    def lists(self) -> Mapping[str, List]:
        number = three_pages(1000) - 100
        params = frozenset({"page", "pagelimit", "searchtype", "searchcolumn", "searchvalue"})
        # The fleet's first 2300 rows fill two pages and a part of a third.
        computers = [
            {
                "resource_id": 2**40 + row["id"],
                "resource_name": row["model"],
                "computer_live_status": 1 if row["status"] == "online" else 2,
                "agent_last_contact_time": Millis.of(row["last_seen_at"]),
                "agent_installed_on": Millis.of(row["created_at"]),
                "agent_logged_on_users": row["last_user"] or "--",
                "search_tag": "--",
                "os_platform": 1,
            }
            for row in DEVICES[:number]
        ]
        systems = [
            {
                "resource_id": row["id"],
                "resource_name": row["model"],
                "resource_health_status": 2,
                "total_driver_patches": 0,
            }
            for row in DEVICES[:number]
        ]
        patches = [
            {"patch_id": row["id"], "bulletin_id": "--", "patch_name": row["name"], "missing": 3, "severity": 4}
            for row in PATCHES[:number]
        ]
        scanned = [
            {"resource_id": row["id"], "scan_status": 2, "last_successful_scan": Millis.of(row["updated_at"])}
            for row in DEVICES[:number]
        ]
        software = [
            {"software_id": row["id"], "software_name": row["vendor"], "software_version": "--", "network_instances": 3}
            for row in PATCHES[:number]
        ]
        return {
            path: List(rows, 1000, 25, params)
            for path, rows in {
                "/som/computers": computers, "/patch/allsystems": systems, "/patch/allpatches": patches,
                "/inventory/scancomputers": scanned, "/inventory/software": software,
            }.items()
        }  # fmt: skip

    def resources(self) -> Mapping[str, Rows]:
        names = ("computers", "patch_systems", "patches", "scanned_computers", "software")
        return {
            name: [{key: None if value == "--" else value for key, value in row.items()} for row in found.rows]
            for name, found in zip(names, self.lists.values(), strict=True)
        }

    def respond(self, asked: Asked) -> Say:
        if asked.headers.get("authorization") != KEY:  # the key as it is, without a scheme
            return Say({"status": "error", "error_code": "10002", "error_description": "Invalid or expired token"}, 401)
        path = asked.path.removeprefix("/api/1.4")
        if (found := self.lists.get(path)) is None:
            return NOT_FOUND
        size, page = found.size(asked.first("pagelimit")), asked.number("page", 1)
        entity = path.rpartition("/")[2]
        rows = self.page(asked, found, found.rows[(page - 1) * size : page * size])
        response = {"total": len(found.rows), "limit": size, "page": page, entity: rows}
        return Say(
            {"message_type": entity, "message_response": response, "message_version": "1.0", "status": "success"}
        )

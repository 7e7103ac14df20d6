"""Speaks the API of N-able N-sight, which answers in XML."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar
from xml.etree import ElementTree

from rmm_assets_tests.http.servers import Say
from rmm_assets_tests.vendors.dialect import ALERTS, DEVICES, KEY, ORGANIZATIONS, Asked, Dialect, List, Row, Rows, Whole

CLIENTS = 37


class NSight(Dialect):
    """N-sight: one address, whose parameter `service` picks the list; XML without pages. N-able's pages."""

    profile = "nsight"
    settings: ClassVar[Mapping[str, str]] = {"host": "www.systemmonitor.us"}
    hosts = ("www.systemmonitor.us",)
    unpaged = frozenset({"clients", "sites", "servers", "workstations", "failing_checks"})

    def _clients(self) -> Rows:
        return [
            {"name": row["name"], "clientid": row["id"], "dashboard_username": row["contact"]["email"], "timezone": None,
             "server_count": 1, "workstation_count": 2, "device_count": 3}
            for row in ORGANIZATIONS[:CLIENTS]
        ]  # fmt: skip

    def _sites(self, client: int) -> Rows:
        return [
            {"siteid": 1000 * client + index, "name": "Main & Co", "connection_ok": "1"} for index in range(client % 3)
        ]

    def _devices(self, kind: str, site: int) -> Rows:
        return [
            {
                f"{kind}id": 10 * site + index,
                "name": row["model"],
                "online": int(row["status"] == "online"),
                "os": row["os"]["name"],
                **({"user": row["last_user"], "external_ip": "198.51.100.7"} if kind == "workstation" else {}),
            }
            for index, row in enumerate(DEVICES[: site % 4 + 1])
        ]

    def _failing(self, client: int) -> Rows:
        """Returns a client with its sites that have failing checks; an element that is repeated in a response is a list."""

        def checks(site: int) -> Rows:
            return [
                {"checkid": f"{site}{index}", "description": row["type"], "formatted_output": row["message"]}
                for index, row in enumerate(ALERTS[site % 50 : site % 50 + 2])
            ]

        sites = [
            Whole(
                name=site["name"],
                servers={
                    "server": {"name": f"SRV{site['siteid']}", "failed_checks": {"check": checks(site["siteid"])}}
                },
                workstations=None,
            )
            for site in self._sites(client)
        ]
        return [{"name": f"Client {client}", "site": sites if len(sites) > 1 else sites[0]}] if sites else []

    def resources(self) -> Mapping[str, Rows]:
        clients = self._clients()
        sites = [
            {**site, "_clients_clientid": row["clientid"]} for row in clients for site in self._sites(row["clientid"])
        ]

        def devices(kind: str) -> Rows:
            return [
                {**device, "_sites_siteid": site["siteid"]}
                for site in sites
                for device in self._devices(kind, site["siteid"])
            ]

        return {
            "clients": clients,
            "sites": sites,
            "servers": devices("server"),
            "workstations": devices("workstation"),
            "failing_checks": [
                {**found, "_clients_clientid": row["clientid"]}
                for row in clients
                for found in self._failing(row["clientid"])
            ],
        }

    def respond(self, asked: Asked) -> Say:
        if asked.path != "/api/" or asked.first("apikey") != KEY:
            return Say(b"", 403)
        service = asked.first("service")
        kinds = {
            "list_clients": "client",
            "list_sites": "site",
            "list_servers": "server",
            "list_workstations": "workstation",
            "list_failing_checks": "client",
        }
        if (kind := kinds.get(service)) is None:
            return Say(b"", 404)
        of = {"list_clients": "", "list_sites": "clientid", "list_failing_checks": "clientid"}.get(service, "siteid")
        key = asked.number(of, 0)
        if service == "list_failing_checks":
            rows = self._failing(key)
        else:
            rows = (
                self._clients()
                if kind == "client"
                else self._sites(key)
                if kind == "site"
                else self._devices(kind, key)
            )
        params = {"apikey", "service", of}
        return self._xml(kind, self.page(asked, List(rows, 0, 0, frozenset(params)), rows))

    @staticmethod
    def _xml(kind: str, rows: list[Row]) -> Say:
        result = ElementTree.Element("result", created="2026-01-02T03:04:05+00:00", host="SERVER", status="OK")
        items = ElementTree.SubElement(result, "items")
        for row in rows:
            _add(items, kind, row)
        return Say(ElementTree.tostring(result, "utf-8", xml_declaration=True), headers=(("Content-Type", "text/xml"),))


def _add(parent: ElementTree.Element, name: str, value: Any) -> None:
    """Adds a value as elements: one for each item of a list, and for each field of an object one within it."""
    for each in value if isinstance(value, list) else [value]:
        element = ElementTree.SubElement(parent, name)
        if isinstance(each, Mapping):
            for key, inner in each.items():
                _add(element, key, inner)
        else:
            element.text = None if each is None else str(each)

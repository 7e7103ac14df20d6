"""Speaks the API of N-able N-sight, which answers in XML."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar
from xml.etree import ElementTree

from rmm_assets_tests.http.servers import Say
from rmm_assets_tests.vendors.dialect import DEVICES, KEY, ORGANIZATIONS, Asked, Dialect, List, Row, Rows

CLIENTS = 37


class NSight(Dialect):
    """N-sight: one address, whose parameter `service` picks the list; XML without pages. N-able's pages."""

    profile = "nsight"
    settings: ClassVar[Mapping[str, str]] = {"host": "www.systemmonitor.us"}
    hosts = ("www.systemmonitor.us",)
    unpaged = frozenset({"clients", "sites", "servers", "workstations"})

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
        }
        if (kind := kinds.get(service)) is None:
            return Say(b"", 404)
        of = "clientid" if kind == "site" else "siteid"
        key = asked.number(of, 0)
        rows = self._clients() if kind == "client" else self._sites(key) if kind == "site" else self._devices(kind, key)
        params = {"apikey", "service"} | (set() if kind == "client" else {of})
        return self._xml(kind, self.page(asked, List(rows, 0, 0, frozenset(params)), rows))

    @staticmethod
    def _xml(kind: str, rows: list[Row]) -> Say:
        result = ElementTree.Element("result", created="2026-01-02T03:04:05+00:00", host="SERVER", status="OK")
        items = ElementTree.SubElement(result, "items")
        for row in rows:
            element = ElementTree.SubElement(items, kind)
            for name, value in row.items():
                ElementTree.SubElement(element, name).text = None if value is None else str(value)
        return Say(ElementTree.tostring(result, "utf-8", xml_declaration=True), headers=(("Content-Type", "text/xml"),))

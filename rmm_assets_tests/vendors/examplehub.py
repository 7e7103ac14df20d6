"""Speaks the API of Examplehub, the made-up vendor of docs/how-to/own-rmm-example.md, as that page describes it."""

from __future__ import annotations

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
    List,
    Millis,
    Row,
    Rows,
    Sessions,
    three_pages,
)


def meant(row: Row) -> Row:
    """Returns a row without the texts that mean no value."""
    return {
        name: meant(value) if isinstance(value, dict) else None if value in ("", "n/a") else value
        for name, value in row.items()
    }


class Examplehub(Sessions):
    """Examplehub: ranges, a map with pages in the body, a cursor with a wrong mark, and lists by device."""

    hosts = ("examplehub.example.com",)
    secrets: ClassVar[Mapping[str, str]] = {"HUB": KEY}
    lifetime = 600

    @cached_property
    def lists(self) -> Mapping[str, List]:
        customers = [{"id": row["id"], "name": row["name"], "city": row["city"]} for row in ORGANIZATIONS]
        devices = [
            {
                "id": row["uid"],
                "name": row["name"],
                "seen": Millis.of(row["last_seen_at"]),
                "user": row["last_user"] or "n/a",
                "serial": row["serial_number"] or "",
                "os": row["os"],
                "tags": row["tags"],
            }
            for row in DEVICES
        ]
        alerts = [
            {
                "id": row["id"],
                "text": row["message"] or "n/a",
                "severity": row["severity"],
                "changed": Millis.of(row["updated_at"]),
            }
            for row in ALERTS
        ]
        return {
            "customers": List(customers[: three_pages(100)], 100, 100, frozenset({"range"})),
            "devices": List(devices[: three_pages(200)], 200, 50),
            "alerts": List(alerts[: three_pages(200)], 200, 50, frozenset({"size", "from", "changedSince"})),
        }

    def _programs(self, device: str) -> Rows | None:
        """Returns the programs of a device; every third device was never scanned."""
        index = [row["id"] for row in self.lists["devices"].rows].index(device)
        if index % 3 == 0:
            return None
        return [
            {"name": row["name"], "installed": row["installed_at"]}
            for row in PATCHES[: index % 4]
        ]  # fmt: skip

    def resources(self) -> Mapping[str, Rows]:
        found = {name: [meant(row) for row in listed.rows] for name, listed in self.lists.items()}
        found["programs"] = [
            {**row, "installed": row["installed"] and f"{row['installed'][:16]}Z", "_devices_id": device["id"]}
            for device in self.lists["devices"].rows
            for row in self._programs(device["id"]) or ()
        ]
        return found

    def respond(self, asked: Asked) -> Say:
        if asked.path == "/api/login":
            if asked.method != "POST" or asked.json != {"user": "reporting", "secret": KEY}:
                return Say({"fault": {"code": "WRONG_LOGIN"}}, 401)
            self.logins += 1
            return Say({"session": {"token": self.issue(), "seconds": 600}})
        if not self.is_valid(asked.headers.get("x-hub-token", "")):
            return Say({"fault": {"code": "NO_SESSION"}}, 401)
        steps = asked.path.removeprefix("/api/north/").split("/")
        if steps[0] == "devices" and steps[2:] == ["programs"]:
            rows = self._programs(steps[1])
            return NOT_FOUND if rows is None else Say({"programs": [self._local(row) for row in rows]})
        if len(steps) > 1 or (found := self.lists.get(steps[0])) is None:
            return NOT_FOUND
        if (asked.method == "PATCH") is not (steps[0] == "devices"):
            return Say({"fault": {"code": "WRONG_METHOD"}}, 405)
        return {"customers": self._customers, "devices": self._devices, "alerts": self._alerts}[steps[0]](asked, found)

    def _customers(self, asked: Asked, found: List) -> Say:
        first, _, last = asked.first("range", "0-99").partition("-")
        start, total = int(first), len(found.rows)
        part = self.page(asked, found, found.rows[start : start + found.size(str(int(last) - start + 1))])
        status = 200 if start + len(part) >= total else 206
        return Say(part, status, (("Content-Range", f"{start}-{start + len(part) - 1}/{total}"),))

    def _devices(self, asked: Asked, found: List) -> Say:
        if asked.json.get("filter") != {"state": "any"}:
            return Say({"fault": {"code": "NO_FILTER"}}, 400)
        size, page = found.size(str(asked.json["page"].get("size", ""))), int(asked.json["page"].get("number", 1))
        part = self.page(asked, found, found.rows[(page - 1) * size : page * size])
        rows = {row["id"]: {name: value for name, value in row.items() if name != "id"} for row in part}
        return Say({"devices": rows, "page": {"number": page, "last": page * size >= len(found.rows)}})

    def _alerts(self, asked: Asked, found: List) -> Say:
        since, start = asked.number("changedSince", 0), asked.number("from", 0)
        rows = sorted((row for row in found.rows if row["changed"] >= since), key=lambda row: row["id"])
        size = found.size(asked.first("size"))
        part = self.page(asked, found, rows[start : start + size])
        following = str(start + size) if start + size < len(rows) else None
        return Say({"result": {"alerts": part, "next": following, "more": True}})

    @staticmethod
    def _local(row: Row) -> Row:
        """Returns a program with its time as Examplehub writes it."""
        if row["installed"] is None:
            return row
        local = datetime.fromisoformat(row["installed"]).astimezone(ZoneInfo("Europe/Vienna"))
        return {**row, "installed": f"{local:%d.%m.%Y %H:%M}"}

"""Serves the devices of several customers, as managed service providers see them: an address and a key for each."""

from __future__ import annotations

from typing import Self
from urllib.parse import parse_qsl, urlsplit

from rmm_assets_tests.http.servers import Say, Scripted, Seen
from rmm_assets_tests.syncing import Row

NORTH, SOUTH, WEST = "north-1", "south", "west"


class Customers:
    """A server with the devices of several customers, each under a path and with a key of its own.

    Attributes:
        devices: The devices of each customer.
        parts: The parts of the devices of each customer, by the id of the device.
        fails: The status with which requests of a customer fail.
        lost: Number of rows that each list has according to its total, but does not send.
    """

    def __init__(self) -> None:
        self.devices: dict[str, list[Row]] = {}
        self.parts: dict[str, dict[int, list[Row]]] = {}
        self.fails: dict[str, int] = {}
        self.lost = 0
        self.server = Scripted(self.answer)

    def __enter__(self) -> Self:
        self.server.__enter__()
        return self

    def __exit__(self, *details: object) -> None:
        self.server.__exit__(*details)

    def answer(self, seen: Seen) -> Say:
        """Returns up to 100 devices of a customer, or parts of a device."""
        url = urlsplit(seen.target)
        _, customer, _, *rest = url.path.split("/")
        given = dict(parse_qsl(url.query))
        if given.get("api_key") != key_of(customer):
            return Say({"error": f"wrong key {given.get('api_key')}"}, status=401)
        if customer in self.fails:
            return Say({"error": "no"}, status=self.fails[customer])
        rows = self.devices[customer] if rest == ["devices"] else self.parts[customer][int(rest[1])]
        start = int(given.get("offset", 0))
        return Say({"data": rows[start : start + 100], "total": len(rows) + self.lost})


def key_of(customer: str) -> str:
    return f"key-of-{customer}-4711"

"""Speaks the API of NetBox: offsets with a total, nested objects, and choices as value and label."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache, cached_property
from typing import Any, ClassVar
from urllib.parse import urlencode

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
)

HOST = "netbox.example.com"
NUMBER = 2034  # two pages and a part of a third


@cache
def _time(text: str) -> str:
    """Returns a time of the fleet as NetBox writes times."""
    return datetime.fromisoformat(text).astimezone(UTC).isoformat().replace("+00:00", "Z")


def _choice(value: Any) -> Row | None:
    return None if value is None else {"value": value, "label": str(value).capitalize()}


def _nested(path: str, number: int, name: str | None, **more: Any) -> Row:
    """Returns an object as it is in a row of another list."""
    url = f"https://{HOST}/api{path}{number}/"
    return {"id": number, "url": url, "display": name or str(number), "name": name, **more, "description": ""}


def _row(path: str, number: int, display: str, fields: Row, source: Row) -> Row:
    """Returns a row of a list, with the fields that all lists have."""
    return {
        "id": number,
        "url": f"https://{HOST}/api{path}{number}/",
        "display_url": f"https://{HOST}{path}{number}/",
        "display": display,
        **fields,
        "tags": [{"id": 4, "name": tag, "slug": tag, "color": "9e9e9e"} for tag in source.get("tags", ())],
        "custom_fields": {"contract": f"C-{number % 7}", "inspected": None},
        "created": _time(source.get("created_at") or source["opened_at"]),
        "last_updated": _time(source["updated_at"]),
    }


class NetBox(Dialect):
    """NetBox: its serializers, filters, paging and tokens of 4.4 to 4.6."""

    profile = "netbox"
    settings: ClassVar[Mapping[str, str]] = {"url": HOST}
    hosts = (HOST,)
    page_size = 1000

    @cached_property
    def lists(self) -> Mapping[str, List]:
        found: dict[str, Rows] = {path: [] for path in _NAMES.values()}

        def add(path: str, number: int, display: str, source: Row, **fields: Any) -> None:
            found[path].append(_row(path, number, display, fields, source))

        for row in ORGANIZATIONS[:NUMBER]:
            number, name, slug = row["id"], row["name"], f"s-{row['id']}"
            described = {"name": name, "slug": slug, "description": row["description"] or ""}
            group = _nested("/tenancy/tenant-groups/", 2, "Customers", slug="customers", _depth=0)
            add("/tenancy/tenants/", number, name, row, **described, group=group if number % 3 else None, site_count=1)
            add(
                "/dcim/sites/", number, name, row, **described, status=_choice("active"), region=None, time_zone="Europe/Berlin",
                tenant=_nested("/tenancy/tenants/", number, name, slug=slug), latitude=50.937500, asns=[], device_count=3,
            )  # fmt: skip
            contact = row["contact"]
            add(
                "/tenancy/contacts/", number, str(contact["name"]), row, groups=[], name=contact["name"], title="",
                phone=contact["phone"] or "", email=contact["email"] or "", address=row["city"] or "", link="",
            )  # fmt: skip
            add("/dcim/manufacturers/", number, name, row, **described, devicetype_count=2)
            add(
                "/dcim/platforms/", number, name, row, **described, _depth=0, parent=None,
                manufacturer=_nested("/dcim/manufacturers/", number, name, slug=slug),
            )  # fmt: skip
            add(
                "/dcim/racks/", number, name, row, name=name, facility_id=None, u_height=42, desc_units=False, outer_width=None,
                site=_nested("/dcim/sites/", number, name, slug=slug), status=_choice("active"), width=_choice(19),
            )  # fmt: skip
            add(
                "/ipam/vlans/", number, f"{name} ({number})", row, vid=number % 4094 + 1, name=name, site=None, group=None,
                status=_choice("reserved"), qinq_role=None, role=None, prefix_count=0,
            )  # fmt: skip
            prefix = f"10.{number // 256}.{number % 256}.0/24"
            add(
                "/ipam/prefixes/", number, prefix, row, family=_choice(4), prefix=prefix, vrf=None, is_pool=False,
                status=_choice("container"), scope_type="dcim.site", scope_id=number, children=0, _depth=2,
                scope=_nested("/dcim/sites/", number, name, slug=slug),
            )  # fmt: skip
        for row in DEVICES[:NUMBER]:
            self._add_device(add, row)
        # Rows from before NetBox had these fields.
        for each in found["/dcim/interfaces/"][:9]:
            each |= {"created": None, "last_updated": None}
        for row in ALERTS[:NUMBER]:
            number, device = row["id"], _nested("/dcim/devices/", row["device_id"], f"device {row['device_id']}")
            add(
                "/extras/journal-entries/", number, row["opened_at"], row, assigned_object_type="dcim.device",
                assigned_object_id=row["device_id"], assigned_object=device, created_by=1, kind=_choice("warning"),
                comments=row["message"],
            )  # fmt: skip
            found["/core/object-changes/"].append({
                "id": 2**33 + number, "url": f"https://{HOST}/api/core/object-changes/{number}/", "display": row["type"],
                "time": _time(row["opened_at"]), "user": _nested("/users/users/", 1, "admin"), "user_name": "admin",
                "request_id": f"00000000-0000-4000-8000-{number:012}", "action": _choice("update"), "message": "",
                "changed_object_type": "dcim.device", "changed_object_id": row["device_id"],
                "changed_object": Whole(device) if number % 5 else None, "object_repr": f"device {row['device_id']}",
                "prechange_data": Whole(status="offline", tags=[]), "postchange_data": Whole(status="active", tags=["vpn"]),
            })  # fmt: skip
        params = frozenset({"limit", "offset", "ordering", "brief", "id__gte", "last_updated__gte"})
        context = frozenset({"exclude"})
        return {
            path: List(rows, 1000, 50, params | context if path in _WITH_CONTEXT else params)
            for path, rows in found.items()
        }

    @staticmethod
    def _add_device(add: Any, row: Row) -> None:
        number, name, kind = row["id"], row["name"], row["model"]
        address = next(iter(row["ip_addresses"]), None)
        primary = _nested("/ipam/ip-addresses/", number, None, address=f"{address}/24", family=_choice(4))
        add(
            "/dcim/device-types/", number, kind, row, model=kind, slug=f"t-{number}", part_number="", u_height=1.0,
            manufacturer=_nested("/dcim/manufacturers/", 1, row["manufacturer"], slug="m"), airflow=None, weight=None,
        )  # fmt: skip
        add(
            "/dcim/devices/", number, name, row, name=name, role=_nested("/dcim/device-roles/", 1, row["device_class"], slug="r"),
            serial=row["serial_number"] or "", asset_tag=None, status=_choice(row["status"]), position=1.5 if number % 4 else None,
            face=_choice("front" if number % 4 else None), site=_nested("/dcim/sites/", 1, "Main", slug="s"),
            primary_ip=primary if address else None, comments=row["display_name"] or "", interface_count=2,
            latitude=50.9375, longitude=None,
            local_context_data=Whole(ntp=["192.0.2.1"]) if number % 9 == 0 else None,
        )  # fmt: skip
        add(
            "/virtualization/virtual-machines/", number, name, row, name=name, status=_choice(row["status"]),
            cluster=_nested("/virtualization/clusters/", 1, "vSphere"), site=None, vcpus=row["cpu_cores"] + 0.5,
            memory=int(row["memory_gb"] * 1024), disk=None, serial="", local_context_data=None, interface_count=1,
        )  # fmt: skip
        device = _nested("/dcim/devices/", number, name)
        add(
            "/dcim/interfaces/", number, "eth0", row, device=device, name="eth0", type=_choice("1000base-t"), enabled=True,
            mtu=None, mac_address="00:00:5E:00:53:01", tagged_vlans=[], cable=None, connected_endpoints=None, _occupied=False,
        )  # fmt: skip
        machine = _nested("/virtualization/virtual-machines/", number, name)
        add(
            "/virtualization/interfaces/",
            number,
            "eth0",
            row,
            virtual_machine=machine,
            name="eth0",
            enabled=False,
            mtu=1500,
        )
        assigned = number % 2 == 0
        add(
            "/ipam/ip-addresses/", number, f"{address}/24", row, address=f"{address}/24", dns_name="", nat_outside=[],
            family=_choice(4), status=_choice("active"), role=_choice(None),
            assigned_object_type="dcim.interface" if assigned else None, assigned_object_id=number if assigned else None,
            assigned_object=_nested("/dcim/interfaces/", number, "eth0", device=device) if assigned else None,
        )  # fmt: skip

    def resources(self) -> Mapping[str, Rows]:
        return {name: self.lists[path].rows for name, path in _NAMES.items()}

    def respond(self, asked: Asked) -> Say:
        scheme, _, token = asked.headers.get("authorization", "").partition(" ")
        if scheme.lower() not in ("token", "bearer"):
            return Say({"detail": "Authentication credentials were not provided."}, 403)
        if token != KEY:
            return Say({"detail": "Invalid v1 token"}, 403)
        path = asked.path.removeprefix("/api")
        if path + "/" in self.lists:
            return Say(b"", 301, (("Location", asked.path + "/"),))
        if (found := self.lists.get(path)) is None:
            return NOT_FOUND
        rows = self._filtered(asked, path, found.rows)
        if rows is None:
            return Say({"last_updated__gte": ["Enter a valid date/time."]}, 400)
        # 0 asks for as many as allowed.
        size = found.most if asked.first("limit") == "0" else found.size(asked.first("limit"))
        start = asked.number("offset", 0)
        part = rows[start : start + size]
        if asked.first("exclude") != "config_context" and path in _WITH_CONTEXT:
            part = [{**row, "config_context": {"ntp": ["192.0.2.1"], f"of-{row['id']}": True}} for row in part]

        def link(offset: int) -> str:
            query = {name: values[0] for name, values in asked.query.items()} | {"limit": size, "offset": offset}
            return f"http://{asked.headers['host']}{asked.path}?{urlencode(query)}"

        following = link(start + size) if start + size < len(rows) else None
        previous = link(max(start - size, 0)) if start else None
        return Say(
            {"count": len(rows), "next": following, "previous": previous, "results": self.page(asked, found, part)}
        )

    @staticmethod
    def _filtered(asked: Asked, path: str, rows: Rows) -> Rows | None:
        """Returns the rows that a request asks for, in its order; None if a time is none."""
        if since := asked.first("last_updated__gte"):
            try:
                from_ = datetime.fromisoformat(since)
            except ValueError:
                return None
            rows = [row for row in rows if (at := row["last_updated"]) and datetime.fromisoformat(at) >= from_]
        if asked.first("id__gte"):
            rows = [row for row in rows if row["id"] >= asked.number("id__gte", 0)]
        if asked.first("ordering") == "id":
            return sorted(rows, key=lambda row: row["id"])
        # By name, and the newest change first.
        newest = path == "/core/object-changes/"
        return sorted(rows, key=lambda row: (row["time"] if newest else row["display"], row["id"]), reverse=newest)


_NAMES = {
    "sites": "/dcim/sites/", "tenants": "/tenancy/tenants/", "contacts": "/tenancy/contacts/",
    "manufacturers": "/dcim/manufacturers/", "device_types": "/dcim/device-types/", "platforms": "/dcim/platforms/",
    "racks": "/dcim/racks/", "devices": "/dcim/devices/", "virtual_machines": "/virtualization/virtual-machines/",
    "interfaces": "/dcim/interfaces/", "vm_interfaces": "/virtualization/interfaces/",
    "ip_addresses": "/ipam/ip-addresses/", "prefixes": "/ipam/prefixes/", "vlans": "/ipam/vlans/",
    "journal_entries": "/extras/journal-entries/", "object_changes": "/core/object-changes/",
}  # fmt: skip
_WITH_CONTEXT = frozenset({"/dcim/devices/", "/virtualization/virtual-machines/"})

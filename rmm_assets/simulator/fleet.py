"""Computes the rows of a made-up fleet from a seed and a tick: organizations, devices, alerts and patches.

Every row is a function of (seed, resource, tick), so all ticks cost the same, and two processes agree without sharing
state. A row never changes without its `updated_at`. See `server` for how rows are served.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from random import Random
from typing import Any
from uuid import UUID

Row = dict[str, Any]

RESOURCES = ("organizations", "devices", "alerts", "patches", "resource")

STATUSES: Mapping[str, tuple[str, ...]] = {
    "organizations": ("active", "trial", "suspended"),
    "devices": ("online", "offline", "warning"),
    "alerts": ("open", "resolved"),
    "patches": ("pending", "installed", "failed"),
    "resource": ("active", "inactive"),
}
"""The possible statuses of each resource's rows."""

SEVERITIES = ("information", "minor", "major", "critical")

# Name, city, country, latitude, longitude, hours east of UTC.
_ORGANIZATIONS = (
    ("Contoso Dental", "Chicago", "US", 41.8781, -87.6298, -6),
    ("Müller & Söhne GmbH", "Köln", "DE", 50.9375, 6.9603, 1),
    ("Pâtisserie L'Étoile", "Montréal", "CA", 45.5019, -73.5674, -5),
    ("Łódź Logistyka", "Łódź", "PL", 51.7592, 19.4560, 1),
    ("東京メディカル株式会社", "東京", "JP", 35.6762, 139.6503, 9),
    ("Ålesund Fisk AS", "Ålesund", "NO", 62.4722, 6.1495, 1),
    ("O'Brien Legal LLP", "Dublin", "IE", 53.3498, -6.2603, 0),
    ("São Bento Imóveis", "São Paulo", "BR", -23.5558, -46.6396, -3),
    ("Θάλασσα Tours", "Αθήνα", "GR", 37.9838, 23.7275, 2),
    ("Riverside School District", "Sacramento", "US", 38.5816, -121.4944, -8),
    ("Šumava Brewery", "České Budějovice", "CZ", 48.9745, 14.4743, 1),
    ("Kiwi Freight Ltd", "Wellington", "NZ", -41.2866, 174.7756, 13),
)

_PEOPLE = (
    "Ana Núñez",
    "Björn Åkesson",
    "Chidi Okafor",
    "Dana Whitfield",
    "Łukasz Nowak",
    "Nguyễn Thị Hoa",
    "Søren Dahl",
    "Tom O'Neill",
    "Yuki 佐藤",
    "Zoë Martin",
)

# Class, name prefix, maker, model, cores, share of the fleet.
_MODELS = (
    ("laptop", "LT", "Lenovo", "ThinkPad T14 Gen 4", 12, 26),
    ("laptop", "NB", "Apple", 'MacBook Pro 14"', 10, 14),
    ("workstation", "WS", "Dell", "OptiPlex 7010", 8, 30),
    ("workstation", "PC", "HP", "EliteDesk 800 G6", 6, 14),
    ("server", "SRV", "Dell", "PowerEdge R650", 32, 10),
    ("server", "VM", "", "Virtual Machine", 4, 6),
)

_SYSTEMS: Mapping[str, tuple[tuple[str, str, str], ...]] = {
    "desktop": (
        ("Windows 11 Pro", "23H2", "22631.4317"),
        ("Windows 11 Pro", "24H2", "26100.2033"),
        ("Windows 10 Pro", "22H2", "19045.5011"),
    ),
    "Apple": (("macOS", "14.7", "23H124"), ("macOS", "15.1", "24B83")),
    "server": (
        ("Windows Server 2022", "21H2", "20348.2762"),
        ("Windows Server 2019", "1809", "17763.6414"),
        ("Debian GNU/Linux", "12", ""),
    ),
}

_TAGS = ("vip", "kiosk", "accounting", "remote", "backup", "pci", "Außendienst", "legacy")

# Type, message, unit of the measured value, its minimum and maximum.
_ALERTS = (
    ("disk_space", "Free space on {drive} is {value} %", "percent", 0.5, 12),
    ("cpu", "CPU above {value} % for 15 minutes", "percent", 85, 100),
    ("memory", "Memory above {value} %", "percent", 90, 100),
    ("agent_offline", "Agent has not reported", None, 0, 0),
    ("antivirus", "Signatures are {value} days old", "days", 3, 40),
    ("backup", "Last backup failed: “quota exceeded”", None, 0, 0),
)

_PATCHES = (
    ("Microsoft", "Cumulative Update for {os} (KB{number})"),
    ("Microsoft", ".NET Framework Security Update (KB{number})"),
    ("Mozilla", "Firefox {major}.0.{minor}"),
    ("Google", "Chrome {major}.0.{number}"),
    ("Adobe", "Acrobat Reader {major}.{minor}"),
    ("7-Zip", "7-Zip {major}.{minor}"),
)


@dataclass(frozen=True)
class _Span:
    """One lifetime of a slot, such as a device's place in the fleet, which is refilled again and again."""

    number: int
    """Counts up from 0, the span that contains tick 0."""
    began: int
    """Its first tick; negative if it began before tick 0."""
    present: bool
    """False in the gap at the end of a span."""


@dataclass(frozen=True, kw_only=True)
class Fleet:
    """A fleet that changes: with every tick, a few statuses change and a few devices are added and removed.

    Args:
        seed: Fleets with the same arguments have the same rows at every tick, on any machine.
        organizations: Number of organizations, which is constant.
        devices: Number of devices at tick 0, an upper bound afterwards (about 2 % fewer).
        alerts: Number of alerts at tick 0, an upper bound afterwards.
        patches: Number of patches at tick 0, an upper bound afterwards.
        resources: Number of rows of the generic resource `resource` at tick 0, an upper bound afterwards.
        null_statuses: Share of the rows, 0 to 1, whose `status` is null.
        start: The fleet's time at tick 0; must have a UTC offset.
        tick_length: The time between two ticks, in the fleet's time.

    Raises:
        ValueError: A size is negative, there are devices but no organizations, the share is not between 0 and 1, or
            `start` has no UTC offset.
    """

    seed: int = 7
    organizations: int = 12
    devices: int = 400
    alerts: int = 250
    patches: int = 900
    resources: int = 250
    null_statuses: float = 0.0
    start: datetime = datetime(2025, 1, 6, 8, 0, tzinfo=UTC)
    tick_length: timedelta = timedelta(minutes=10)

    def __post_init__(self) -> None:
        if min(self.organizations, self.devices, self.alerts, self.patches, self.resources) < 0:
            raise ValueError("a fleet's sizes must not be negative")
        if self.devices and not self.organizations:
            raise ValueError("a fleet with devices needs at least one organization")
        if not 0 <= self.null_statuses <= 1:
            raise ValueError(f"null_statuses must be between 0 and 1, got {self.null_statuses}")
        if self.start.tzinfo is None:
            raise ValueError("start must have a UTC offset")

    def rows(self, resource: str, tick: int = 0) -> list[Row]:
        """Returns the rows of a resource at a tick, sorted by `id`.

        `devices.organization.id`, `alerts.device_id` and `patches.device_id` refer to rows of the same tick.

        Raises:
            KeyError: The fleet has no such resource.
            ValueError: The tick is negative.
        """
        if tick < 0:
            raise ValueError(f"tick must not be negative, got {tick}")
        made = {
            "organizations": self._organizations,
            "devices": self._devices,
            "alerts": self._alerts,
            "patches": self._patches,
            "resource": self._generic,
        }[resource](tick)
        return sorted(made, key=lambda row: row["id"])

    def tick_at(self, moment: datetime) -> int:
        """Returns the tick at a time (with a UTC offset), or 0 before the start; connects the fleet to a real clock."""
        return max(0, (moment - self.start) // self.tick_length)

    def _random(self, *of: object) -> Random:
        # Text seeds are hashed with SHA-512, so every process gets the same numbers, unlike with hash().
        return Random("/".join(map(str, (self.seed, *of))))

    def _span(self, kind: str, slot: int, tick: int, *, ticks: tuple[int, int], gap: int = 0) -> _Span:
        """Returns the span of a slot: `ticks[0]` to `ticks[1]` ticks long, of which the last `gap` are empty."""
        rng = self._random("span", kind, slot)
        length = rng.randint(*ticks)
        # The phase is never in the gap, so at tick 0 every slot is occupied.
        number, age = divmod(tick + rng.randrange(length - gap), length)
        return _Span(number, tick - age, age < length - gap)

    def _device_span(self, slot: int, tick: int) -> _Span:
        return self._span("device", slot, tick, ticks=(100, 300), gap=4)

    def _at(self, tick: int, hours_east: int = 0, *, seconds: int = 0) -> str:
        moment = self.start + tick * self.tick_length + timedelta(seconds=seconds)
        return moment.astimezone(timezone(timedelta(hours=hours_east))).isoformat()

    def _status(self, rng: Random, status: str) -> str | None:
        return None if rng.random() < self.null_statuses else status

    def _organization_name(self, slot: int) -> str:
        name = _ORGANIZATIONS[slot % len(_ORGANIZATIONS)][0]
        return name if slot < len(_ORGANIZATIONS) else f"{name} {slot // len(_ORGANIZATIONS) + 1}"

    def _organizations(self, tick: int) -> Iterator[Row]:
        for slot in range(self.organizations):
            _, city, country, _, _, hours_east = _ORGANIZATIONS[slot % len(_ORGANIZATIONS)]
            fixed = self._random("organization", slot)
            contact, email = fixed.choice(_PEOPLE), f"it{slot + 1}@example.com"
            phone = None if fixed.random() < 0.3 else f"+1 555 01{slot % 100:02}"
            rate = round(fixed.uniform(2, 9), 2)
            founded = self._at(0, hours_east, seconds=-fixed.randrange(86400 * 30, 86400 * 2000))
            span = self._span("organization", slot, tick, ticks=(100, 400))
            now = self._random("organization", slot, span.number)
            yield {
                "id": slot + 1,
                "name": self._organization_name(slot),
                "status": self._status(now, now.choices(STATUSES["organizations"], (90, 7, 3))[0]),
                "description": "" if slot % 4 == 1 else f"Managed since {founded[:4]}",
                "contact": {"name": contact, "email": email, "phone": phone},
                "city": city,
                "country": country,
                "price_per_device": rate,
                "is_internal": slot == 0,
                "created_at": founded,
                "updated_at": self._at(span.began),
            }

    def _devices(self, tick: int) -> Iterator[Row]:
        for slot in range(self.devices):
            life = self._device_span(slot, tick)
            if life.present:
                yield self._device(slot, life, tick)

    def _device(self, slot: int, life: _Span, tick: int) -> Row:
        device_id = self._device_id(slot, life)
        fixed = self._random("device", device_id)
        owner = int(fixed.random() ** 1.5 * self.organizations)  # the power makes some larger than others
        _, city, country, latitude, longitude, hours_east = _ORGANIZATIONS[owner % len(_ORGANIZATIONS)]
        kind, prefix, maker, model, cores, _ = fixed.choices(_MODELS, [m[-1] for m in _MODELS])[0]
        systems = _SYSTEMS["server" if kind == "server" else "Apple" if maker == "Apple" else "desktop"]
        system, version, build = fixed.choice(systems)
        place = {
            "site": fixed.choice(("HQ", "Warehouse", "Büro 2", "Home office")),
            "city": city,
            "country": country,
        }
        located = fixed.random()
        person = None if kind == "server" else fixed.choice(_PEOPLE)
        disk = fixed.choice((256, 512, 1024, 2048))
        subnet, host = f"10.{owner % 256}.{slot // 250 % 256}", slot % 250 + 2
        addresses = [f"{subnet}.{host}"]
        if fixed.random() < 0.4:
            addresses.append(f"fd00:{owner + 1:x}::{slot + 1:x}")
        suffix = "ö" if country == "DE" and fixed.random() < 0.2 else ""
        warranty = None if fixed.random() < 0.2 else f"{fixed.randrange(2024, 2029)}-{fixed.randrange(1, 13):02}-28"
        enrolled = (
            self._at(life.began, hours_east)
            if life.number
            else self._at(0, hours_east, seconds=-fixed.randrange(86400 * 5, 86400 * 900))
        )
        # All values that change do so at the start of a span, so that updated_at reflects every change.
        state = self._span("device state", device_id, tick, ticks=(30, 90))
        since = max(state.began, life.began) if life.number else state.began
        now = self._random("device", device_id, state.number)
        status = now.choices(STATUSES["devices"], (72, 18, 10))[0]
        silent = now.randrange(3600, 86400 * 20) if status == "offline" else now.randrange(60)
        return {
            "id": device_id,
            "uid": str(UUID(int=fixed.getrandbits(128), version=4)),
            "name": f"{prefix}-{country}{suffix}-{slot + 1:04}",
            "display_name": fixed.choice((None, "", f"{person or 'Server room'} / {model}")),
            "organization": {"id": owner + 1, "name": self._organization_name(owner)},
            "location": None
            if located < 0.03
            else {
                **place,
                "latitude": None if located < 0.1 else latitude,
                "longitude": None if located < 0.1 else longitude,
            },
            "status": self._status(now, status),
            "device_class": kind,
            "os": {"name": system, "version": version, "build": build},
            "manufacturer": maker,
            "model": model,
            "serial_number": f"{fixed.getrandbits(40):010X}",
            "ip_addresses": addresses,
            "tags": fixed.sample(_TAGS, fixed.randrange(4)),
            "cpu_cores": cores,
            "memory_gb": fixed.choice((8.0, 16.0, 31.8, 64.0)),
            "disk": {"total_gb": disk, "free_gb": round(disk * now.uniform(0.02, 0.9), 1)},
            "agent_version": f"5.{now.randrange(6, 10)}.{now.randrange(40)}",
            "is_virtual": model == "Virtual Machine",
            "needs_reboot": now.random() < 0.12,
            "last_user": person,
            "last_seen_at": self._at(since, hours_east, seconds=-silent),
            "warranty_until": warranty,
            "created_at": enrolled,
            "updated_at": self._at(since),
        }

    def _device_id(self, slot: int, life: _Span) -> int:
        return 1001 + slot + life.number * self.devices

    def _of_devices(self, kind: str, count: int, tick: int, ticks: tuple[int, int]) -> Iterator[tuple[int, int, int]]:
        """Yields (id, device id, first tick) of each item that belongs to a device present at the tick."""
        for slot in range(count if self.devices else 0):
            device_slot = self._random(kind, slot).randrange(self.devices)
            device, own = self._device_span(device_slot, tick), self._span(kind, slot, tick, ticks=ticks)
            if device.present:
                # Both numbers only increase, so their sum changes whenever either does: an id is never reused.
                thing_id = 1 + slot + (device.number + own.number) * count
                began = max(own.began, device.began) if device.number else own.began
                yield thing_id, self._device_id(device_slot, device), began

    def _alerts(self, tick: int) -> Iterator[Row]:
        for alert_id, device_id, began in self._of_devices("alert", self.alerts, tick, (60, 240)):
            fixed = self._random("alert", alert_id, device_id)
            kind, message, unit, least, most = fixed.choice(_ALERTS)
            value = round(fixed.uniform(least, most), 1)
            severity = fixed.choices(SEVERITIES, (30, 35, 25, 10))[0]
            ends = began + fixed.randrange(10, 200)
            resolved = ends <= tick
            yield {
                "id": alert_id,
                "device_id": device_id,
                "type": kind,
                "severity": severity,
                "status": self._status(fixed, "resolved" if resolved else "open"),
                "message": message.format(drive=fixed.choice(("C:", "D:", "/var")), value=value),
                "measured": {"value": value, "unit": unit} if unit else None,
                "acknowledged": fixed.random() < 0.4,
                "note": fixed.choice((None, "", "Ticket opened", "Kunde informiert ✓")),
                "opened_at": self._at(began),
                "resolved_at": self._at(ends) if resolved else None,
                "updated_at": self._at(ends if resolved else began),
            }

    def _patches(self, tick: int) -> Iterator[Row]:
        for patch_id, device_id, began in self._of_devices("patch", self.patches, tick, (150, 600)):
            fixed = self._random("patch", patch_id, device_id)
            vendor, name = fixed.choice(_PATCHES)
            numbers = {
                "number": fixed.randrange(5000000, 5060000),
                "major": fixed.randrange(20, 140),
                "minor": fixed.randrange(9),
            }
            ends = began + fixed.randrange(5, 400)
            done = ends <= tick
            outcome = fixed.choices(("installed", "failed"), (92, 8))[0]
            released = self.start + began * self.tick_length - timedelta(days=fixed.randrange(1, 60))
            yield {
                "id": patch_id,
                "device_id": device_id,
                "name": name.format(os=fixed.choice(("Windows 11", "Windows 10", "Windows Server")), **numbers),
                "vendor": vendor,
                "severity": fixed.choice(SEVERITIES),
                "status": self._status(fixed, outcome if done else "pending"),
                "size_mb": round(fixed.uniform(0.5, 900), 2),
                "requires_reboot": vendor == "Microsoft",
                "cves": [f"CVE-2024-{fixed.randrange(1000, 60000)}" for _ in range(fixed.randrange(3))],
                "release_date": released.date().isoformat(),
                "installed_at": self._at(ends) if done and outcome == "installed" else None,
                "error_code": fixed.randrange(-2147024900, -2147024800) if done and outcome == "failed" else None,
                "updated_at": self._at(ends if done else began),
            }

    def _generic(self, tick: int) -> Iterator[Row]:
        for slot in range(self.resources):
            life = self._span("resource", slot, tick, ticks=(100, 300), gap=3)
            if life.present:
                resource_id = 1 + slot + life.number * self.resources
                state = self._span("resource state", resource_id, tick, ticks=(30, 120))
                fixed = self._random("resource", resource_id)
                now = self._random("resource", resource_id, state.number)
                yield {
                    "id": resource_id,
                    "name": f"{fixed.choice(('Probe', 'Sonde', 'Zażółć', 'プローブ'))} {resource_id}",
                    "status": self._status(now, now.choices(STATUSES["resource"], (85, 15))[0]),
                    "updated_at": self._at(max(state.began, life.began) if life.number else state.began),
                }

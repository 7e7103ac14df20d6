"""Computes the numbers of four charts from a fleet's tables, with SQL at the destination.

Vendors name their columns differently, so each part of a chart has a list of candidate names; a chart whose columns are
missing says so in a note. The reference time of a chart is that of the last load of its table, not the clock: the same
tables give the same charts, on any day and in any time zone. See `drawing` for how charts look.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from typing import Any

from rmm_assets.tables.table import ABSENT_SINCE, LOAD_ID, Table

# Column names as dlt normalizes them, the most likely first.
ORGANIZATION = (
    "organization__name", "organization_name", "customer__name", "customer_name", "company__name", "company_name",
    "client__name", "client_name", "site__name", "site_name", "organization", "customer", "company", "client",
)  # fmt: skip
ORGANIZATION_KEY = (
    "organization__id", "organization_id", "customer__id", "customer_id", "company_id", "client_id", "site_uid",
    "site_id",
)  # fmt: skip
NAME = (
    "name", "hostname", "host_name", "system_name", "computer_name", "machine_name", "agent_name", "device_name",
    "display_name", "uid", "id",
)  # fmt: skip
STATUS = ("status", "online_status", "computer_live_status", "agent_status")
ONLINE = ("online", "is_online")
OFFLINE = ("offline", "is_offline")
SEEN = (
    "last_seen_at", "last_seen", "last_contact", "last_contact_at", "agent_last_contact_time", "last_seen_online",
    "last_heartbeat", "last_check_in",
)  # fmt: skip
SEVERITY = ("severity", "priority", "level")
OPENED = (
    "opened_at", "created_at", "create_time", "created", "alert_time", "triggered_at", "timestamp", "date",
    "detected_at",
)  # fmt: skip
ALERT_STATE = ("status", "state", "alert_status", "alert_state")
RESOLVED = (
    "resolved_at", "resolved_on", "resolved_time", "resolved", "is_resolved", "closed_at", "closed_on", "closed",
    "cleared_at", "dismissed_at",
)  # fmt: skip
RELEASED = ("release_date", "released_at", "released", "published_at", "publish_date", "created_at")
INSTALLED = ("installed_at", "installed_on", "install_date", "installed")

SEVERITIES = (
    "critical", "high", "error", "major", "important", "moderate", "medium", "warning", "minor", "low", "information",
    "informational", "info", "none",
)  # fmt: skip
STATUSES = ("online", "warning", "offline")
NOT_OPEN = {
    "resolved", "auto-resolved", "auto_resolved", "closed", "cleared", "dismissed", "fixed", "ok", "inactive", "reset",
}  # fmt: skip
NOT_WAITING = {"installed", "superseded", "rejected", "declined", "not applicable", "not_applicable"}

NOT_STATED = "not stated"
SHOWN = 12
"""Organizations and agents that a chart names; the rest are only counted."""
LISTED = 20_000
"""Maximum number of agents not seen that the page lists."""
SILENT_AFTER = timedelta(days=1)
LOOKED_BACK = timedelta(days=180)
BIN_WIDTHS = tuple(timedelta(hours=hours) for hours in (1, 3, 6, 24, 7 * 24))
MOST_BINS = 42
AGES = (
    (7, "under 1 week"), (30, "1 to 4 weeks"), (60, "1 to 2 months"), (90, "2 to 3 months"), (None, "over 3 months"),
)  # fmt: skip
"""Upper bound of a patch's age in days, and its label."""


@dataclass(frozen=True)
class Chart:
    """The numbers of one chart.

    Attributes:
        name: Identifier for metadata and URLs: lowercase letters and underscores.
        headline: A one-line summary of the numbers.
        labels: Labels along the axis.
        series: One number per label, by series name. Empty if there is nothing to draw.
        unit: What is counted.
        bars: `horizontal` for names, `vertical` for time.
        note: What is left out, and why.
        as_of: When its table was last loaded, in UTC; None if it never was.
    """

    name: str
    title: str
    headline: str = ""
    labels: tuple[str, ...] = ()
    series: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    unit: str = ""
    bars: str = "vertical"
    note: str = ""
    as_of: datetime | None = None


@dataclass(frozen=True)
class Agent:
    """A device whose agent was not seen for longer than `SILENT_AFTER`.

    Attributes:
        seen: When it was last seen, in UTC.
        days: Days between then and the last load of the table.
    """

    name: str
    organization: str
    seen: datetime
    days: float


@dataclass(frozen=True)
class Overview:
    """The charts of one connection, and the agents not seen lately, sorted by how long ago they were seen."""

    connection: str
    charts: tuple[Chart, ...]
    silent: tuple[Agent, ...] = ()


class _Rows:
    """The rows of one table that still exist at the source.

    Args:
        hidden: Columns that must not be shown.
        loaded_at: When the table was last loaded; by default, when the newest row was.
    """

    def __init__(self, table: Table, hidden: Collection[str] = (), loaded_at: datetime | None = None) -> None:
        self.table = table
        self.columns = table.columns()
        self.hidden = hidden
        gone = [column for column in (ABSENT_SINCE, "_dlt_valid_to") if column in self.columns]
        self.alive = " AND ".join(f"{table.quote(column)} IS NULL" for column in gone) or "1 = 1"
        self.loaded_at = loaded_at or self._newest_row()

    def find(self, names: Iterable[str]) -> str | None:
        """Returns the first of the names that is a visible column, or None."""
        return next((name for name in names if name in self.columns and name not in self.hidden), None)

    def ask(self, select: str, end: str = "", *parameters: Any, where: str = "") -> list[tuple[Any, ...]]:
        condition = f"{self.alive} AND {where}" if where else self.alive
        return self.table.rows(f"SELECT {select} FROM {{table}} WHERE {condition} {end}", *parameters)

    def extremes(self, column: str) -> tuple[Any, Any]:
        quoted = self.table.quote(column)
        low, high = self.ask(f"min({quoted}), max({quoted})")[0]
        return low, high

    def is_set(self, column: str) -> str:
        """Returns SQL that is 1 where a flag is true, or where a column of another type has a value, else 0."""
        quoted, values = self.table.quote(column), self.extremes(column)
        is_flag = all(value is None or value in (False, True) for value in values)  # True == 1
        true = "TRUE" if any(isinstance(value, bool) for value in values) else "1"
        return f"CASE WHEN {quoted} {f'= {true}' if is_flag else 'IS NOT NULL'} THEN 1 ELSE 0 END"

    def _newest_row(self) -> datetime | None:
        """Returns when the newest row was loaded; dlt's load id is the Unix time in seconds, as text."""
        if LOAD_ID not in self.columns:
            return None
        latest = self.table.rows(f"SELECT max({self.table.quote(LOAD_ID)}) FROM {{table}}")[0][0]
        return None if latest is None else datetime.fromtimestamp(int(float(latest)), UTC)


def read_overview(
    connection: str,
    tables: Mapping[str, Table],
    *,
    hidden: Mapping[str, Collection[str]] | None = None,
    loaded_at: Mapping[str, datetime] | None = None,
) -> Overview:
    """Computes the charts of a connection.

    Args:
        tables: Tables by resource; `devices`, `alerts`, `patches` and `organizations` are used, and any may be missing.
        hidden: Columns whose values must not be shown, by resource.
        loaded_at: When each table was last loaded, by resource; by default, when its newest row was.
    """
    hidden, loaded_at = hidden or {}, loaded_at or {}
    candidates = {name: _Rows(table, hidden.get(name, ()), loaded_at.get(name)) for name, table in tables.items()}
    rows = {name: table for name, table in candidates.items() if table.columns}
    devices, organizations = rows.get("devices"), rows.get("organizations")
    alerts, patches = rows.get("alerts"), rows.get("patches")
    names = _names_of(organizations) if organizations is not None else {}
    silent = _silent_agents(devices, names)
    charts = (
        (devices, _status(devices, names)),
        (devices, _silent(devices, silent)),
        (alerts, _alerts(alerts)),
        (patches, _patches(patches)),
    )
    dated = tuple(replace(chart, as_of=table.loaded_at if table else None) for table, chart in charts)
    return Overview(connection, dated, tuple(silent))


def _status(devices: _Rows | None, names: Mapping[str, str]) -> Chart:
    chart = Chart("status_by_organization", "Status by organization", unit="devices", bars="horizontal")
    if devices is None:
        return _without(chart, "no devices are loaded")
    status = devices.find((*STATUS, *ONLINE, *OFFLINE))
    if status is None:
        return _without(chart, _unknown("the state of a device", (*STATUS, *ONLINE, *OFFLINE)))
    organization = _organization(devices, names)
    listed = [devices.table.quote(column) for column in (status, organization) if column is not None]
    grouped: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for value, *of, count in devices.ask(f"{', '.join(listed)}, count(*)", f"GROUP BY {', '.join(listed)}"):
        grouped[_named(of[0], names) if of else "all devices"][_state(value, status)] += int(count)
    sizes = {name: sum(counts.values()) for name, counts in grouped.items()}
    if not sizes:
        return _without(chart, "no devices are loaded")
    order = sorted(sizes, key=lambda name: (-sizes[name], name))
    others = order[SHOWN:] if len(order) > SHOWN + 1 else []
    if others:
        label = f"{len(others)} others"
        grouped[label] = {
            state: sum(grouped[name].get(state, 0) for name in others)
            for state in {state for name in others for state in grouped[name]}
        }
        order = [*order[:SHOWN], label]
    states = _ranked({state for counts in grouped.values() for state in counts}, STATUSES)
    total = sum(sizes.values())
    online = sum(counts.get("online", 0) for name, counts in grouped.items() if name in order)
    return replace(
        chart,
        headline=_many(total, "device", "devices")
        + (f", {online / total:.0%} of them online" if "online" in states else ""),
        labels=tuple(order),
        series={state: tuple(grouped[name].get(state, 0) for name in order) for state in states},
        note="" if organization else _unknown("the organization of a device", (*ORGANIZATION, *ORGANIZATION_KEY)),
    )


def _silent_agents(devices: _Rows | None, names: Mapping[str, str]) -> list[Agent]:
    """Returns the agents not seen for longer than `SILENT_AFTER`, sorted by how long ago they were seen."""
    if devices is None or (as_of := devices.loaded_at) is None:
        return []
    seen, name = devices.find(SEEN), devices.find(NAME)
    like = devices.extremes(seen)[1] if seen else None
    if seen is None or name is None or _moment(like) is None:
        return []
    organization, column = _organization(devices, names), devices.table.quote(seen)
    listed = ", ".join(devices.table.quote(part) for part in (seen, name, organization) if part)
    order = f"ORDER BY {column}, {devices.table.quote(name)} LIMIT {LISTED}"
    found = devices.ask(listed, order, _like(as_of - SILENT_AFTER, like), where=f"{column} < %s")
    agents = []
    for at, what, *of in found:
        moment = _moment(at) or as_of
        days = round((as_of - moment) / timedelta(days=1), 1)
        agents.append(Agent(str(what), _named(of[0], names) if of else "", moment, days))
    return agents


def _silent(devices: _Rows | None, silent: Sequence[Agent]) -> Chart:
    chart = Chart("agents_not_seen", "Agents not seen lately", unit="days since last seen", bars="horizontal")
    if devices is None or devices.loaded_at is None:
        return _without(chart, "no devices are loaded")
    seen, name = devices.find(SEEN), devices.find(NAME)
    if seen is None or name is None:
        return _without(chart, _unknown("when an agent was last seen, or its name", (*SEEN, *NAME)))
    like = devices.extremes(seen)[1]
    if like is not None and _moment(like) is None:
        return _without(chart, f"`{seen}` is not a time")
    column = devices.table.quote(seen)
    never = int(devices.ask("count(*)", where=f"{column} IS NULL")[0][0])
    note = f"{_many(never, 'agent was', 'agents were')} never seen." if never else ""
    if like is None:
        return replace(chart, headline="No agent was ever seen" if never else "No agents", note=note)
    limit = _like(devices.loaded_at - SILENT_AFTER, like)
    count = int(devices.ask("count(*)", "", limit, where=f"{column} < %s")[0][0])
    longest = silent[:SHOWN]
    if count > len(longest):
        note = f"Only the {len(longest)} agents not seen for longest are drawn. {note}".strip()
    return replace(
        chart,
        headline=_many(count, "agent was", "agents were") + " not seen for more than a day"
        if count
        else "Every agent was seen within a day",
        labels=tuple(" · ".join(filter(None, (agent.name, agent.organization))) for agent in longest),
        series={"days": tuple(agent.days for agent in longest)} if longest else {},
        note=note,
    )


def _alerts(alerts: _Rows | None) -> Chart:
    chart = Chart("alerts_by_severity", "Alerts by severity over time", unit="alerts")
    if alerts is None or (as_of := alerts.loaded_at) is None:
        return _without(chart, "no alerts are loaded")
    opened, severity = alerts.find(OPENED), alerts.find(SEVERITY)
    if opened is None:
        return _without(chart, _unknown("when an alert was raised", OPENED))
    low, high = alerts.extremes(opened)
    first = _moment(low)
    if first is None:
        return _without(chart, "no alerts are loaded" if low is None else f"`{opened}` is not a time")
    first = max(first, as_of - LOOKED_BACK)
    widths = [width for width in BIN_WIDTHS if width >= timedelta(days=1) or not _is_day(high)]
    width = next((width for width in widths if (as_of - first) / width < MOST_BINS), widths[-1])
    start = datetime.fromtimestamp(first.timestamp() // width.total_seconds() * width.total_seconds(), UTC)
    edges = [start + width * number for number in range((as_of - start) // width + 2)]
    quote, state, resolved = alerts.table.quote, alerts.find(ALERT_STATE), alerts.find(RESOLVED)
    by = [severity and quote(severity), state and quote(state), resolved and alerts.is_set(resolved)]
    by_severity: dict[str, list[int]] = {}
    opened_of: dict[str, int] = defaultdict(int)
    for (level, word, done), counts in _binned(alerts, opened, edges, high, by):
        _add(by_severity, _word(level), counts)
        if not done and _word(word) not in NOT_OPEN:
            opened_of[_word(level)] += sum(counts)
    ranked = _ranked(by_severity, SEVERITIES)
    total, pending = sum(map(sum, by_severity.values())), sum(opened_of.values())
    outside = int(alerts.ask("count(*)")[0][0]) - total
    notes = ["" if severity else _unknown("the severity of an alert", SEVERITY)]
    headline, worst = _many(total, "alert", "alerts"), opened_of["critical"]
    if state or resolved:
        headline += f", {pending:,} of them open" + (f", {worst:,} critical" if worst else "")
    else:
        notes.append(f"{_unknown('whether an alert is open', (*ALERT_STATE, *RESOLVED))}.")
        headline += f", {worst:,} of them critical" if worst else ""
    if outside:
        notes.append(f"{_many(outside, 'alert has', 'alerts have')} no time, or one outside of the chart.")
    return replace(
        chart,
        headline=headline,
        labels=tuple(_bin_label(edge, width) for edge in edges[:-1]),
        series={name: tuple(by_severity[name]) for name in ranked if any(by_severity[name])},
        unit=f"alerts in {_duration(width)}",
        note=" ".join(filter(None, notes)),
    )


def _patches(patches: _Rows | None) -> Chart:
    chart = Chart("patch_age", "Pending patches by age", unit="patches")
    if patches is None or (as_of := patches.loaded_at) is None:
        return _without(chart, "no patches are loaded")
    released, status, severity = patches.find(RELEASED), patches.find(STATUS), patches.find(SEVERITY)
    installed = patches.find(INSTALLED)
    if released is None or (status is None and installed is None):
        names = (*RELEASED, *STATUS, *INSTALLED)
        return _without(chart, _unknown("when a patch was released, or whether it is installed", names))
    low, high = patches.extremes(released)
    if _moment(high) is None:
        return _without(chart, "no patches are loaded" if high is None else f"`{released}` is not a time")
    # Oldest first; patches released after the load count as new.
    ages = [as_of - timedelta(days=days) for days, _ in reversed(AGES) if days is not None]
    edges = [min(_moment(low) or ages[0], ages[0] - timedelta(days=1)), *ages, datetime(9999, 1, 1, tzinfo=UTC)]
    quote = patches.table.quote
    by = [severity and quote(severity), quote(status) if status else patches.is_set(str(installed))]
    by_severity: dict[str, list[int]] = {}
    for (level, state), counts in _binned(patches, released, edges, high, by):
        if not (_word(state) in NOT_WAITING if status else state):
            _add(by_severity, _word(level) if severity else "patches", list(reversed(counts)))
    total = sum(sum(counts) for counts in by_severity.values())
    worst = sum(by_severity.get("critical", ()))
    return replace(
        chart,
        headline=_many(total, "pending patch", "pending patches") + (f", {worst:,} of them critical" if worst else ""),
        labels=tuple(label for _, label in AGES),
        series={name: tuple(by_severity[name]) for name in _ranked(by_severity, SEVERITIES)},
        note=f"Age since `{released}`." if released == "created_at" else "",
    )


def _binned(
    rows: _Rows, column: str, edges: Sequence[datetime], like: Any, by: Sequence[str | None]
) -> list[tuple[tuple[Any, ...], list[int]]]:
    """Counts rows between consecutive edges, for each combination of values of the SQL expressions `by`;
    the value of a missing expression is None.

    The edges are query parameters, so the result depends on neither the destination's date functions nor the session's
    time zone.
    """
    quoted = rows.table.quote(column)
    limits = [_like(edge, like) for edge in edges]
    bins = [f"sum(CASE WHEN {quoted} >= %s AND {quoted} < %s THEN 1 ELSE 0 END)"] * (len(edges) - 1)
    pairs = [limit for pair in pairwise(limits) for limit in pair]
    present = [expression for expression in by if expression]
    group = f"GROUP BY {', '.join(present)}" if present else ""
    counted = []
    for line in rows.ask(", ".join([*present, *bins]), group, *pairs):
        values = iter(line)
        known = tuple(next(values) if expression else None for expression in by)
        counted.append((known, [int(count or 0) for count in values]))
    return sorted(counted, key=lambda one: str(one[0]))


def _add(counts: dict[str, list[int]], name: str, more: Sequence[int]) -> None:
    existing = counts.get(name)
    counts[name] = list(more) if existing is None else [one + other for one, other in zip(existing, more, strict=True)]


def _names_of(organizations: _Rows) -> dict[str, str]:
    key, name = organizations.find(("id", "uid")), organizations.find(("name", "business_name", "company_name"))
    if key is None or name is None:
        return {}
    listed = ", ".join(organizations.table.quote(column) for column in (key, name))
    return {str(key): str(name) for key, name in organizations.ask(listed) if name is not None}


def _organization(devices: _Rows, names: Mapping[str, str]) -> str | None:
    key = devices.find(ORGANIZATION_KEY)
    return key if key is not None and names else devices.find((*ORGANIZATION, *ORGANIZATION_KEY))


def _named(value: Any, names: Mapping[str, str]) -> str:
    return NOT_STATED if value is None else names.get(str(value), str(value))


def _state(value: Any, column: str) -> str:
    if isinstance(value, bool):
        return "offline" if value == (column in OFFLINE) else "online"
    return _word(value)


def _word(value: Any) -> str:
    return NOT_STATED if value is None or value == "" else str(value).lower()


def _ranked(names: Iterable[str], known: Sequence[str]) -> list[str]:
    """Sorts names: known ones in their order, then unknown ones, then `not stated`."""
    return sorted(
        names, key=lambda name: (name == NOT_STATED, known.index(name) if name in known else len(known), name)
    )


def _moment(value: Any) -> datetime | None:
    """Returns a value of a time column as a UTC datetime, or None if it is not a time."""
    if isinstance(value, datetime):
        return value.astimezone(UTC) if value.tzinfo else value.replace(tzinfo=UTC)
    if isinstance(value, date):
        return datetime(value.year, value.month, value.day, tzinfo=UTC)
    try:
        if isinstance(value, (int, float, Decimal)) and not isinstance(value, bool):
            return datetime.fromtimestamp(float(value) / (1000 if _in_milliseconds(value) else 1), UTC)
        return _moment(datetime.fromisoformat(value)) if isinstance(value, str) else None
    except (ValueError, OverflowError, OSError):
        return None


def _is_day(value: Any) -> bool:
    """Returns whether a value of a time column is a date without a time of day."""
    return len(value) <= 10 if isinstance(value, str) else isinstance(value, date) and not isinstance(value, datetime)


def _in_milliseconds(value: float | Decimal) -> bool:
    # In seconds, the time would be after the year 5000.
    return value > 1e11


def _like(moment: datetime, like: Any) -> Any:
    """Converts a time to the type and format of `like`, a value of the column that it is compared with."""
    if isinstance(like, datetime):
        return moment if like.tzinfo else moment.replace(tzinfo=None)
    if isinstance(like, date):
        return moment.date()
    if isinstance(like, str):
        return moment.strftime("%Y-%m-%d" if _is_day(like) else f"%Y-%m-%d{like[10]}%H:%M:%S")
    return moment.timestamp() * (1000 if _in_milliseconds(like) else 1)


def _bin_label(start: datetime, width: timedelta) -> str:
    return f"{start:%d %b}" if width >= timedelta(days=1) else f"{start:%d %b %H:%M}"


def _duration(width: timedelta) -> str:
    hours = int(width.total_seconds() // 3600)
    return {1: "an hour", 24: "a day", 168: "a week"}.get(hours, f"{hours} hours")


def _many(number: int, one: str, more: str) -> str:
    return f"{number:,} {one if number == 1 else more}"


def _without(chart: Chart, reason: str) -> Chart:
    return replace(chart, note=f"Not drawn: {reason}.")


def _unknown(what: str, names: Sequence[str]) -> str:
    listed = ", ".join(f"`{name}`" for name in dict.fromkeys(names))
    return f"no column for {what}; looked for {listed}"

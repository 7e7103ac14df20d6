"""Decides where an incremental read begins, which of its rows land, and where the next read begins.

Cursors are compared as timestamps or numbers, and as text only if they are neither; the value is stored and sent to the API
as the API wrote it. The state has the same place and format as that of dlt's own `Incremental`.
"""

from __future__ import annotations

import datetime
import math
import re
import time
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from email.utils import parsedate_to_datetime
from typing import Any, Literal, NamedTuple

import numpy as np

from rmm_assets.errors import CursorError
from rmm_assets.loading.dlt_internals import row_digest
from rmm_assets.rows.stamps import Stamp

# Seconds that a merge looks back from a timestamp by default: rows get their timestamp when a transaction begins but become
# visible when it ends, so a row may appear with an earlier timestamp than one already read.
DEFAULT_LAG = 300.0
# Seconds by which a timestamp may be ahead of this machine's clock: those without a zone may be of any.
_AHEAD = 86_400

Kind = Literal["moment", "number", "text"]

_DAY = 86_400
_MOMENT = re.compile(
    r"(?P<year>\d{4})-(?P<month>\d\d)-(?P<day>\d\d)"
    r"(?:(?P<t>[Tt ])(?P<hour>\d\d):(?P<minute>\d\d)(?P<s>:(?P<second>\d\d)(?:(?P<point>[.,])(?P<fraction>\d+))?)?)?"
    r"(?P<zone>\s*(?:[Zz]|UTC|GMT|(?P<sign>[+-])(?P<zone_hour>\d\d)(?::?(?P<zone_minute>\d\d))?))?",
    re.ASCII,
)
_NUMBER = re.compile(r"\s*[+-]?\d+(\.\d+)?\s*", re.ASCII)
_NUMBERED = re.compile(r"/Date\((-?\d+)\)/", re.ASCII)


class Order(NamedTuple):
    """A cursor's sort key among others of its kind."""

    kind: Kind
    value: Any


@dataclass(frozen=True)
class Cursor:
    """How a resource is read incrementally.

    Attributes:
        path: JSONPath of the cursor field in a row.
        columns: The cursor field and the `key` fields as plain paths; empty if only a JSONPath finds them.
        key: The fields that identify rows at the start of the range; None for the whole row.
        initial: Where the first run starts.
        end: Where reading ends; if set, the state is not changed.
        start_param: Query parameter for the start.
        end_param: Query parameter for the end.
        newest: How to choose the newer of two values.
        lag: How far before the newest value to start, as in dlt; None means `DEFAULT_LAG` for timestamps in a merge.
        missing: What happens to a row without the field.
        open_start: Whether rows at the start are known and left out or, in a merge, not requested again.
        closed_end: Whether rows at the end are included.
        keeps_all: Whether every row before the end lands, whatever its cursor, as landing again does no harm in a merge.
        stamp: How the field's timestamps are written, if the file says so.
        sent_as: How the request's timestamps are written, if not like the field's.
    """

    path: str
    columns: tuple[tuple[str, ...], ...] = ()
    key: tuple[str, ...] | None = None
    initial: Any = None
    end: Any = None
    start_param: str | None = None
    end_param: str | None = None
    newest: Literal["max", "min"] = "max"
    lag: float | None = None
    missing: Literal["raise", "include", "exclude"] = "raise"
    open_start: bool = False
    closed_end: bool = False
    keeps_all: bool = True
    stamp: Stamp | None = None
    sent_as: Stamp | None = None

    def order(self, value: Any) -> Order:
        """Returns a value's sort key."""
        micros = None if self.stamp is None else self.stamp.micros(value)
        return order_of(value) if micros is None else Order("moment", Decimal(micros).scaleb(-6))

    def sent(self, value: Any) -> Any:
        """Returns a value as a request contains it, no later than it is.

        Raises:
            CursorError: It is not a timestamp and has to be written like one.
        """
        if self.sent_as is None or value is None:
            return value
        order = self.order(value)
        try:
            if order.kind == "moment":
                return self.sent_as.write(math.floor(order.value.scaleb(6)))
        except OverflowError:
            pass
        raise CursorError(
            f"`start_format` needs timestamps, and a value of `{self.path}` is a {order.kind}: say how it is written with "
            "`unit` or `format` in the hints of its column, or leave `start_format` out"
        )


@dataclass(frozen=True)
class Bounds:
    """The values of a request's `{incremental...}` placeholders and parameters, named as in dlt."""

    initial_value: Any
    start_value: Any
    last_value: Any
    end_value: Any

    def sent(self, cursor: Cursor) -> Bounds:
        """Returns the values as requests contain them.

        Raises:
            CursorError: A value is not a timestamp, or the end would be another one.
        """
        names = ("initial_value", "start_value", "last_value", "end_value")
        sent = Bounds(**{name: cursor.sent(getattr(self, name)) for name in names})
        if cursor.sent_as is not None and self.end_value is not None:
            end = cursor.sent_as.micros(sent.end_value)
            if end is None or Decimal(end).scaleb(-6) != cursor.order(self.end_value).value:
                raise CursorError(f"`end_value` cannot be written as `start_format` says, only as {sent.end_value}")
        return sent

    def placeholders(self) -> dict[str, Any]:
        names = ("initial_value", "start_value", "last_value", "end_value")
        return {f"incremental.{name}": getattr(self, name) for name in names}


def order_of(value: Any) -> Order:
    """Returns a cursor's sort key: a timestamp in full precision, a number, or text if it is neither."""
    if isinstance(value, bool):
        return Order("text", str(value))
    if isinstance(value, (int, float, Decimal)):
        return Order("number", Decimal(str(value)))
    if isinstance(value, (datetime.datetime, datetime.date)):
        value = value.isoformat()
    text = str(value)
    if _NUMBER.fullmatch(text):
        return Order("number", Decimal(text.strip()))
    if (numbered := _NUMBERED.fullmatch(text)) is not None:
        return Order("moment", Decimal(numbered[1]) / 1000)
    if (found := _MOMENT.fullmatch(text.strip())) is not None:
        seconds = _seconds(found)
        return Order("text", text) if seconds is None else Order("moment", seconds)
    if text[:1].isalpha() and text[3:5] == ", ":  # an HTTP date
        try:
            return Order("moment", Decimal(parsedate_to_datetime(text).timestamp()))
        except (ValueError, TypeError, OverflowError):
            pass
    return Order("text", text)


def _seconds(found: re.Match[str]) -> Decimal | None:
    """Returns the seconds since 1970 (UTC); None for a day that does not exist."""
    try:
        days = datetime.date(int(found["year"]), int(found["month"]), int(found["day"])).toordinal()
    except ValueError:
        return None
    seconds = days * _DAY + 3600 * int(found["hour"] or 0) + 60 * int(found["minute"] or 0) + int(found["second"] or 0)
    if found["sign"]:
        offset = 3600 * int(found["zone_hour"]) + 60 * int(found["zone_minute"] or 0)
        seconds -= offset if found["sign"] == "+" else -offset
    # Since 1970, so that they compare with /Date(...)/ and HTTP dates.
    return seconds - datetime.date(1970, 1, 1).toordinal() * _DAY + Decimal(f"0.{found['fraction'] or 0}")


def bounds_of(cursor: Cursor, state: Mapping[str, Any] | None) -> Bounds:
    """Returns the start and end of a read.

    Args:
        cursor: How the resource is read incrementally.
        state: The state left by earlier runs; None to start where the first run did.
    """
    last = cursor.initial if state is None or cursor.end is not None else state.get("last_value", cursor.initial)
    start = last if state is None or cursor.end is not None else _lagged(cursor, last)
    return Bounds(initial_value=cursor.initial, start_value=start, last_value=start, end_value=cursor.end)


def _lagged(cursor: Cursor, value: Any) -> Any:
    """Returns the value minus the lag in the same format, but not earlier than the initial value."""
    if value is None or value == cursor.initial or cursor.lag == 0:
        return value
    micros = None if cursor.stamp is None else cursor.stamp.micros(value)
    if cursor.stamp is not None and micros is not None:
        moved = _moved_stamp(cursor, cursor.stamp, micros)
        if moved is None:
            return value
    elif cursor.lag is not None:
        moved = _moved(value, cursor.lag if cursor.newest == "min" else -cursor.lag)
        if moved is None:
            raise CursorError(
                f"`lag` needs a cursor that is a timestamp or a number, and `{cursor.path}` is neither: leave `lag` out"
            )
    elif (
        cursor.keeps_all
        and cursor.newest == "max"
        and not cursor.open_start
        and order_of(value).kind == "moment"
        and _has_time(value)
    ):
        moved = _moved(value, -DEFAULT_LAG)
    else:
        return value
    if moved is None or (cursor.initial is not None and not _after(cursor, moved, cursor.initial)):
        return cursor.initial if moved is not None else value
    return moved


def _moved_stamp(cursor: Cursor, stamp: Stamp, micros: int) -> Any:
    """Returns a timestamp moved by the lag in seconds, or in days if it has no time; None if it has no lag."""
    lag = cursor.lag
    if lag is None:
        looks_back = cursor.keeps_all and cursor.newest == "max" and not cursor.open_start and stamp.has_time
        if not looks_back:
            return None
        lag = DEFAULT_LAG
    by = round(lag * 1_000_000) * (1 if stamp.has_time else _DAY)
    try:
        return stamp.write(micros + by if cursor.newest == "min" else micros - by)
    except OverflowError:
        return None


def _after(cursor: Cursor, value: Any, other: Any) -> bool:
    """Returns whether a value is newer than another; True if the two cannot be compared."""
    one, two = cursor.order(value), cursor.order(other)
    return one.kind != two.kind or (one.value > two.value if cursor.newest == "max" else one.value < two.value)


def _has_time(value: Any) -> bool:
    return isinstance(value, datetime.datetime) or (isinstance(value, str) and ":" in value)


def _moved(value: Any, by: float) -> Any:
    """Returns a timestamp moved by seconds, a date by days or a number by units; None for any other value."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return math.floor(value + by)
    if isinstance(value, (float, Decimal)):
        return float(value) + by if isinstance(value, float) else value + Decimal(str(by))
    try:
        if isinstance(value, datetime.datetime):
            return value + datetime.timedelta(seconds=by)
        if isinstance(value, datetime.date):
            return value + datetime.timedelta(days=math.floor(by))
        text = str(value).strip()
        if _NUMBER.fullmatch(text):
            return str(Decimal(text) + Decimal(str(by)))
        found = _MOMENT.fullmatch(text)
        return None if found is None else _moved_text(found, by)
    except (OverflowError, ValueError):
        return value


def _moved_text(found: re.Match[str], by: float) -> str:
    """Returns a timestamp as text in its original format, moved by seconds, or by days if it has no time."""
    day = datetime.date(int(found["year"]), int(found["month"]), int(found["day"]))
    if found["t"] is None:
        return (day + datetime.timedelta(days=math.floor(by))).isoformat() + (found["zone"] or "")
    midnight = datetime.datetime.combine(day, datetime.time())
    seconds = 3600 * int(found["hour"]) + 60 * int(found["minute"]) + int(found["second"] or 0)
    moved = midnight + datetime.timedelta(seconds=seconds + math.floor(by))
    text = moved.strftime("%H:%M:%S" if found["s"] else "%H:%M")
    fraction = f"{found['point']}{found['fraction']}" if found["fraction"] else ""
    return f"{moved.date().isoformat()}{found['t']}{text}{fraction}{found['zone'] or ''}"


def _earliest(cursor: Cursor, state: Mapping[str, Any]) -> Any:
    """Returns where the table begins: at the earliest `initial_value` that the file has had, None for no beginning."""
    before = state.get("full_from", state.get("initial_value", cursor.initial))
    if before is None or cursor.initial is None:
        return None
    one, other = cursor.order(before), cursor.order(cursor.initial)
    earlier = one.value < other.value if cursor.newest == "max" else one.value > other.value
    return before if one.kind == other.kind and earlier else cursor.initial


def _asked(cursor: Cursor, start: Order | None) -> Order | None:
    """Returns the start of a range as it was requested, which may be a little earlier."""
    if start is None or cursor.sent_as is None or start.kind != "moment":
        return start
    micros = cursor.sent_as.micros(cursor.sent_as.write(math.floor(start.value.scaleb(6))))
    return start if micros is None else Order("moment", Decimal(micros).scaleb(-6))


@dataclass
class _Newest:
    """The newest value of one kind and the identities of the rows that have it."""

    order: Order
    value: Any
    rows: int = 0
    hashes: set[str] = field(default_factory=set)


class Range:
    """One incremental read, which filters its rows and moves the state on.

    Attributes:
        bounds: The requested range.
        left_out: Number of rows that the API sent but that do not land: out of range or already in the table.
    """

    def __init__(
        self, cursor: Cursor, state: MutableMapping[str, Any], *, late: bool = False, full: bool = False
    ) -> None:
        """Starts a read.

        Args:
            cursor: How the resource is read incrementally.
            state: The state left by earlier runs; updated by `close`.
            late: Whether the rows are of earlier reads: all of them land.
            full: Whether to start where the first run did, or where the earliest `initial_value` says.
        """
        self.cursor, self._state, self._late = cursor, state, late
        self._reverse = cursor.newest == "min"
        self._full_from = _earliest(cursor, state) if full else None
        self.bounds = bounds_of(replace(cursor, initial=self._full_from), None) if full else bounds_of(cursor, state)
        self._full = full
        self.left_out = 0
        self._now, self._ahead, self._furthest = Decimal(time.time()), 0, ""
        self._stored = state.get("last_value", cursor.initial)
        if self._stored is not None and self._is_ahead(cursor.order(self._stored)):
            self._stored, self.bounds = cursor.initial, bounds_of(cursor, None)
        self._start = None if self.bounds.start_value is None else cursor.order(self.bounds.start_value)
        self._asked = _asked(cursor, self._start)
        self._end = None if cursor.end is None else cursor.order(cursor.end)
        self._known = set(state.get("unique_hashes") or ()) if self._tells_apart else set()
        self._newest: dict[Kind, _Newest] = {}
        self._before_start = 0

    @property
    def full(self) -> bool:
        """Whether everything is read, as in a first run."""
        return self._full

    @property
    def _tells_apart(self) -> bool:
        """Whether rows at the start are looked up among those that landed before."""
        cursor = self.cursor
        return not (cursor.keeps_all or cursor.open_start or cursor.end is not None or cursor.lag or cursor.key == ())

    def admit(self, rows: Sequence[Sequence[Any]]) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """Returns a mask of the rows that land.

        Args:
            rows: For each row, the cursor's value and what identifies the row at the start of the range.

        Raises:
            CursorError: A row has no cursor and the file does not say what to do with it.
        """
        wanted = np.fromiter((self._admits(value, rest) for value, *rest in rows), np.bool_, len(rows))
        self.left_out += int(len(rows) - np.count_nonzero(wanted))
        return wanted

    def _admits(self, value: Any, rest: Sequence[Any]) -> bool:
        cursor = self.cursor
        if value is None:
            if self._late:
                return True
            if cursor.missing == "raise":
                raise CursorError(
                    f"a row has no value at `{cursor.path}`, the cursor of incremental reads: write "
                    "`on_cursor_value_missing: include` (or `exclude`) next to it, or another `cursor_path`"
                )
            return cursor.missing == "include"
        order = cursor.order(value)
        early = self._start is not None and self._is_newer(self._start, order)
        self._before_start += self._asked is not None and self._is_newer(self._asked, order)
        if not self._late and (
            self._is_over(order) or (not cursor.keeps_all and (early or self._landed_before(order, rest)))
        ):
            return False
        if self._is_ahead(order):
            self._ahead, self._furthest = self._ahead + 1, str(value)
        else:
            self._note(order, value, rest)
        return True

    def _is_ahead(self, order: Order) -> bool:
        """Returns whether a timestamp is in the future, where no read may start. An append does: its rows would land again."""
        cursor = self.cursor
        return cursor.keeps_all and not self._reverse and order.kind == "moment" and order.value > self._now + _AHEAD

    def _is_newer(self, one: Order, other: Order) -> bool:
        """Returns whether one is newer than the other; False if they cannot be compared."""
        return one.kind == other.kind and (one.value < other.value if self._reverse else one.value > other.value)

    def _is_over(self, order: Order) -> bool:
        end = self._end
        return end is not None and (self._is_newer(order, end) or (order == end and not self.cursor.closed_end))

    def _landed_before(self, order: Order, rest: Sequence[Any]) -> bool:
        if order != self._start:
            return False
        return self.cursor.open_start or (
            bool(self._known) and row_digest(self._identity(rest), self._known) in self._known
        )

    def _identity(self, rest: Sequence[Any]) -> Any:
        return rest[0] if self.cursor.key is None else list(rest)

    def _note(self, order: Order, value: Any, rest: Sequence[Any]) -> None:
        newest = self._newest.get(order.kind)
        if newest is None or self._is_newer(order, newest.order):
            newest = self._newest[order.kind] = _Newest(order, value, newest.rows if newest else 0)
        newest.rows += 1
        if self._tells_apart and order == newest.order:
            newest.hashes.add(row_digest(self._identity(rest)))

    def close(self) -> list[str]:
        """Advances the state to the newest value; returns oddities of the cursors as sentences."""
        found = self._newest
        if self._full:
            self._state["full_from"] = self._full_from
        if self.cursor.end is not None or not found:
            return self._oddities(None)
        stored = None if self._stored is None else self.cursor.order(self._stored)
        kind = stored.kind if stored is not None and stored.kind in found else max(found, key=lambda k: found[k].rows)
        newest = found[kind]
        said = self._oddities(newest)
        state = self._state
        if stored is None or stored.kind != kind or not self._is_newer(stored, newest.order):
            same = stored == newest.order
            hashes = newest.hashes | (self._known if same else set())
            value = self._stored if same else newest.value
            state.update(initial_value=self.cursor.initial, start_value=self._stored, last_value=value)
            state["unique_hashes"] = sorted(hashes)
        return said

    def _oddities(self, newest: _Newest | None) -> list[str]:
        path, start, said = self.cursor.path, self.bounds.start_value, list[str]()
        if self._late:
            return said
        if self._before_start:
            said.append(
                f"{self._before_start} rows have a `{path}` before the requested start {start}: the API ignores the "
                "range, or its clock was set back"
            )
        if self._ahead:
            said.append(
                f"{self._ahead} rows have a `{path}` in the future, such as {self._furthest}: the next run starts after the others"
            )
        if newest is None:
            return said
        others = sum(other.rows for other in self._newest.values() if other is not newest)
        if others:
            said.append(
                f"{others} rows have a `{path}` that cannot be compared with {newest.value}: they landed, and the next run "
                "starts after the others"
            )
        if (
            self._stored is not None
            and self._is_newer(self.cursor.order(self._stored), newest.order)
            and not self._before_start
        ):
            said.append(
                f"the newest `{path}` is {newest.value}, but the last run's was {self._stored}: the row that had it is "
                "gone, or the API's clock was set back"
            )
        return said

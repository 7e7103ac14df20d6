"""Reads timestamps that are written in a stated way, as a number of units since 1970 or in a pattern, and writes them."""

from __future__ import annotations

import datetime
import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal
from zoneinfo import ZoneInfo

Unit = Literal["s", "ms", "us"]

MICROS: Mapping[Unit, int] = {"s": 1_000_000, "ms": 1_000, "us": 1}
# The years 1 to 9999, in microseconds since 1970.
FIRST, LAST = -62_135_596_800_000_000, 253_402_300_799_999_999
EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
MICROSECOND = datetime.timedelta(microseconds=1)
_NOTHING = datetime.timedelta()
_NUMBER = re.compile(r"[+-]?\d{1,20}(\.\d*)?([eE][+-]?\d{1,3})?", re.ASCII)


@dataclass(frozen=True)
class Stamp:
    """How an API writes timestamps.

    Attributes:
        unit: Unit of the numbers since 1970; None if they are not numbers.
        format: Pattern of `strptime`; None for ISO 8601.
        zone: IANA name of the time zone of timestamps without one.
    """

    unit: Unit | None = None
    format: str | None = None
    zone: str = "UTC"

    def __str__(self) -> str:
        return f"unit {self.unit}" if self.unit else f"format {self.format}" if self.format else "ISO 8601"

    def micros(self, value: Any) -> int | None:
        """Returns the microseconds since 1970 (UTC), rounded to a whole number; None if it is not written like this."""
        if not isinstance(value, (int, float, Decimal, str)):
            return None
        try:
            if self.unit is not None:
                text = str(value).strip()
                if not _NUMBER.fullmatch(text):
                    return None
                micros = int((Decimal(text) * MICROS[self.unit]).to_integral_value())
            else:
                moment = self._moment(str(value).strip())
                moment = moment if moment.tzinfo else moment.replace(tzinfo=ZoneInfo(self.zone))
                micros = (moment - EPOCH) // MICROSECOND
        except (ValueError, OverflowError):
            return None
        return micros if FIRST <= micros <= LAST else None

    def write(self, micros: int) -> int | str:
        """Writes microseconds since 1970 (UTC) like this, rounded down if it has no place for them.

        A local time that occurs twice is written as an earlier one that occurs once.

        Raises:
            OverflowError: The time is not in the years 1 to 9999.
        """
        if self.unit is not None:
            return micros // MICROS[self.unit]
        local = (EPOCH + micros * MICROSECOND).astimezone(ZoneInfo(self.zone))
        if self.format is None:
            return local.isoformat().removesuffix("+00:00") + ("Z" if local.utcoffset() == _NOTHING else "")
        first, second = (local.replace(fold=fold).utcoffset() or _NOTHING for fold in (0, 1))
        if "%z" not in self.format and first > second:
            local -= first - second
        return local.strftime(self.format)

    @property
    def has_time(self) -> bool:
        """Whether it has a time of day."""
        return self.format is None or re.search("%[HIcsX]", self.format) is not None

    def _moment(self, text: str) -> datetime.datetime:
        if self.format is not None:
            return datetime.datetime.strptime(text, self.format)  # noqa: DTZ007
        return datetime.datetime.fromisoformat(text)

"""Lets only one run at a time load a resource, on whatever machine it runs, by a row of the table `rmm_locks`.

The run that holds the lock changes the row as long as it lives. Those that wait for it watch the row, so that no clocks are
compared, and take it over once it has not changed for `DEAD` seconds. Works wherever one UPDATE is atomic: two rows of one name,
as two first runs may make where no key is enforced, are one lock.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from dlt.common.data_types import TDataType
from dlt.destinations.sql_client import SqlClientBase

from rmm_assets.errors import TableInUseError
from rmm_assets.tables.table import Table

LOCKS = "rmm_locks"
DEAD = 120.0
_BEAT = 20.0
_BETWEEN_LOOKS = 2.0
_COLUMNS: Mapping[str, TDataType] = {"name": "text", "place": "text", "holder": "text", "beat": "text"}

Open = Callable[[], SqlClientBase[Any]]


@dataclass
class Lock:
    """A lock that is held.

    Attributes:
        open: Returns a new SQL client of the dataset, not yet open.
        name: What is locked.
        beat: What this run last wrote into the row; no other run has written it.
    """

    open: Open
    name: str
    beat: str
    _guard: threading.Lock = field(default_factory=threading.Lock)

    def ensure(self) -> None:
        """Makes sure that the lock is still held.

        Raises:
            TableInUseError: Another run has taken it over, as this one has not changed it for too long.
        """
        with self._guard, self.open() as client:
            held = _beats(Table(client, LOCKS), self.name) == {self.beat}
        if not held:
            raise TableInUseError(
                f"{self.name}: this run was suspended or had no connection to the destination for so long that another run "
                "has taken its place; nothing was published"
            )

    def _keep(self, ended: threading.Event, log: logging.Logger) -> None:
        client = self.open()
        while not ended.wait(_BEAT):
            beat = uuid4().hex
            try:
                with self._guard, client:
                    _replace(Table(client, LOCKS), self.name, self.beat, beat=beat)
                    self.beat = beat
            except Exception as error:  # tried again soon
                log.info("%s: the lock could not be kept: %s", self.name, error)


@contextmanager
def locked(
    open_client: Open, name: str, place: str, holder: str, log: logging.Logger, dead: float = DEAD
) -> Iterator[Lock]:
    """Waits until no other run holds the lock, and holds it.

    Args:
        open_client: Returns a new SQL client of the dataset, not yet open.
        name: What is locked.
        place: Where only one run at a time can ask for this lock: a lock from there is of a run that has died.
        holder: Describes the run to those that wait for it.
        log: Is told whom this run waits for.
        dead: Seconds without a change of the row after which its run is dead.
    """
    lock, ended = Lock(open_client, name, _acquired(open_client, name, place, holder, log, dead)), threading.Event()
    keeper = threading.Thread(target=lock._keep, args=(ended, log), daemon=True)
    keeper.start()
    try:
        yield lock
    finally:
        ended.set()
        keeper.join()
        try:
            with open_client() as client:
                _replace(Table(client, LOCKS), name, lock.beat, beat="", holder="")
        except Exception as error:  # what the run has done does not depend on it
            log.info("%s: the lock could not be released: %s", name, error)


def _acquired(open_client: Open, name: str, place: str, holder: str, log: logging.Logger, dead: float) -> str:
    seen, since, told = set[str](), time.monotonic(), False
    while True:
        with open_client() as client:
            table = Table(client, LOCKS)
            table.prepare(_COLUMNS)
            rows = table.rows("SELECT holder, place, beat FROM {table} WHERE name = %s", name)
            if not rows:
                table.change("INSERT INTO {table} (name, place, holder, beat) VALUES (%s, '', '', '')", name)
                continue
            others = {beat: who for who, where, beat in rows if who and where != place}
            if others.keys() != seen:
                seen, since = {*others}, time.monotonic()
            if not others or time.monotonic() - since > dead:
                mine = uuid4().hex
                for beat in {beat for _, _, beat in rows}:
                    _replace(table, name, beat, beat=mine, holder=holder, place=place)
                if _beats(table, name) == {mine}:
                    return mine
                _replace(table, name, mine, beat="", holder="")
            elif not told:
                told = True
                log.warning("waiting for another run that loads %s: %s", name, " and ".join(others.values()))
        time.sleep(_BETWEEN_LOOKS)


def _beats(table: Table, name: str) -> set[str]:
    return {str(beat) for (beat,) in table.rows("SELECT beat FROM {table} WHERE name = %s AND beat <> ''", name)}


def _replace(table: Table, name: str, former: str, **values: str) -> None:
    changes = ", ".join(f"{column} = %s" for column in values)
    table.change(f"UPDATE {{table}} SET {changes} WHERE name = %s AND beat = %s", *values.values(), name, former)

"""Hands out permits under a connection's limits: how many requests may run at once, and when the next one may start.

Resources of one connection run in processes of their own, so what they share lies in small lock files in a folder, not
in memory. Processes that do not see the same folder, those of other machines above all, share nothing: give each its
part of a limit.
"""

from __future__ import annotations

import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from math import inf
from pathlib import Path
from typing import IO

import portalocker

_AT_ONCE = portalocker.LockFlags.EXCLUSIVE | portalocker.LockFlags.NON_BLOCKING
_POLL_SECONDS = 0.01
_LONGEST_SLEEP_SECONDS = 1.0
_LONGEST_PAUSE_SECONDS = 3600.0


class StoppedError(Exception):
    """Somebody stopped the wait for a permit."""


class RateLimit:
    """Permits for one connection, shared by threads and processes through `folder`.

    Args:
        folder: The same for all processes of a connection; made if it is not there.
        max_concurrency: Requests under way at once, over all resources.
        requests_per_minute: Starts a minute, evenly spread; None: no limit.
    """

    def __init__(self, folder: Path, *, max_concurrency: int, requests_per_minute: float | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._interval = 60.0 / requests_per_minute if requests_per_minute else 0.0
        self._lock = threading.Lock()
        # Kept open: a slot is taken and given back for every request.
        self._idle: list[IO[bytes]] = [(folder / f"slot-{number}").open("ab") for number in range(max_concurrency)]
        self._clock = folder / "clock"
        self._clock_guard = threading.Lock()
        self._clock_lock = (folder / "clock.lock").open("ab")

    @contextmanager
    def permit(self, *, stop: threading.Event | None = None, until: float = inf) -> Iterator[None]:
        """Wait for the right to send one request, hold it until the answer is read.

        Args:
            stop: Ends the wait when it is set.
            until: Moment of `time.monotonic()` at which the wait ends.

        Raises:
            StoppedError: `stop` was set.
            TimeoutError: it is `until`.
        """
        stop = stop or threading.Event()
        slot = self._take_slot(stop, until)
        try:
            self._wait_turn(stop, until)
            yield
        finally:
            with self._lock:
                portalocker.unlock(slot)
                self._idle.append(slot)

    def close(self) -> None:
        """Let go of the folder; no permit may be held."""
        for file in (*self._idle, self._clock_lock):
            file.close()

    def pause(self, seconds: float) -> None:
        """No request of this connection starts for so long: what `Retry-After` asks of all, not of one worker."""
        with self._clock_held():
            self._write(max(self._not_before(), time.time() + seconds))

    def _take_slot(self, stop: threading.Event, until: float) -> IO[bytes]:
        while True:
            with self._lock:
                # The one given back last first: nobody else is likely to hold it.
                for number in reversed(range(len(self._idle))):
                    try:
                        portalocker.lock(self._idle[number], _AT_ONCE)
                    except portalocker.LockException:
                        continue
                    return self._idle.pop(number)
            _wait(_POLL_SECONDS, stop, until)

    def _wait_turn(self, stop: threading.Event, until: float) -> None:
        while True:
            now, not_before = time.time(), self._not_before()
            if not_before <= now:
                if not self._interval:
                    return
                with self._clock_held():
                    now, not_before = time.time(), self._not_before()
                    if not_before <= now:
                        self._write(now + self._interval)
                        return
            _wait(not_before - now, stop, until)

    @contextmanager
    def _clock_held(self) -> Iterator[None]:
        with self._clock_guard:
            portalocker.lock(self._clock_lock, portalocker.LockFlags.EXCLUSIVE)
            try:
                yield
            finally:
                portalocker.unlock(self._clock_lock)

    def _not_before(self) -> float:
        """The moment (epoch seconds) before which nothing may start."""
        try:
            raw = self._clock.read_bytes()[:8]
        except FileNotFoundError:
            return 0.0
        moment: float = struct.unpack("<d", raw)[0] if len(raw) == 8 else 0.0
        # A clock that was set back must not hold a connection for longer than a pause can last.
        return moment if moment <= time.time() + _LONGEST_PAUSE_SECONDS else 0.0

    def _write(self, moment: float) -> None:
        # In place: those who read without the lock must not find the file emptied for a moment.
        try:
            file = self._clock.open("r+b", buffering=0)
        except FileNotFoundError:
            file = self._clock.open("wb", buffering=0)
        with file:
            file.write(struct.pack("<d", moment))


def _wait(seconds: float, stop: threading.Event, until: float) -> None:
    """Sleep, a second at most.

    Raises:
        StoppedError, TimeoutError: see `RateLimit.permit`.
    """
    left = until - time.monotonic()
    if left <= 0:
        raise TimeoutError
    # No longer: somebody may ask for a longer pause meanwhile, or set the clock.
    if stop.wait(max(0.0, min(seconds, left, _LONGEST_SLEEP_SECONDS))):
        raise StoppedError

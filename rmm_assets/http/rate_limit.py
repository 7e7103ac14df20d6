"""Issues permits under a connection's limits: how many requests may run at once, and when the next one may start.

Resources of one connection may run in separate processes, so the shared state is in small lock files in a folder, not in
memory. Processes on other machines do not share the folder; `shared_limit` issues permits to them.
"""

from __future__ import annotations

import struct
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from math import inf
from pathlib import Path
from typing import IO, Protocol

import portalocker

_AT_ONCE = portalocker.LockFlags.EXCLUSIVE | portalocker.LockFlags.NON_BLOCKING
_POLL_SECONDS = 0.01
_LONGEST_SLEEP_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 3600.0


class StoppedError(Exception):
    """Raised when the wait for a permit is stopped."""


class Permits(Protocol):
    """The permits of one connection."""

    def permit(self, *, stop: threading.Event | None = None, until: float = inf) -> AbstractContextManager[None]:
        """Waits for a permit to send one request, and keeps it until the response is read.

        Args:
            stop: Ends the wait when it is set.
            until: Time, as in `time.monotonic()`, at which the wait ends.

        Raises:
            StoppedError: `stop` was set.
            TimeoutError: `until` has passed.
        """

    def pause(self, seconds: float) -> None:
        """Delays all requests of this connection, because `Retry-After` applies to all workers, not just one."""

    def close(self) -> None:
        """Releases files and sockets; no permit may be held."""


class RateLimit:
    """The permits of one connection, shared by threads and processes through `folder`.

    Args:
        folder: A folder shared by all processes of a connection; created if missing.
        max_concurrency: Maximum number of concurrent requests, over all resources.
        requests_per_minute: Requests started per minute, evenly spaced; None for no limit.
    """

    def __init__(self, folder: Path, *, max_concurrency: int, requests_per_minute: float | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._interval = 60.0 / requests_per_minute if requests_per_minute else 0.0
        self._lock = threading.Lock()
        # Kept open, because every request acquires and releases a slot.
        self._idle: list[IO[bytes]] = [(folder / f"slot-{number}").open("ab") for number in range(max_concurrency)]
        self._clock = folder / "clock"
        self._clock_guard = threading.Lock()
        self._clock_lock = (folder / "clock.lock").open("ab")

    @contextmanager
    def permit(self, *, stop: threading.Event | None = None, until: float = inf) -> Iterator[None]:
        """Implements `Permits.permit`."""
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
        """Implements `Permits.close`."""
        for file in (*self._idle, self._clock_lock):
            file.close()

    def pause(self, seconds: float) -> None:
        """Implements `Permits.pause`."""
        with self._clock_held():
            self._write(max(self._not_before(), time.time() + seconds))

    def _take_slot(self, stop: threading.Event, until: float) -> IO[bytes]:
        while True:
            with self._lock:
                # Most recently released first: it is the least likely to be locked by another process.
                for number in reversed(range(len(self._idle))):
                    try:
                        portalocker.lock(self._idle[number], _AT_ONCE)
                    except portalocker.LockException:
                        continue
                    return self._idle.pop(number)
            wait(_POLL_SECONDS, stop, until)

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
            wait(not_before - now, stop, until)

    @contextmanager
    def _clock_held(self) -> Iterator[None]:
        with self._clock_guard:
            portalocker.lock(self._clock_lock, portalocker.LockFlags.EXCLUSIVE)
            try:
                yield
            finally:
                portalocker.unlock(self._clock_lock)

    def _not_before(self) -> float:
        """Returns the time (epoch seconds) before which no request may start."""
        try:
            raw = self._clock.read_bytes()[:8]
        except FileNotFoundError:
            return 0.0
        moment: float = struct.unpack("<d", raw)[0] if len(raw) == 8 else 0.0
        # If the clock was set back, a connection must not wait for longer than a pause can last.
        return moment if moment <= time.time() + LONGEST_PAUSE_SECONDS else 0.0

    def _write(self, moment: float) -> None:
        # Overwritten in place, so that readers without the lock never see an empty file.
        try:
            file = self._clock.open("r+b", buffering=0)
        except FileNotFoundError:
            file = self._clock.open("wb", buffering=0)
        with file:
            file.write(struct.pack("<d", moment))


def wait(seconds: float, stop: threading.Event, until: float) -> None:
    """Sleeps for at most a second.

    Raises:
        StoppedError, TimeoutError: See `Permits.permit`.
    """
    left = until - time.monotonic()
    if left <= 0:
        raise TimeoutError
    # Not longer, because the pause may be extended or the clock may be set in the meantime.
    if stop.wait(max(0.0, min(seconds, left, _LONGEST_SLEEP_SECONDS))):
        raise StoppedError

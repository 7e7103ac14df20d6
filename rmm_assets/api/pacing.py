"""A connection's limits to permits: how many requests may run at once, and when the next one may start.

Resources of one connection run in processes of their own, so what they share lies in small lock files in a folder of
this machine, not in memory. Machines do not share it: give each its part of a limit.
"""

from __future__ import annotations

import getpass
import hashlib
import struct
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

_POLL_SECONDS = 0.01
_LONGEST_PAUSE_SECONDS = 3600.0


def pacing_folder(name: str, base_url: str) -> Path:
    """The folder in which the processes of one connection on this machine meet."""
    digest = hashlib.sha256(f"{name}\n{base_url}".encode()).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"rmm_assets-{getpass.getuser()}" / digest


class Pace:
    """Permits for one connection, shared by threads and processes through `folder`.

    Args:
        folder: From `pacing_folder`; made if it is not there.
        max_concurrency: Requests under way at once, over all resources.
        requests_per_minute: Starts a minute, evenly spread; None: no limit.
    """

    def __init__(self, folder: Path, *, max_concurrency: int, requests_per_minute: float | None = None) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._interval = 60.0 / requests_per_minute if requests_per_minute else 0.0
        self._free = threading.Semaphore(max_concurrency)
        self._lock = threading.Lock()
        self._idle = [
            FileLock(folder / f"slot-{number}", thread_local=False) for number in range(max_concurrency)
        ]
        self._clock = folder / "clock"
        self._clock_lock = FileLock(folder / "clock.lock", thread_local=False)

    @contextmanager
    def permit(self) -> Iterator[None]:
        """Wait for the right to send one request, hold it until the answer is read."""
        with self._free:
            slot = self._take_slot()
            try:
                self._wait_turn()
                yield
            finally:
                with self._lock:
                    slot.release()
                    self._idle.append(slot)

    def pause(self, seconds: float) -> None:
        """No request of this connection starts for so long: what `Retry-After` asks of all, not of one worker."""
        with self._clock_held():
            self._write(max(self._not_before(), time.time() + seconds))

    def _take_slot(self) -> FileLock:
        while True:
            with self._lock:
                for number, slot in enumerate(self._idle):
                    try:
                        slot.acquire(blocking=False)
                    except Timeout:
                        continue
                    return self._idle.pop(number)
            time.sleep(_POLL_SECONDS)

    def _wait_turn(self) -> None:
        while True:
            if not self._interval and self._not_before() <= time.time():
                return
            with self._clock_held():
                now, not_before = time.time(), self._not_before()
                if not_before <= now:
                    self._write(now + self._interval)
                    return
            time.sleep(min(not_before - now, 1.0))

    @contextmanager
    def _clock_held(self) -> Iterator[None]:
        with self._lock, self._clock_lock:
            yield

    def _not_before(self) -> float:
        """The moment (epoch seconds) before which nothing may start."""
        try:
            raw = self._clock.read_bytes()
        except FileNotFoundError:
            return 0.0
        moment: float = struct.unpack("<d", raw)[0] if len(raw) == 8 else 0.0
        # A clock that was set back must not hold a connection for longer than a pause can last.
        return moment if moment < time.time() + _LONGEST_PAUSE_SECONDS else 0.0

    def _write(self, moment: float) -> None:
        self._clock.write_bytes(struct.pack("<d", moment))

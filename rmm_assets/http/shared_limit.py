"""Issues permits to workers on several machines, which share a Redis server instead of a folder.

Each decision is one script that Redis runs by its own clock, so the clocks of the machines do not matter. Of the libraries that
limit rates with Redis, `limits` 5.8 sends a minute's requests at once, and pyrate-limiter 4.5 compares the clocks of the machines;
neither counts requests in progress or can be paused.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from uuid import uuid4

from rmm_assets.errors import TransportError
from rmm_assets.http.rate_limit import LONGEST_PAUSE_SECONDS, Permits, RateLimit, StoppedError, wait

if TYPE_CHECKING:
    import redis

LIMITS_VARIABLE = "RMM_RATE_LIMITS"
FILES = "files"
# Seconds after which the permits of a killed process are free.
LEASE_SECONDS = 30.0
# Seconds for which an unreachable server is tried again.
PATIENCE_SECONDS = 60.0
_POLL_SECONDS = 0.05
_ANSWERS_WITHIN = 10.0

# All times are microseconds, so that Lua's numbers are exact. A time too far ahead was set before the server's clock was set back.
_NOW = """
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local paused = tonumber(redis.call('GET', KEYS[2]) or 0)
if paused > now + tonumber(ARGV[1]) then paused = 0 end
"""
# Returns the microseconds to wait; -1 for a permit, -2 if as many as allowed are in use. Redis may have granted a permit whose
# reply was lost, so the token is removed first.
_PERMIT = (
    _NOW
    + """
local token, most, interval, lease = ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
redis.call('ZREM', KEYS[1], token)
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
redis.call('ZREMRANGEBYSCORE', KEYS[1], now + lease + 1, '+inf')
if redis.call('ZCARD', KEYS[1]) >= most then return -2 end
if paused > now then return paused - now end
if interval > 0 then redis.call('SET', KEYS[2], now + interval, 'PX', math.ceil(interval / 1000)) end
redis.call('ZADD', KEYS[1], now + lease, token)
redis.call('PEXPIRE', KEYS[1], lease / 1000)
return -1
"""
)
_PAUSE = (
    _NOW
    + """
local pause = tonumber(ARGV[2])
if now + pause > paused then redis.call('SET', KEYS[2], now + pause, 'PX', math.ceil(pause / 1000)) end
"""
)
_KEEP = (
    _NOW
    + """
local lease = tonumber(ARGV[2])
for number = 3, #ARGV do redis.call('ZADD', KEYS[1], 'XX', now + lease, ARGV[number]) end
redis.call('PEXPIRE', KEYS[1], lease / 1000)
"""
)


def open_permits(folder: Path, name: str, *, max_concurrency: int, requests_per_minute: float | None = None) -> Permits:
    """Opens the permits of a connection: in files, or in the Redis server that `RMM_RATE_LIMITS` names.

    Args:
        folder: Working folder of the code location on this machine.
        name: Name of the connection.
        max_concurrency: Maximum number of concurrent requests, over all resources.
        requests_per_minute: Requests started per minute, evenly spaced; None for no limit.

    Raises:
        ValueError: `RMM_RATE_LIMITS` is not a URL of Redis, or the extra `redis` is not installed.
    """
    limits: dict[str, Any] = {"max_concurrency": max_concurrency, "requests_per_minute": requests_per_minute}
    url = shared_limits_url()
    if url is None:
        return RateLimit(folder / "pace" / name, **limits)
    return SharedRateLimit(url, name, **limits)


def shared_limits_url() -> str | None:
    """Returns the URL of the Redis server in `RMM_RATE_LIMITS`; None if limits are in files.

    Raises:
        ValueError: The variable is neither `files` nor a URL of Redis; the message does not quote it.
    """
    url = os.environ.get(LIMITS_VARIABLE, "").strip()
    if url in ("", FILES):
        return None
    try:
        parts = urlsplit(url)
        valid = parts.scheme in ("redis", "rediss") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        valid = False
    if not valid:
        raise ValueError(
            f"{LIMITS_VARIABLE} must be the URL of a Redis server, such as redis://127.0.0.1:6379/0 (rediss:// for TLS), or "
            f"`{FILES}`"
        )
    return url


class SharedRateLimit:
    """The permits of one connection, shared by all processes that use the same Redis server.

    A process that was killed keeps its permits for `LEASE_SECONDS`.

    Args:
        url: URL of the Redis server and its database; Redis 5 or newer.
        name: Name of the connection.
        max_concurrency: Maximum number of concurrent requests, over all resources.
        requests_per_minute: Requests started per minute, evenly spaced; None for no limit.
        patience: Seconds for which a server that does not answer is tried again.

    Raises:
        ValueError: The extra `redis` is not installed.
    """

    def __init__(
        self, url: str, name: str, *, max_concurrency: int, requests_per_minute: float | None = None,
        patience: float = PATIENCE_SECONDS,
    ) -> None:  # fmt: skip
        try:
            import redis
            from redis.backoff import NoBackoff
            from redis.retry import Retry
        except ImportError:
            raise ValueError(f"{LIMITS_VARIABLE} needs a package: pip install 'rmm_assets[redis]'") from None
        parts = urlsplit(url)
        self._place = f"Redis at {parts.hostname}:{parts.port or 6379}"
        # `_ask` tries again, because it can be stopped.
        self._server: redis.Redis = redis.Redis.from_url(
            url, socket_timeout=_ANSWERS_WITHIN, socket_connect_timeout=_ANSWERS_WITHIN, retry=Retry(NoBackoff(), 0)
        )
        self._keys = [f"rmm_assets:{{{name}}}:{what}" for what in ("permits", "clock")]
        self._most = max_concurrency
        self._interval = round(60_000_000 / requests_per_minute) if requests_per_minute else 0
        self._patience = patience
        self._permit, self._pause, self._keep = map(self._server.register_script, (_PERMIT, _PAUSE, _KEEP))
        self._held: set[str] = set()
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._keeper: threading.Thread | None = None

    @contextmanager
    def permit(self, *, stop: threading.Event | None = None, until: float = inf) -> Iterator[None]:
        """Implements `Permits.permit`.

        Raises:
            StoppedError, TimeoutError: See `Permits.permit`.
            TransportError: The Redis server cannot be used.
        """
        stop, token = stop or threading.Event(), uuid4().hex
        while True:
            answer = self._ask(self._permit, [token, self._most, self._interval, _micro(LEASE_SECONDS)], stop, until)
            if answer == -1:
                break
            wait(_POLL_SECONDS if answer == -2 else answer / 1e6, stop, until)
        self._keep_alive(token)
        try:
            yield
        finally:
            with self._lock:
                self._held.discard(token)
            with suppress(Exception):  # the lease ends it
                self._server.zrem(self._keys[0], token)

    def pause(self, seconds: float) -> None:
        """Implements `Permits.pause`.

        Raises:
            TransportError: The Redis server cannot be used.
        """
        with suppress(StoppedError):
            self._ask(self._pause, [_micro(seconds)], self._closed, inf)

    def close(self) -> None:
        """Implements `Permits.close`."""
        self._closed.set()
        if self._keeper is not None:
            self._keeper.join()
        self._server.close()

    def _ask(self, script: Callable[..., Any], arguments: list[Any], stop: threading.Event, until: float) -> Any:
        """Runs a script; tries again while the server does not answer."""
        import redis

        gives_up = time.monotonic() + self._patience
        while True:
            try:
                return script(self._keys, [_micro(LONGEST_PAUSE_SECONDS), *arguments])
            except (redis.ConnectionError, redis.TimeoutError) as error:
                passing = not isinstance(error, redis.AuthenticationError)
                problem = type(error).__name__
            except redis.RedisError as error:
                passing, problem = False, f"{type(error).__name__}: {error}"
            if not passing or time.monotonic() > gives_up:
                waited = f" for {self._patience:g} s" if passing else ""
                raise TransportError(
                    f"{self._place}, which holds the rate limits ({LIMITS_VARIABLE}), cannot be used{waited}: {problem}"
                )
            wait(1.0, stop, until)

    def _keep_alive(self, token: str) -> None:
        with self._lock:
            self._held.add(token)
            if self._keeper is None:
                self._keeper = threading.Thread(target=self._renew, daemon=True)
                self._keeper.start()

    def _renew(self) -> None:
        """Extends the leases of the permits that are held."""
        while not self._closed.wait(LEASE_SECONDS / 3):
            with self._lock:
                held = [*self._held]
            if held:
                with suppress(Exception):  # tried again soon
                    self._keep(self._keys, [_micro(LONGEST_PAUSE_SECONDS), _micro(LEASE_SECONDS), *held])


def _micro(seconds: float) -> int:
    return round(seconds * 1e6)

"""Tests which failures a request survives and where the key is sent, with real servers on loopback."""

from __future__ import annotations

import contextlib
import gzip
import itertools
import logging
import resource
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from rmm_assets.errors import TransportError
from rmm_assets.http.auth import build_auth
from rmm_assets.http.rate_limit import RateLimit
from rmm_assets.http.redaction import Redactor
from rmm_assets.http.request import Request
from rmm_assets.http.settings import Limits, Retry, Throttle, Tls
from rmm_assets.http.transport import BodyFault, Reply, Transport
from rmm_assets_tests.http.auths import read_auth
from rmm_assets_tests.http.servers import (
    Say,
    Scripted,
    Seen,
    drip,
    free_port,
    make_certificates,
    raw_server,
    reset,
    silent,
)

KEY = "plain-key-0123456789"
QUICK = Retry(backoff_factor=0.01)

Make = Callable[..., Transport]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """Creates transports and closes them afterwards."""
    made: list[Transport] = []

    def build(
        url: str, *, auth: Any = None, secret: str | None = KEY, retry: Retry = QUICK, rate_limit: RateLimit | None = None,
        log: logging.Logger | None = None, headers: dict[str, str] | None = None, tls: Tls | None = None,
        allow_http: bool = False, **limits: Any,
    ) -> Transport:  # fmt: skip
        redactor = Redactor()
        bounds = Limits(**limits)
        made.append(
            Transport(
                url,
                auth=build_auth(read_auth(auth), secret, redactor),
                redactor=redactor,
                retry=retry,
                limits=bounds,
                log=log,
                rate_limit=rate_limit
                or RateLimit(tmp_path / f"limit-{len(made)}", max_concurrency=bounds.max_concurrency),
                headers=headers,
                tls=tls,
                allow_http=allow_http,
            )
        )
        return made[-1]

    yield build
    for transport in made:
        transport.close()


def body(reply: Reply) -> bytes:
    return reply.body


def get(transport: Transport, path: str = "/v1/devices", **more: Any) -> bytes:
    return transport.send(Request(path, label="devices page 1", **more), body)


def failing(*statuses: int, headers: tuple[tuple[str, str], ...] = (), text: Any = None) -> Callable[[Seen], Say]:
    """Responds with these statuses in turn, then with 200."""
    left = list(statuses)

    def answer(_: Seen) -> Say:
        return Say({"error": text}, left.pop(0), headers) if left else Say({"data": []})

    return answer


# Retries


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_a_temporary_failure_takes_at_most_four_requests(make: Make, status: int) -> None:
    with Scripted(failing(*[status] * 9)) as server:
        transport = make(server.url)
        with pytest.raises(TransportError, match=rf"devices page 1: HTTP {status}.*after 4 requests") as caught:
            get(transport)
    assert (len(server.seen), caught.value.status, transport.traffic.requests, transport.traffic.retries) == (
        4,
        status,
        4,
        3,
    )


@pytest.mark.parametrize("status", [400, 401, 403, 404, 501])
def test_other_statuses_are_not_retried(make: Make, status: int) -> None:
    with Scripted(failing(status)) as server, pytest.raises(TransportError, match=f"HTTP {status}"):
        get(make(server.url))
    assert len(server.seen) == 1


@pytest.mark.parametrize("status", [201, 202, 207, 299])
def test_a_success_that_is_no_answer_is_retried_then_an_error(make: Make, status: int) -> None:
    with Scripted(failing(status)) as server:
        assert get(make(server.url)) == b'{"data": []}', "answered a moment later"
        assert len(server.seen) == 2
    with Scripted(failing(*[status] * 9)) as server:
        with pytest.raises(TransportError, match=rf"devices page 1: HTTP {status}: .*after 4 requests"):
            get(make(server.url))
        assert len(server.seen) == 4


def test_successes_that_are_answers(make: Make) -> None:
    statuses = iter((200, 203, 206, 226))
    with Scripted(lambda _: Say({"data": []}, next(statuses))) as server:
        transport = make(server.url)
        assert [get(transport) for _ in range(4)] == [b'{"data": []}'] * 4
        assert len(server.seen) == 4
    with Scripted(lambda _: Say({"data": []}, 201)) as server:
        assert get(make(server.url), method="POST", json={}) == b'{"data": []}'
        assert len(server.seen) == 1


def test_retried_statuses_are_configurable(make: Make) -> None:
    with Scripted(failing(429)) as server, pytest.raises(TransportError, match="429"):
        get(make(server.url, retry=Retry(status_codes=(500,), backoff_factor=0.01)))
    assert len(server.seen) == 1


def test_waits_double(make: Make) -> None:
    with Scripted(failing(500, 500, 500)) as server:
        get(make(server.url, retry=Retry(backoff_factor=0.1)))
    at = [seen.at for seen in server.seen]
    gaps = [b - a for a, b in itertools.pairwise(at)]
    assert all(gap >= 0.99 * wait for gap, wait in zip(gaps, (0.1, 0.2, 0.4), strict=True))


def test_each_retry_is_a_line_with_page_status_attempt_and_wait(
    make: Make, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Scripted(failing(502, 502, 502)) as server:
        transport = make(server.url, retry=Retry())
        monkeypatch.setattr(transport, "_closing", Impatient())
        get(transport)
    assert [record.getMessage() for record in caplog.records if record.name == "rmm_assets"] == [
        "devices page 1: HTTP 502: application/json, '{\"error\": null}'; retry " + line
        for line in ("1 of 3 in 2.0 s", "2 of 3 in 4.0 s", "3 of 3 in 8.0 s")
    ]


class Impatient(threading.Event):
    """A transport that does not wait."""

    def wait(self, timeout: float | None = None) -> bool:
        return self.is_set()


def test_retry_after_in_seconds_is_honoured(make: Make) -> None:
    with Scripted(failing(503, headers=(("Retry-After", "0.3"),))) as server:
        get(make(server.url))
    assert server.seen[1].at - server.seen[0].at >= 0.3


def test_retry_after_as_a_date_is_honoured(make: Make) -> None:
    with Scripted(failing(429, headers=(("Retry-After", formatdate(time.time() + 2, usegmt=True)),))) as server:
        get(make(server.url))
    assert server.seen[1].at - server.seen[0].at >= 0.9  # a date only has whole seconds


def test_a_date_is_read_by_the_servers_own_clock(make: Make) -> None:
    # A server whose clock is an hour behind: by our clock, its date has long passed.
    then = time.time() - 3600
    headers = (("Date", formatdate(then, usegmt=True)), ("Retry-After", formatdate(then + 1, usegmt=True)))
    with Scripted(failing(429, headers=headers)) as server:
        get(make(server.url))
    assert 1 <= server.seen[1].at - server.seen[0].at < 600


@pytest.mark.parametrize("value", ["3600", "1e400", "a date"])
def test_retry_after_is_capped(make: Make, value: str) -> None:
    value = formatdate(time.time() + 3600, usegmt=True) if value == "a date" else value
    with Scripted(failing(429, headers=(("Retry-After", value),))) as server:
        get(make(server.url, retry=Retry(max_wait=0.2)))
    assert 0.2 <= server.seen[1].at - server.seen[0].at < 600


@pytest.mark.parametrize("value", ["soon", "-5", "nan", "Wed, 99 Foo 2020", ""])
def test_an_unreadable_retry_after_is_ignored(make: Make, value: str) -> None:
    with Scripted(failing(429, headers=(("Retry-After", value),))) as server:
        get(make(server.url))
    assert len(server.seen) == 2


def test_retry_after_stops_every_worker(make: Make) -> None:
    with Scripted(failing(429, headers=(("Retry-After", "0.4"),))) as server:
        transport = make(server.url)
        with ThreadPoolExecutor(4) as workers:
            first = workers.submit(get, transport)
            time.sleep(0.15)
            others = [workers.submit(get, transport) for _ in range(3)]
            [job.result() for job in (first, *others)]
    at = [seen.at for seen in server.seen]
    assert len(at) == 5
    assert all(moment - at[0] >= 0.39 for moment in at[1:])


@pytest.mark.parametrize(("status", "others_wait"), [(429, True), (503, False), (500, False)])
def test_without_a_stated_time_only_a_429_also_delays_other_requests(
    make: Make, status: int, others_wait: bool
) -> None:
    with Scripted(failing(status)) as server, ThreadPoolExecutor(2) as workers:
        transport = make(server.url, retry=Retry(backoff_factor=0.5 if others_wait else 30))
        first = workers.submit(get, transport)
        while not server.seen or transport.traffic.retries == 0:
            time.sleep(0.01)
        workers.submit(get, transport).result()
        if others_wait:
            assert server.seen[1].at - server.seen[0].at >= 0.49
        else:
            assert not first.done()
            transport.close()


@pytest.mark.parametrize(("status", "calls"), [(429, 1), (503, 1), (500, 0)])
def test_only_a_rate_limited_response_narrows_the_window(make: Make, status: int, calls: int) -> None:
    called: list[int] = []
    with Scripted(failing(status)) as server:
        transport = make(server.url)
        transport.on_throttle(lambda: called.append(1))
        get(transport)
    assert (len(called), transport.traffic.throttled) == (calls, calls)


def test_a_configured_status_and_text_mean_rate_limited(make: Make) -> None:
    throttle = [Throttle(status=403, text="rate LIMIT")]
    with Scripted(failing(403, text="API Rate Limit exceeded")) as server:
        get(make(server.url, throttle=throttle))
    assert len(server.seen) == 2
    with Scripted(failing(403, text="not yours")) as server, pytest.raises(TransportError, match="may not read this"):
        get(make(server.url, throttle=throttle))
    assert len(server.seen) == 1


def test_a_rate_limited_200_has_no_rows(make: Make) -> None:
    with Scripted(failing(200, text="slow down")) as server:
        transport = make(server.url, throttle=[Throttle(status=200, text="slow down")])
        assert get(transport) == b'{"data": []}'
    assert transport.traffic.throttled == 1


def test_a_wait_in_the_body_is_honoured(make: Make) -> None:
    with Scripted(failing(429, text={"wait": 0.3})) as server:
        get(make(server.url, wait_path="error.wait"))
    assert server.seen[1].at - server.seen[0].at >= 0.3


SIGNALS: dict[str, tuple[dict[str, Any], Say, Say]] = {
    # the signal, a response that it matches, and one that it does not
    "a text with a status": (
        {"status": 403, "text": "rate limit"}, Say({"error": "API rate limit"}, 403), Say({"error": "not yours"}, 403),
    ),
    "a text in a place": (
        {"status": 200, "text": "rate_limit_exceeded", "path": "errors[*].extensions.code"},
        Say({"errors": [{"extensions": {"code": "x"}}, {"extensions": {"code": "Rate_Limit_Exceeded"}}]}),
        Say({"data": [{"errors": "rate_limit_exceeded"}], "errors": [{"message": "rate_limit_exceeded"}]}),
    ),
    "a number in a place": (
        {"status": 200, "text": "1015", "path": "status.code"},
        Say({"status": {"code": 1015}}), Say({"status": {"code": 0, "text": "1015"}}),
    ),
    "a header": (
        {"status": 400, "header": "X-Throttled"}, Say({}, 400, (("x-throttled", ""),)), Say({"error": "X-Throttled"}, 400),
    ),
    "a header's value": (
        {"status": 200, "header": "X-Quota-Left", "text": "0"},
        Say({}, 200, (("X-Quota-Left", "0"),)), Say({"errors": "0"}, 200, (("X-Quota-Left", "10"),)),
    ),
    "a spent limit": (
        {"status": 599}, Say({}, 403, (("X-RateLimit-Remaining", "0"),)), Say({}, 403, (("X-RateLimit-Remaining", "7"),)),
    ),
    "a spent limit of another status": (
        {"status": 599}, Say({}, 403, (("RateLimit-Remaining", "0"),)), Say({}, 404, (("RateLimit-Remaining", "0"),)),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", SIGNALS)
def test_only_a_response_that_matches_a_signal_is_rate_limited(case: str, make: Make) -> None:
    signal, limited, other = SIGNALS[case]
    answers = [limited, Say({"data": []})]
    with Scripted(lambda _: answers.pop(0)) as server:
        transport = make(server.url, throttle=[Throttle(**signal)])
        assert get(transport) == b'{"data": []}'
    assert (len(server.seen), transport.traffic.throttled) == (2, 1)
    with Scripted(lambda _: other) as server:
        transport = make(server.url, throttle=[Throttle(**signal)])
        with contextlib.suppress(TransportError):
            get(transport)
    assert (len(server.seen), transport.traffic.throttled) == (1, 0)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"status": 200, "path": "a.b"}, "write `text`, too"),
        ({"status": 200, "path": "a.b", "text": "x", "header": "y"}, "either `path` or `header`"),
        ({"status": 200, "path": "a..[b", "text": "x"}, "not a JSONPath"),
    ],
)
def test_a_signal_that_cannot_match_is_refused(wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        Throttle(**wrong)


class Unpaced(RateLimit):
    """A rate limit that a rate-limited response does not delay."""

    def pause(self, seconds: float) -> None:
        pass


def first_wait(
    make: Make,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    folder: Path,
    answer: Say,
    **limits: Any,
) -> float:
    """Returns the seconds that a request waits after a response, according to the log."""
    with Scripted(lambda _: answer) as server:
        rate_limit = Unpaced(folder / "unpaced", max_concurrency=1)
        transport = make(server.url, retry=Retry(max_retries=1, max_wait=2000), rate_limit=rate_limit, **limits)
        monkeypatch.setattr(transport, "_closing", Impatient())
        with pytest.raises(TransportError, match=f"HTTP {answer.status}"):
            get(transport)
    [line] = [record.getMessage() for record in caplog.records if "retry 1 of 1" in record.getMessage()]
    return float(line.split()[-2])


def reset_at(seconds: float, unit: float = 1) -> str:
    return str(round((time.time() + seconds) * unit))


BACKOFF, SOON = (2.0, 2.0), (500.0, 1001.0)
WAITS: dict[str, tuple[int, Callable[[], dict[str, str]], tuple[float, float]]] = {
    # the status, the headers, and the least and most seconds to wait
    "seconds": (429, lambda: {"X-RateLimit-Reset": "1"}, (1, 1)),
    "epoch seconds": (429, lambda: {"X-RateLimit-Reset": reset_at(1000)}, SOON),
    "epoch milliseconds": (429, lambda: {"X-Rate-Limit-Reset": reset_at(1000, 1000)}, SOON),
    "the IETF's name": (429, lambda: {"RateLimit-Reset": "1"}, (1, 1)),
    "of a spent limit": (403, lambda: {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "1"}, (1, 1)),
    "Retry-After wins": (429, lambda: {"Retry-After": "0.5", "X-RateLimit-Reset": "1"}, (0.5, 0.5)),
    "in the past": (429, lambda: {"X-RateLimit-Reset": reset_at(-60)}, BACKOFF),
    "not a number": (429, lambda: {"X-RateLimit-Reset": "soon"}, BACKOFF),
    "of a server that is down": (503, lambda: {"X-RateLimit-Remaining": "5", "X-RateLimit-Reset": "1"}, BACKOFF),
    "by the server's clock": (
        429, lambda: {"Date": formatdate(time.time() - 3600, usegmt=True), "X-RateLimit-Reset": reset_at(1000 - 3600)}, SOON,
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", WAITS)
def test_a_rate_limited_request_waits_for_the_reset_that_its_response_states(
    case: str, make: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    status, headers, seconds = WAITS[case]
    wait = first_wait(make, monkeypatch, caplog, tmp_path, Say({}, status, tuple(headers().items())))
    assert seconds[0] <= wait <= seconds[1]


def test_a_wait_in_the_body_wins_over_a_reset(
    make: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    answer = Say({"retry_after": "2.5"}, 429, (("X-RateLimit-Reset", "1"),))
    assert first_wait(make, monkeypatch, caplog, tmp_path, answer, wait_path="retry_after") == 2.5


def test_a_damaged_body_is_requested_again(make: Make) -> None:
    def accept(reply: Reply) -> str:
        if b"good" not in reply.body:
            raise BodyFault("the body is not JSON")
        return "taken"

    bodies = [b"<html>", b'{"a', b"good"]
    with Scripted(lambda seen: Say(bodies.pop(0))) as server:
        assert make(server.url).send(Request("/v1/devices"), accept) == "taken"
    assert len(server.seen) == 3


def test_an_error_raised_by_the_caller_is_not_retried(make: Make) -> None:
    def accept(reply: Reply) -> None:
        raise OSError("disk full")

    with Scripted(failing()) as server, pytest.raises(OSError, match="disk full"):
        make(server.url).send(Request("/v1/devices"), accept)
    assert len(server.seen) == 1


# Network failures


def test_a_refused_connection_is_tried_four_times_and_reported(make: Make) -> None:
    with pytest.raises(TransportError, match=r"page 1: no connection: Connection refused \(after 4 requests\)$"):
        get(make(f"http://127.0.0.1:{free_port()}"))


def test_a_reset_connection_is_retried(make: Make) -> None:
    with raw_server(reset) as (url, accepted), pytest.raises(TransportError, match="dropped: Connection reset by peer"):
        get(make(url))
    assert len(accepted) == 4


def test_a_connection_closed_without_a_response_is_retried(make: Make) -> None:
    answers = [None, Say({"data": []})]
    with Scripted(lambda seen: answers.pop(0)) as server:
        assert get(make(server.url)) == b'{"data": []}'


def test_a_truncated_body_is_never_accepted(make: Make) -> None:
    answers = [Say({"data": [1, 2]}, length=1000), Say({"data": [1, 2, 3]})]
    with Scripted(lambda seen: answers.pop(0)) as server:
        assert get(make(server.url)) == b'{"data": [1, 2, 3]}'
    with Scripted(lambda seen: Say({"data": []}, length=99)) as server, pytest.raises(TransportError, match="cut off"):
        get(make(server.url))
    assert len(server.seen) == 4


def test_truncated_chunks_are_never_accepted(make: Make) -> None:
    def talk(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n[1,2]\r\n")

    with raw_server(talk) as (url, accepted), pytest.raises(TransportError, match="cut off"):
        get(make(url))
    assert len(accepted) == 4


def test_damaged_compression_is_retried(make: Make) -> None:
    whole = gzip.compress(b'{"data": []}')
    packed = (("Content-Encoding", "gzip"),)
    bodies = [b"no gzip at all", whole]
    with Scripted(lambda seen: Say(bodies.pop(0), headers=packed)) as server:
        assert get(make(server.url)) == b'{"data": []}'
    assert len(server.seen) == 2


def test_a_read_timeout_is_retried(make: Make) -> None:
    narrowed: list[int] = []
    with raw_server(silent) as (url, accepted):
        transport = make(url, read_timeout=0.1)
        transport.on_throttle(lambda: narrowed.append(1))
        with pytest.raises(TransportError, match=r"no bytes received for 0\.1 s"):
            get(transport)
    assert len(accepted) == 4
    # It may be overloaded, so fewer concurrent requests are better, as after a 429.
    assert (len(narrowed), transport.traffic.throttled) == (4, 0)


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
DRIPS = {
    "body": HEAD + b"Content-Length: 100000\r\n\r\n",
    "body of a connection that closes": HEAD + b"Connection: close\r\n\r\n",
    "headers": HEAD + b"X-Endless: ",
    "status line": b"HTT",
}


@pytest.mark.parametrize("where", DRIPS)
def test_a_response_that_trickles_in_is_ended_by_the_deadline(make: Make, where: str) -> None:
    began = time.monotonic()
    with (
        raw_server(drip(DRIPS[where], b"x")) as (url, accepted),
        pytest.raises(TransportError, match=r"deadline of 0\.5 s for one resource is exceeded"),
    ):
        get(make(url, deadline=0.5, read_timeout=5))
    assert time.monotonic() - began > 0.45
    assert len(accepted) == 1


def test_a_tls_handshake_that_trickles_in_is_ended_by_the_deadline(make: Make) -> None:
    with raw_server(drip(b"\x16\x03\x03\x40\x00", b"\0")) as (url, _), pytest.raises(TransportError, match="deadline"):
        get(make(url.replace("http:", "https:"), deadline=0.5))


def test_the_deadline_starts_with_the_first_request(make: Make) -> None:
    with Scripted(failing()) as server:
        transport = make(server.url, deadline=2)
        time.sleep(2.1)
        get(transport)
        time.sleep(2.1)
        with pytest.raises(TransportError, match="deadline"):
            get(transport)
    assert len(server.seen) == 1


def test_a_wait_beyond_the_deadline_is_not_started(make: Make) -> None:
    began = time.monotonic()
    with (
        Scripted(failing(503, headers=(("Retry-After", "50"),))) as server,
        pytest.raises(TransportError, match="leaves no"),
    ):
        get(make(server.url, deadline=40))
    assert time.monotonic() - began < 30


def test_a_pause_caused_by_others_ends_at_the_deadline(make: Make, tmp_path: Path) -> None:
    rate_limit = RateLimit(tmp_path, max_concurrency=2)
    rate_limit.pause(30)
    with Scripted(failing()) as server, pytest.raises(TransportError, match="deadline"):
        get(make(server.url, rate_limit=rate_limit, deadline=0.3))
    assert not server.seen


@pytest.mark.parametrize("where", ["silence", *DRIPS])
def test_closing_aborts_requests_in_progress(make: Make, where: str) -> None:
    with raw_server(silent if where == "silence" else drip(DRIPS[where], b"x")) as (url, accepted):
        transport = make(url)
        with ThreadPoolExecutor(1) as workers:
            job = workers.submit(get, transport)
            while not accepted:
                time.sleep(0.01)
            time.sleep(0.1)
            began = time.monotonic()
            transport.close()
            with pytest.raises(TransportError, match="stopped"):
                job.result(timeout=60)
    assert time.monotonic() - began < 20


def test_closing_ends_a_wait_between_attempts(make: Make) -> None:
    with Scripted(failing(500)) as server, ThreadPoolExecutor(1) as workers:
        transport = make(server.url, retry=Retry(backoff_factor=30))
        job = workers.submit(get, transport)
        while not server.seen:
            time.sleep(0.01)
        time.sleep(0.1)
        transport.close()
        with pytest.raises(TransportError, match="stopped"):
            job.result(timeout=60)


# Size


def test_a_body_that_announces_too_much_is_not_read(make: Make) -> None:
    with (
        Scripted(lambda seen: Say(b"", length=10**12)) as server,
        pytest.raises(TransportError, match="max_response_bytes"),
    ):
        get(make(server.url))
    assert len(server.seen) == 1


@pytest.mark.slow
def test_a_gzip_bomb_is_stopped_early(make: Make) -> None:
    bomb = gzip.compress(gzip.compress(bytes(300 << 20), 9), 9)
    assert len(bomb) < 5000
    packed = (("Content-Encoding", "gzip, gzip"),)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with (
        Scripted(lambda seen: Say(bomb, headers=packed)) as server,
        pytest.raises(TransportError, match=r"exceeds limits\.max_response_bytes"),
    ):
        get(make(server.url, max_response_bytes=1 << 20))
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10
    assert grown < 30, f"{grown} MB"


def test_an_aborted_body_does_not_leak_a_connection(make: Make) -> None:
    def talk(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(100):
            connection.sendall(b"8000\r\n" + b" " * 0x8000 + b"\r\n")

    with raw_server(talk) as (url, accepted):
        transport = make(url, max_response_bytes=1 << 20, max_concurrency=2, deadline=10)
        for _ in range(5):
            with pytest.raises(TransportError, match=r"exceeds limits\.max_response_bytes"):
                get(transport)
    assert len(accepted) == 5


# Connections


def test_connections_are_reused(make: Make) -> None:
    with Scripted(failing()) as server:
        transport = make(server.url)
        for _ in range(30):
            get(transport)
    assert (len(server.seen), server.connections) == (30, 1)


def test_there_are_no_more_connections_than_permits(make: Make) -> None:
    def slowly(_: Seen) -> Say:
        time.sleep(0.01)
        return Say()

    with Scripted(slowly) as server:
        transport = make(server.url, max_concurrency=3)
        with ThreadPoolExecutor(12) as workers:
            list(workers.map(lambda _: get(transport), range(60)))
    assert server.connections == 3
    assert server.most_at_once == 3


def test_a_connection_that_the_server_closed_meanwhile_is_replaced_without_a_retry(make: Make) -> None:
    with Scripted(lambda seen: Say(headers=(("Connection", "close"),))) as server:
        transport = make(server.url)
        for _ in range(3):
            get(transport)
    assert (server.connections, transport.traffic.retries) == (3, 0)


@pytest.mark.parametrize("interim", [1, 2, 50])
def test_responses_that_only_precede_the_response_are_skipped(interim: int, make: Make) -> None:
    early = (
        b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n" * interim
    )

    def talk(connection: socket.socket) -> None:
        for number in range(3):
            connection.recv(65536)
            connection.sendall(early + b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n[%d]" % number)

    with raw_server(talk) as (url, accepted):
        transport = make(url)
        if interim == 50:
            with pytest.raises(TransportError, match="more than 10 responses precede the response"):
                get(transport)
        else:
            assert [get(transport) for _ in range(3)] == [b"[0]", b"[1]", b"[2]"]
            assert len(accepted) == 1


def test_repeated_headers_are_all_kept(make: Make) -> None:
    links = (("Link", '</a>; rel="prev"'), ("Link", '</b>; rel="next"'))
    with Scripted(lambda seen: Say(headers=links)) as server:
        found = make(server.url).send(Request("/v1/devices"), lambda reply: reply.headers["Link"])
    assert found == '</a>; rel="prev", </b>; rel="next"'


# Redirects and URLs from the server

QUERY = {"type": "api_key", "name": "api_key", "location": "query"}


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_within_the_origin_is_followed_with_the_key(make: Make, status: int) -> None:
    def answer(seen: Seen) -> Say:
        return (
            Say(status=status, headers=(("Location", "/v2/devices?page=1"),)) if "v1" in seen.target else Say("there")
        )

    with Scripted(answer) as server:
        assert get(make(server.url, auth=QUERY)) == b'"there"'
    assert server.seen[1].target == f"/v2/devices?page=1&api_key={KEY}"


@pytest.mark.parametrize(("status", "method"), [(302, "GET"), (303, "GET"), (307, "POST"), (308, "POST")])
def test_a_redirected_post_uses_the_same_method_as_other_clients(make: Make, status: int, method: str) -> None:
    def answer(seen: Seen) -> Say:
        return Say(status=status, headers=(("Location", "/v2"),)) if seen.target == "/v1" else Say()

    with Scripted(answer) as server:
        get(make(server.url), "/v1", method="POST", json={"page": 1})
    assert (server.seen[1].method, server.seen[1].body) == (method, b'{"page": 1}' if method == "POST" else b"")


def test_a_redirect_loop_ends(make: Make) -> None:
    circle = Say(status=302, headers=(("Location", "/v1/devices"),))
    with Scripted(lambda seen: circle) as server, pytest.raises(TransportError, match="more than 5 redirects"):
        get(make(server.url))
    assert len(server.seen) == 6


def test_a_redirect_without_a_location_is_an_error(make: Make) -> None:
    with (
        Scripted(lambda seen: Say(status=302)) as server,
        pytest.raises(TransportError, match="a redirect that cannot be followed"),
    ):
        get(make(server.url))


def test_a_response_to_a_conditional_request_says_which_headers_to_remove(make: Make) -> None:
    with (
        Scripted(lambda seen: Say(b"", status=304)) as server,
        pytest.raises(TransportError, match="HTTP 304: not modified; remove If-None-Match and If-Modified-Since"),
    ):
        get(make(server.url))
    assert len(server.seen) == 1


ELSEWHERE = [
    "http://{other}/v1",
    "//{other}/v1",
    "http://{other}\\@{host}/v1",
    "http:\\\\{other}/v1",
    "http://{host}@{other}/v1",
    "http://{host}:1@{other}/v1",
    "http://{other}#@{host}/v1",
    "https://{host}/v1",
    "http://localhost:{port}/v1",
    "ftp://{host}/v1",
    "file:///etc/passwd",
    "http://[/v1",
]


@pytest.mark.parametrize("way", ["redirect", "next link"])
@pytest.mark.parametrize("auth", [QUERY, {"type": "api_key", "name": "X-API-KEY", "location": "header"}, "bearer"])
def test_the_key_never_goes_to_another_origin(make: Make, way: str, auth: Any) -> None:
    location = [""]
    with (
        Scripted(failing()) as other,
        Scripted(lambda seen: Say(status=307, headers=(("Location", location[0]),))) as server,
    ):
        transport = make(server.url, auth=auth)
        for trick in ELSEWHERE:
            host = f"127.0.0.1:{server.port}"
            location[0] = trick.format(other=f"127.0.0.1:{other.port}", host=host, port=server.port)
            before = len(server.seen)
            with pytest.raises(TransportError) as caught:
                get(transport, "/v1" if way == "redirect" else transport.same_origin(location[0]))
            # Without slashes, it is a path of the same origin here, but not in browsers.
            own = trick.startswith("http:\\\\")
            assert ("more than 5 redirects" if own else "another origin") in str(caught.value), trick
            assert KEY not in str(caught.value)
            assert len(server.seen) - before <= (6 if own else 1)
    assert not other.seen


def test_a_next_link_loses_the_echoed_key_and_keeps_its_spelling(make: Make) -> None:
    with Scripted(failing()) as server:
        transport = make(server.url, auth=QUERY)
        link = transport.same_origin(f"{server.url}/v1?$top=2&api_key={KEY}&after=a%2Bb~;c#x")
        assert link == f"{server.url}/v1?$top=2&after=a%2Bb~;c#x"
        get(transport, link)
    assert server.seen[0].target == f"/v1?$top=2&after=a%2Bb~;c&api_key={KEY}"


@pytest.mark.parametrize(
    "url", ["http://192.0.2.1/v1", "http://rmm.example.com", "http://127.0.0.1.example.com", "http://rmm.localhost"]
)
def test_plain_http_beyond_this_machine_is_refused(make: Make, url: str) -> None:
    with pytest.raises(ValueError, match=r"plain http would send the key unencrypted; write https, or `allow_http"):
        make(url)
    make(url, allow_http=True)


@pytest.mark.parametrize("url", ["http://127.0.0.1", "http://127.8.9.1:80/x", "http://[::1]:1", "http://localhost:8"])
def test_plain_http_on_this_machine_is_accepted(make: Make, url: str) -> None:
    make(url)


@pytest.mark.parametrize("url", ["ftp://x/y", "rmm.example.com", "http://", "https://me:s3cret-word@rmm.example.com/"])
def test_an_invalid_url_or_one_with_a_password_is_refused_without_repeating_it(make: Make, url: str) -> None:
    with pytest.raises(ValueError, match=r"client\.base_url") as caught:
        make(url)
    assert "s3cret-word" not in str(caught.value)


# TLS


def test_a_private_ca_is_trusted_if_configured(make: Make, tmp_path: Path) -> None:
    certificates = make_certificates(tmp_path)
    with Scripted(failing(), context=certificates.context()) as server:
        transport = make(server.url, auth="bearer", tls=Tls(ca_file=str(certificates.authority)))
        get(transport), get(transport)
    assert [seen.headers["authorization"] for seen in server.seen] == [f"Bearer {KEY}"] * 2
    assert server.connections == 1


@pytest.mark.parametrize(
    ("options", "given", "sentence"),
    [
        ({"self_signed": True}, False, "not trusted: self-signed certificate. If a private CA signed it"),
        ({}, False, "not trusted: unable to get local issuer certificate"),
        ({"host": "rmm.example.com"}, True, "not trusted: IP address mismatch"),
        ({"days": -1}, True, "not trusted: certificate has expired"),
    ],
)
def test_an_untrusted_certificate_is_refused_immediately(
    make: Make, tmp_path: Path, options: dict[str, Any], given: bool, sentence: str
) -> None:
    certificates = make_certificates(tmp_path, **options)
    tls = Tls(ca_file=str(certificates.authority)) if given else None
    with Scripted(failing(), context=certificates.context()) as server, pytest.raises(TransportError, match=sentence):
        get(make(server.url, auth="bearer", tls=tls))
    assert not server.seen
    assert server.connections == 1


def test_a_port_without_tls_is_reported_immediately(make: Make) -> None:
    with (
        Scripted(failing()) as server,
        pytest.raises(TransportError, match=r"TLS failed: .*Does this port speak https\?$"),
    ):
        get(make(server.url.replace("http:", "https:")))
    assert server.connections == 1


def _read_and_hang_up(connection: socket.socket) -> None:
    connection.recv(100)


def test_a_connection_cut_during_tls_is_retried(make: Make) -> None:
    with (
        raw_server(_read_and_hang_up) as (url, accepted),
        pytest.raises(TransportError, match=r"cut during TLS|connection was dropped"),
    ):
        get(make(url.replace("http:", "https:")))
    assert len(accepted) == 4


def test_a_file_that_is_not_a_ca_is_named(make: Make, tmp_path: Path) -> None:
    (tmp_path / "empty.pem").write_text("nothing")
    with pytest.raises(ValueError, match=r"tls\.ca_file: .*empty\.pem does not contain a PEM certificate"):
        make("https://127.0.0.1:1", tls=Tls(ca_file=str(tmp_path / "empty.pem")))
    with pytest.raises(ValueError, match=r"tls\.ca_file: .*gone\.pem: No such file"):
        make("https://127.0.0.1:1", tls=Tls(ca_file=str(tmp_path / "gone.pem")))


# Proxies


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Removes this machine's proxies from the environment."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    return monkeypatch


def test_requests_to_this_machine_never_use_a_proxy(make: Make, environment: pytest.MonkeyPatch) -> None:
    with Scripted(failing()) as proxy, Scripted(failing()) as server:
        environment.setenv("HTTP_PROXY", proxy.url)
        get(make(server.url, auth="bearer"))
    assert (len(proxy.seen), len(server.seen)) == (0, 1)


def test_https_goes_through_the_environments_proxy_and_the_proxy_sees_no_key(
    make: Make, environment: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    certificates = make_certificates(tmp_path, host="rmm.example.com")
    heads: list[bytes] = []
    with Scripted(failing(), context=certificates.context()) as server:

        def tunnel(connection: socket.socket) -> None:
            heads.append(connection.recv(65536))
            connection.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            with socket.create_connection(("127.0.0.1", server.port)) as onward:

                def back() -> None:
                    while data := onward.recv(65536):
                        connection.sendall(data)

                threading.Thread(target=back, daemon=True).start()
                while data := connection.recv(65536):
                    heads.append(data)
                    onward.sendall(data)

        with raw_server(tunnel) as (url, _):
            environment.setenv("HTTPS_PROXY", url.replace("http://", "http://user:pr%40xy-word@"))
            transport = make("https://rmm.example.com/api", auth=QUERY, tls=Tls(ca_file=str(certificates.authority)))
            get(transport), get(transport)
    assert [seen.target for seen in server.seen] == [f"/api/v1/devices?api_key={KEY}"] * 2
    assert heads[0].startswith(b"CONNECT rmm.example.com:443")
    assert b"dXNlcjpwckB4eS13b3Jk" in heads[0]
    assert KEY.encode() not in b"".join(heads)
    assert "pr@xy-word" not in transport.redactor.text("pr@xy-word")


def test_plain_http_through_a_proxy_requests_the_whole_url(make: Make, environment: pytest.MonkeyPatch) -> None:
    with Scripted(failing()) as proxy:
        environment.setenv("HTTP_PROXY", proxy.url)
        get(make("http://rmm.example.com/api", auth=QUERY, allow_http=True))
        environment.setenv("NO_PROXY", "example.com")
        transport = make("http://rmm.example.com/api", auth=QUERY, allow_http=True, connect_timeout=1)
        with pytest.raises(TransportError, match=r"not known|no connection"):
            get(transport)
    assert [seen.target for seen in proxy.seen] == [f"http://rmm.example.com/api/v1/devices?api_key={KEY}"]


def test_a_proxy_that_echoes_requests_does_not_leak_its_password_into_an_error(
    make: Make, environment: pytest.MonkeyPatch
) -> None:
    # Too short to be searched for in base64 on its own, but the header that contains it is not.
    with Scripted(lambda seen: Say(f"who is {seen.headers.get('proxy-authorization')}?".encode(), 407)) as proxy:
        environment.setenv("HTTP_PROXY", proxy.url.replace("http://", "http://user:pw-17@"))
        transport = make("http://rmm.example.com/api", auth=QUERY, allow_http=True)
        with pytest.raises(TransportError, match=r"HTTP 407: .*who is Basic ") as caught:
            get(transport)
    assert proxy.seen[0].headers["proxy-authorization"] == "Basic dXNlcjpwdy0xNw=="
    assert "dXNlcjpwdy0xNw" not in str(caught.value)


def test_a_proxy_that_is_down_or_of_an_unsupported_kind_is_reported(
    make: Make, environment: pytest.MonkeyPatch
) -> None:
    environment.setenv("HTTPS_PROXY", f"127.0.0.1:{free_port()}")
    with pytest.raises(TransportError, match="the environment's proxy failed: no connection: Connection refused"):
        get(make("https://rmm.example.com"))
    environment.setenv("HTTPS_PROXY", "socks5://127.0.0.1:1080")
    with pytest.raises(ValueError, match="proxy of kind socks5"):
        make("https://rmm.example.com")


# Errors


def test_an_error_contains_at_most_200_characters_of_a_body(make: Make) -> None:
    body = Say(b"secret of a customer \n\t\x00" * 500, 400)
    with Scripted(lambda seen: body) as server, pytest.raises(TransportError) as caught:
        get(make(server.url))
    assert len(str(caught.value)) < 260
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


def test_a_parameter_is_sent_as_apis_expect_it(make: Make) -> None:
    with Scripted(failing()) as server:
        get(make(server.url + "/api/"), "v1", params={"all": True, "none": None, "id": [1, 2], "q": "a b&c"})
    assert server.seen[0].target == "/api/v1?all=true&id=1&id=2&q=a+b%26c"


def test_throttle_words_in_a_row_do_not_throttle(make: Make) -> None:
    throttle = [Throttle(status=200, text="slow down")]
    rows = {"data": [{"id": 1, "note": "slow down", "message": "please slow down"}], "meta": {"note": "slow down"}}
    with Scripted(lambda _: Say(rows)) as server:
        get(make(server.url, throttle=throttle))
        assert len(server.seen) == 1
    errors = iter([{"errors": [{"extensions": {"text": "Slow down"}}]}, {"data": []}])
    with Scripted(lambda _: Say(next(errors))) as server:
        get(make(server.url, throttle=throttle))
        assert len(server.seen) == 2


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        ({"error": "API rate limit exceeded"}, ()),
        ({"detail": "Too many requests"}, ()),
        ({"error": "forbidden"}, (("Retry-After", "0.01"),)),
        ({"error": "forbidden"}, (("X-RateLimit-Remaining", "0"),)),
    ],
)
def test_a_tolerated_response_that_is_rate_limited_is_retried(make: Make, body: Any, headers: Any) -> None:
    answers = iter([Say(body, 403, headers), Say({"error": "not licensed"}, 403)])
    with Scripted(lambda _: next(answers)) as server:
        transport = make(server.url)
        found = transport.send(Request("x"), lambda reply: reply.status, tolerate=lambda reply: reply.status == 403)
        assert found == 403
        assert len(server.seen) == 2
        assert transport.traffic.throttled == 1

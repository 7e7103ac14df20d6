"""Tests that a run pushes metrics to a collector of OpenTelemetry, that the dashboard uses them, and that they hold no secret."""

from __future__ import annotations

import json
import logging
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from rmm_assets.errors import TransportError
from rmm_assets.simulator import Faults, Simulator
from rmm_assets_tests.commands import rmm
from rmm_assets_tests.customers import NORTH, SOUTH, WEST, Customers, key_of
from rmm_assets_tests.redis_server import free_port
from rmm_assets_tests.syncing import KEY, connection, devices, run

pytest.importorskip("opentelemetry.sdk", reason="pip install 'rmm_assets[metrics]'")

DASHBOARD = Path(__file__).parents[2] / "deploy" / "grafana" / "rmm_assets.json"
ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"

TENANTS = """
type: rmm_assets.RmmConnection
attributes:
  name: acme
  client:
    base_url: "{base_url}/{{settings.path}}"
    auth: {{type: api_key, name: api_key, location: query}}
  api_key: {{env: "MSP_{{tenant}}_KEY"}}
  resource_defaults: {{primary_key: id, write_disposition: merge}}
  tenants:
    - {{name: north-1, settings: {{path: north-1}}}}
    - {{name: south, settings: {{path: south}}}}
    - {{name: west, settings: {{path: west}}}}
  resources:
    - name: devices
      endpoint: {{path: /v1/devices, data_selector: data, paginator: {{type: offset, limit: 100}}}}
"""

Point = tuple[str, tuple[tuple[str, str], ...]]


class Collector(ThreadingHTTPServer):
    """Receives OTLP over HTTP, as a collector does."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.bodies: list[bytes] = []

    @property
    def metrics(self) -> list[Any]:
        """Returns all metrics received, in order."""
        from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

        requests = [ExportMetricsServiceRequest.FromString(body) for body in self.bodies]
        return [
            metric
            for request in requests
            for resource in request.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
        ]

    @property
    def points(self) -> dict[Point, float]:
        """Returns the values received, summed for counters, by name and labels."""
        found: dict[Point, float] = {}
        for metric in self.metrics:
            for point in (metric.sum if metric.HasField("sum") else metric.gauge).data_points:
                labels = tuple(sorted((one.key, one.value.string_value) for one in point.attributes))
                value = point.as_double if point.HasField("as_double") else float(point.as_int)
                found[metric.name, labels] = found.get((metric.name, labels), 0.0) + value
        return found

    def value(self, name: str, **labels: str) -> float | None:
        of = {"connection": "acme", "resource": "devices", **labels}
        return self.points.get((name, tuple(sorted(of.items()))))


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        assert isinstance(self.server, Collector) and self.path == "/v1/metrics"
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.bodies.append(body)
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None: ...


@contextmanager
def collecting() -> Iterator[Collector]:
    with Collector() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield server
        finally:
            server.shutdown()


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    with collecting() as server:
        monkeypatch.setenv(ENDPOINT, f"http://127.0.0.1:{server.server_port}")
        yield server


@pytest.mark.slow
def test_loads_and_failures_are_counted_by_connection_and_resource(collector: Collector, tmp_path: Path) -> None:
    with Simulator(tables={"devices": devices(250)}) as server:
        server.set_faults(Faults(status=503, times=1))
        run(tmp_path, server.base_url)
        run(tmp_path, server.base_url)
        sent = len(server.requests)
        assert collector.value("rmm.syncs", verdict="loaded") == 2
        assert collector.value("rmm.requests") == sent
        assert collector.value("rmm.retries") == 1
        assert collector.value("rmm.rows", kind="received") == 500
        assert collector.value("rmm.rows", kind="written") == 250
        server.set_faults(Faults(status=401))
        with pytest.raises(TransportError):
            run(tmp_path, server.base_url)
        assert collector.value("rmm.syncs", verdict="failed") == 1
        assert collector.value("rmm.requests") == len(server.requests)
    assert (collector.value("rmm.waiting") or 0) > 0
    # Each attempt sends its own numbers, so that a restarted counter is not taken for one that stands still.
    assert {metric.sum.aggregation_temporality for metric in collector.metrics if metric.HasField("sum")} == {1}
    # The key is in the URL of each request.
    assert not any(KEY.encode() in body or b"api_key" in body or b"http://" in body for body in collector.bodies)
    labels = {name for _, point in collector.points for name, _ in point}
    assert labels == {"connection", "resource", "verdict", "kind"}


@pytest.mark.slow
def test_a_command_counts_the_verdict_of_each_tenant(
    collector: Collector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There may be thousands of tenants, so they have no labels."""
    folder = tmp_path / "connections" / "acme"
    folder.mkdir(parents=True)
    (tmp_path / "home").mkdir()
    keys = {f"MSP_{name.upper().replace('-', '_')}_KEY": key_of(name) for name in (NORTH, SOUTH, WEST)}
    places = {"DAGSTER_HOME": str(tmp_path / "home"), "RMM_CONNECTIONS": str(folder.parent)}
    with Customers() as customers:
        customers.devices = dict.fromkeys((NORTH, SOUTH, WEST), devices(5))
        customers.fails = {SOUTH: 403}
        (folder / "defs.yaml").write_text(TENANTS.format(base_url=customers.server.url))
        done = rmm(["sync", "acme"], tmp_path, {**os.environ, **keys, **places})
        assert done.returncode == 1, done.stdout + done.stderr
        assert [collector.value("rmm.syncs", verdict=verdict) for verdict in ("loaded", "failed")] == [2, 1]
        assert collector.value("rmm.requests") == len(customers.server.seen)
        assert collector.value("rmm.rows", kind="received") == 10
    assert not any(word.encode() in body for body in collector.bodies for word in (*keys.values(), NORTH, SOUTH, WEST))


@pytest.mark.slow
def test_the_dashboard_uses_the_names_that_a_run_sends(collector: Collector, tmp_path: Path) -> None:
    with Simulator(tables={"devices": devices(3)}) as server:
        run(tmp_path, server.base_url)
    sent = set()
    for metric in collector.metrics:
        # As Prometheus names what it receives by OTLP.
        unit = {"s": "_seconds", "": ""}[metric.unit]
        sent.add(metric.name.replace(".", "_") + unit + ("_total" if metric.HasField("sum") else ""))
    text = json.dumps([json.loads(DASHBOARD.read_text())])
    assert set(re.findall(r"\brmm_(?!assets)\w+", text)) == sent
    labels = {name for _, point in collector.points for name, _ in point}
    used = set(re.findall(r"\{\{(\w+)\}\}", text)) | set(re.findall(r"by \((\w+)", text))
    assert used <= labels


@pytest.mark.slow
def test_nothing_is_sent_by_default(
    collector: Collector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv(ENDPOINT)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    with Simulator(tables={"devices": devices(3)}) as server:
        run(tmp_path, server.base_url)
    assert not collector.bodies
    assert "export" not in caplog.text.lower()


@pytest.mark.slow
def test_a_collector_that_is_away_makes_no_run_red(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(ENDPOINT, f"http://user:not-secret@127.0.0.1:{free_port()}")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    caplog.set_level(logging.DEBUG)
    with Simulator(tables={"devices": devices(3)}) as server:
        assert run(tmp_path, server.base_url, connection()).row_count == 3
    assert "export" in caplog.text.lower()
    assert "not-secret" not in caplog.text

"""Sends what a run did to one resource as OpenTelemetry metrics, if the environment names a collector; needs the extra `metrics`.

Runs are short-lived, so they push, and their counters are deltas: each attempt at a resource sends its own numbers once.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

from rmm_assets.http.transport import Traffic

if TYPE_CHECKING:
    from opentelemetry.sdk.metrics import MeterProvider

    from rmm_assets.tables.syncs import Sync

# OpenTelemetry's own variables.
VARIABLES = ("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")


def send(connection: str, sync: Sync, verdicts: Mapping[str, int], traffic: Traffic, log: logging.Logger) -> None:
    """Sends the metrics of one attempt, and waits until the collector has them. No fault of it makes a run red.

    Args:
        connection: Name of the connection.
        sync: What the attempt did.
        verdicts: How many tenants have each verdict; names of tenants are no labels, as there may be thousands.
        traffic: Its requests.
        log: Is told why nothing could be sent.
    """
    if not any(os.environ.get(variable) for variable in VARIABLES):
        return
    try:
        provider = _provider()
    except ImportError:
        log.warning("metrics are not sent: pip install 'rmm_assets[metrics]'")
        return
    try:
        _record(provider, connection, sync, verdicts, traffic)
        provider.force_flush()  # the exporter logs what goes wrong; a reader without an interval sends nothing at shutdown
        provider.shutdown()
    except Exception as error:
        log.warning("metrics are not sent: %s", type(error).__name__)


def _provider() -> MeterProvider:
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
    from opentelemetry.sdk.metrics import Counter, MeterProvider
    from opentelemetry.sdk.metrics.export import AggregationTemporality, PeriodicExportingMetricReader
    from opentelemetry.sdk.resources import Resource

    exporter = OTLPMetricExporter(preferred_temporality={Counter: AggregationTemporality.DELTA})
    reader = PeriodicExportingMetricReader(exporter, export_interval_millis=math.inf)
    resource = Resource.create({"service.name": os.environ.get("OTEL_SERVICE_NAME") or "rmm_assets"})
    return MeterProvider([reader], resource=resource, shutdown_on_exit=False)


def _record(
    provider: MeterProvider, connection: str, sync: Sync, verdicts: Mapping[str, int], traffic: Traffic
) -> None:  # fmt: skip
    meter = provider.get_meter("rmm_assets")
    of = {"connection": connection, "resource": sync.resource}

    def count(name: str, number: float, description: str, unit: str = "", **labels: str) -> None:
        meter.create_counter(name, unit, description).add(number, {**of, **labels})

    for verdict, number in verdicts.items():
        count("rmm.syncs", number, "Attempts at a resource, by verdict", verdict=verdict)
    count("rmm.requests", traffic.requests, "Requests sent, including retries")
    count("rmm.retries", traffic.retries, "Requests repeated after a fault")
    count("rmm.throttled", traffic.throttled, "Responses that were rate limited")
    count("rmm.waiting", traffic.seconds_waiting, "Time from request to response, summed over all workers", "s")
    rows = {
        "received": sync.rows_received or 0, "loaded": sync.rows_loaded, "written": sync.rows_written or 0,
        "rejected": sync.rows_rejected, "absent": sync.rows_absent,
    }  # fmt: skip
    for kind, number in rows.items():
        count("rmm.rows", number, "Rows of an attempt, by what happened to them", kind=kind)
    meter.create_gauge("rmm.duration", "s", "Time that the last attempt took").set(sync.seconds, of)
    if sync.row_count is not None:
        meter.create_gauge("rmm.table.rows", "", "Rows in the table after the last load").set(sync.row_count, of)

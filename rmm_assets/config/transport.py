"""Builds what a connection's requests are sent with: its transport, and the limits that its processes share."""

from __future__ import annotations

import logging
from pathlib import Path

from rmm_assets.config.connection import Connection
from rmm_assets.config.resource import Resource
from rmm_assets.http.address import read_origin
from rmm_assets.http.auth import Secret, build_auth
from rmm_assets.http.rate_limit import Permits
from rmm_assets.http.redaction import Redactor
from rmm_assets.http.shared_limit import open_permits
from rmm_assets.http.tokens import Tokens
from rmm_assets.http.transport import Transport


def rate_limit_of(connection: Connection, work: Path, host: str = "") -> Permits:
    """Returns the permits under a connection's limits; close them after the last request.

    Args:
        connection: The connection.
        work: The folder that all its processes on this machine share.
        host: The API's host, if the connection's limits hold for each of several.
    """
    limits = connection.limits
    return open_permits(
        work,
        f"{connection.name}/{host}" if host else connection.name,
        max_concurrency=limits.max_concurrency,
        requests_per_minute=limits.requests_per_minute,
    )


def host_of(connection: Connection) -> str:
    """Returns the API's host and port, for the limits of tenants, which share those of their host; empty without an address."""
    address = connection.client.base_url or ""
    return ".".join(map(str, read_origin(address)[1:])) if address else ""


def transport_of(
    connection: Connection, resource: Resource, secret: Secret, redactor: Redactor, rate_limit: Permits, *,
    base_url: str | None = None, log: logging.Logger, tokens: Tokens | None = None,
) -> Transport:  # fmt: skip
    """Builds the transport for a resource's requests; close it after the last one.

    Args:
        connection: The connection.
        resource: The resource.
        secret: The connection's secrets.
        redactor: Learns what to mask.
        rate_limit: Permits to send requests.
        base_url: The API's address if it is not the connection file's (the embedded RMM's).
        log: Receives retries and warnings.
        tokens: The tokens to share; by default, the resource fetches its own.

    Raises:
        ValueError: There is no base URL, or an auth lacks its secret.
    """
    address, limits = base_url or connection.client.base_url, connection.limits
    if not address:
        raise ValueError(f"{connection.name}: client.base_url is not set")
    settings = resource.endpoint.auth or connection.client.auth
    auth = build_auth(settings, secret, redactor, resource.endpoint.params, tokens)
    redactor.warn(log)
    if resource.deadline is not None:
        limits = limits.model_copy(update={"deadline": resource.deadline})
    return Transport(
        address, auth=auth, redactor=redactor, rate_limit=rate_limit, retry=connection.retry, limits=limits,
        tls=connection.tls, headers=connection.client.headers, allow_http=connection.allow_http, log=log,
    )  # fmt: skip

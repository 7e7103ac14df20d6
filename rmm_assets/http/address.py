"""Parses the origin of a URL, and decides whether a secret may be sent there."""

from __future__ import annotations

import ipaddress

import urllib3
from urllib3.util import Url, parse_url

PORTS = {"http": 80, "https": 443}

Origin = tuple[str, str, int]
"""Scheme, host and port."""


def read_origin(url: str) -> Origin:
    """Returns the origin of an absolute URL, parsed by the library that connects, because URL parsers disagree.

    Raises:
        ValueError: It is not an http(s) URL.
    """
    try:
        parts: Url = parse_url(url)
    except urllib3.exceptions.LocationParseError:
        raise ValueError("this is not a URL") from None
    if parts.scheme not in PORTS or not parts.host:
        raise ValueError("this is not an http(s) URL")
    return parts.scheme, parts.host.rstrip("."), parts.port or PORTS[parts.scheme]


def is_loopback(host: str) -> bool:
    """Returns whether a host is certainly this machine.

    That is `localhost` or a loopback address, but not `anything.localhost`, which some resolvers look up in DNS.
    """
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def address_fault(url: str, *, allow_http: bool) -> str | None:
    """Returns why a secret must not be sent to a URL, or None if it may be."""
    try:
        scheme, host, _ = read_origin(url)
    except ValueError as error:
        return f"{error}; write https://host/path"
    if "@" in url.partition("://")[2].partition("/")[0]:
        return "a URL must not contain a user name or password; use `auth` and `api_key` instead"
    if scheme == "http" and not allow_http and not is_loopback(host):
        return (
            "plain http would send the key unencrypted; write https, or `allow_http: true` next to `client` if you "
            "trust the network"
        )
    return None

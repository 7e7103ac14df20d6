"""Puts each machine of a cluster on a network of its own: a network namespace, from which others are only reached by address.

Needs root and iproute2. Everything has the id of the process that made it in its name, so that the next start removes what a
killed one has left.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

# For tests of networks (RFC 2544), so that nothing that matters has these addresses.
_PREFIX = "198.18"
_NAME = re.compile(r"\brmm-(\d+)(?:-\w+)?\b")
LOOPBACK = "127.0.0.1"


@dataclass(frozen=True)
class Network:
    """The networks of a cluster's machines.

    Attributes:
        address: Where machines reach servers of this machine; without namespaces its loopback.
        namespaces: The network namespace of each machine, by its name; empty if there are none.
        reason: Why there are none.
    """

    address: str = LOOPBACK
    namespaces: Mapping[str, str] = field(default_factory=dict)
    reason: str = ""

    @property
    def addresses(self) -> tuple[str, ...]:
        """The addresses on which servers of this machine listen."""
        return tuple(dict.fromkeys((LOOPBACK, self.address)))

    def inside(self, machine: str) -> list[str]:
        """Returns what precedes a command to run it on a machine's network."""
        name = self.namespaces.get(machine)
        return [] if name is None else ["nsenter", f"--net=/run/netns/{name}"]


@contextmanager
def network(machines: Sequence[str]) -> Iterator[Network]:
    """Yields networks for these machines, connected to this one by a bridge; all share this one's if that is not possible."""
    if os.geteuid() != 0:
        yield Network(reason="only root can make network namespaces")
        return
    owner = os.getpid()
    try:
        for pid in {*_left(), owner}:
            _remove(pid)
        made = _made(owner, machines)
    except (OSError, subprocess.CalledProcessError) as error:
        said = error.stderr.strip() if isinstance(error, subprocess.CalledProcessError) else str(error)
        _remove(owner)
        yield Network(reason=f"network namespaces cannot be made: {said}")
        return
    try:
        yield made
    finally:
        _remove(owner)


def _made(owner: int, machines: Sequence[str]) -> Network:
    bridge, there = f"rmm-{owner}", _ip("-o", "address")
    subnet = next(f"{_PREFIX}.{number}" for number in range(256) if f" {_PREFIX}.{number}." not in there)
    _ip("link", "add", bridge, "type", "bridge")
    _ip("address", "add", f"{subnet}.1/24", "dev", bridge)
    _ip("link", "set", bridge, "up")
    namespaces = {machine: f"rmm-{owner}-{machine}" for machine in machines}
    for number, name in enumerate(namespaces.values()):
        here = f"rmm-{owner}-{number}"
        _ip("netns", "add", name)
        _ip("link", "add", here, "type", "veth", "peer", "name", "eth0", "netns", name)
        _ip("link", "set", here, "master", bridge, "up")
        _ip("-n", name, "address", "add", f"{subnet}.{number + 2}/24", "dev", "eth0")
        for device in ("lo", "eth0"):
            _ip("-n", name, "link", "set", device, "up")
    return Network(f"{subnet}.1", namespaces)


def _left() -> set[int]:
    """Returns the processes that are gone and have left networks."""
    owners = {int(pid) for pid in _NAME.findall(_ip("netns", "list") + _ip("-o", "link"))}
    return {pid for pid in owners if not os.path.exists(f"/proc/{pid}")}


def _remove(owner: int) -> None:
    """Removes the networks that a process has made."""
    with suppress(OSError, subprocess.CalledProcessError):
        for name in re.findall(rf" (rmm-{owner}(?:-\d+)?)[@:]", _ip("-o", "link")):
            _ip("link", "delete", name)
        for name in re.findall(rf"^rmm-{owner}-\w+", _ip("netns", "list"), re.MULTILINE):
            _ip("netns", "delete", name)


def _ip(*words: str) -> str:
    return subprocess.run(["ip", *words], check=True, capture_output=True, text=True).stdout

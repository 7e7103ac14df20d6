"""The embedded RMM: a made-up fleet behind a real HTTP server, with faults to switch on.

It is what the demo connection syncs and what the tests run against. It needs the standard library only and
knows nothing of dlt, Dagster or the rest of this package.
"""

from __future__ import annotations

from rmm_assets.simulator.faults import Faults, Move
from rmm_assets.simulator.fleet import Fleet
from rmm_assets.simulator.server import LoggedRequest, Simulator, run

__all__ = ["Faults", "Fleet", "LoggedRequest", "Move", "Simulator", "run"]

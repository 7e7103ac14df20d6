"""Simulates an RMM: a made-up fleet behind a real HTTP server, with optional faults.

The demo connection and the tests run against it. It uses only the standard library, and no other part of this package.
"""

from __future__ import annotations

from rmm_assets.simulator.faults import Faults, Move
from rmm_assets.simulator.fleet import Fleet
from rmm_assets.simulator.server import LoggedRequest, Simulator, run

__all__ = ["Faults", "Fleet", "LoggedRequest", "Move", "Simulator", "run"]

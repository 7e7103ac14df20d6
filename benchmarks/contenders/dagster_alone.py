"""Contender z: one empty asset through ``dagster asset materialize``, to measure Dagster's start-up.

Subtract it from the figures of the Dagster contenders to get the cost of loading alone.
"""

from __future__ import annotations

from benchmarks.contenders.dagster_process import become_materialize

if __name__ == "__main__":
    become_materialize("benchmarks.contenders.alone_definitions", {})

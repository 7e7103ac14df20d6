"""Contender z: one empty asset through ``dagster asset materialize``: what Dagster's own start costs.

Taken off the Dagster contenders' figures, it leaves what their loading costs.
"""

from __future__ import annotations

from benchmarks.contenders.dagster_process import become_materialize

if __name__ == "__main__":
    become_materialize("benchmarks.contenders.alone_definitions", {})

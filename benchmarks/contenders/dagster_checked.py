"""Contender y: an empty asset with checks for each resource, to measure what Dagster records for a run like ours."""

from __future__ import annotations

from benchmarks.contenders.dagster_process import become_materialize
from benchmarks.contenders.task import task_from_arguments

if __name__ == "__main__":
    become_materialize("benchmarks.contenders.checked_definitions", task_from_arguments().environment())

"""Contender c: the generic config in a stock ``@dlt_assets``, through ``dagster asset materialize``."""

from __future__ import annotations

from benchmarks.contenders.dagster_process import become_materialize
from benchmarks.contenders.task import task_from_arguments

if __name__ == "__main__":
    become_materialize("benchmarks.contenders.stock_definitions", task_from_arguments().environment())

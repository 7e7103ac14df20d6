"""Turns a task into the generic config as a connection file of this project."""

from __future__ import annotations

import os

from benchmarks.contenders.task import DATASET, Task

KEY_VARIABLE = "BENCH_API_KEY"


def connection_file(task: Task) -> str:
    """Returns the connection file's YAML; the secret is in the variable ``KEY_VARIABLE``."""
    resources = "".join(
        f"""
    - name: {name}
      endpoint:
        path: /v1/{name}
        data_selector: data
        paginator: {{type: offset, limit: {task.page}}}"""
        for name in task.names
    )
    memory = os.environ.get("BENCH_DUCKDB_MEMORY")
    limit = f"\n  destination: {{type: duckdb, memory_limit: {memory}}}" if memory else ""
    return f"""\
type: rmm_assets.RmmConnection
attributes:
  name: {DATASET}
  client:
    base_url: {task.base_url}
    auth: {{type: api_key, name: api_key, location: query}}
  api_key: {{env: {KEY_VARIABLE}}}{limit}
  limits: {{max_concurrency: {task.concurrency}}}
  resource_defaults:
    primary_key: id
    write_disposition: merge
  resources:{resources}
"""

"""Turns a task into the generic config of dlt's ``rest_api`` source, as in its documentation.

Plain dlt and stock dagster-dlt load exactly this config.
"""

from __future__ import annotations

from dlt.sources.rest_api.typing import RESTAPIConfig

from benchmarks.contenders.task import API_KEY, Task


def rest_api_config(task: Task) -> RESTAPIConfig:
    """Returns the config: API key in the query, merge by id, offset paging."""
    return {
        "client": {
            "base_url": task.base_url,
            "auth": {"type": "api_key", "name": "api_key", "api_key": API_KEY, "location": "query"},
        },
        "resource_defaults": {"primary_key": "id", "write_disposition": "merge"},
        "resources": [
            {
                "name": name,
                "endpoint": {
                    "path": f"/v1/{name}",
                    "data_selector": "data",
                    "paginator": {"type": "offset", "limit": task.page},
                },
            }
            for name in task.names
        ],
    }

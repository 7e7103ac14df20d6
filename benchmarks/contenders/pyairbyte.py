"""Contender p: PyAirbyte with a declarative manifest, into its DuckDB cache.

Runs in its own environment (``pyairbyte.requirements.txt``).
"""

# mypy: disable-error-code="import-not-found,misc"
# The packages are only in this contender's environment.

from __future__ import annotations

from typing import Any

import airbyte

from benchmarks.contenders.schema import json_schema
from benchmarks.contenders.task import API_KEY, DATASET, Task, task_from_arguments


def manifest(task: Task) -> dict[str, Any]:
    """Returns the generic config as an Airbyte low-code manifest."""
    return {
        "version": "6.0.0",
        "type": "DeclarativeSource",
        "check": {"type": "CheckStream", "stream_names": task.names[:1]},
        "streams": [_stream(task, name) for name in task.names],
        "spec": {
            "type": "Spec",
            "connection_specification": {"type": "object", "properties": {"api_key": {"type": "string"}}},
        },
    }


def _stream(task: Task, name: str) -> dict[str, Any]:
    return {
        "type": "DeclarativeStream",
        "name": name,
        "primary_key": ["id"],
        "schema_loader": {"type": "InlineSchemaLoader", "schema": json_schema()},
        "retriever": {
            "type": "SimpleRetriever",
            "requester": {
                "type": "HttpRequester",
                "url_base": task.base_url,
                "path": f"/v1/{name}",
                "http_method": "GET",
                "authenticator": {
                    "type": "ApiKeyAuthenticator",
                    "api_token": "{{ config['api_key'] }}",
                    "inject_into": {
                        "type": "RequestOption",
                        "inject_into": "request_parameter",
                        "field_name": "api_key",
                    },
                },
            },
            "record_selector": {
                "type": "RecordSelector",
                "extractor": {"type": "DpathExtractor", "field_path": ["data"]},
            },
            "paginator": {
                "type": "DefaultPaginator",
                "page_token_option": {
                    "type": "RequestOption",
                    "inject_into": "request_parameter",
                    "field_name": "offset",
                },
                "page_size_option": {
                    "type": "RequestOption",
                    "inject_into": "request_parameter",
                    "field_name": "limit",
                },
                "pagination_strategy": {"type": "OffsetIncrement", "page_size": task.page},
            },
        },
    }


if __name__ == "__main__":
    given = task_from_arguments()
    source = airbyte.get_source(
        "source-bench", config={"api_key": API_KEY}, source_manifest=manifest(given), streams="*"
    )
    source.read(airbyte.DuckDBCache(db_path=given.database, schema_name=DATASET), write_strategy="merge")

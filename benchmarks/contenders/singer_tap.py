"""Implements the tap of contender s: the generic config for singer-sdk."""

# mypy: disable-error-code="import-not-found,misc"
# The packages are only in this contender's environment.

from __future__ import annotations

from typing import Any

import requests
from singer_sdk import RESTStream, Tap
from singer_sdk.authenticators import APIKeyAuthenticator
from singer_sdk.helpers.types import Context
from singer_sdk.pagination import OffsetPaginator

from benchmarks.contenders.schema import json_schema
from benchmarks.contenders.task import API_KEY, Task, task_from_arguments


class Pages(OffsetPaginator):
    """Offset paging that stops at the stated total."""

    def has_more(self, response: requests.Response) -> bool:
        """Returns whether there are rows after this page."""
        return bool(self.current_value + self._page_size < response.json()["total"])


class Resource(RESTStream[int]):
    """One resource of the benchmark server."""

    primary_keys = ("id",)
    records_jsonpath = "$.data[*]"

    def __init__(self, tap: Tap, name: str, task: Task) -> None:
        self._task = task
        self.path = f"/v1/{name}"
        super().__init__(tap, name=name, schema=json_schema())

    @property
    def url_base(self) -> str:
        """Returns the server's URL."""
        return self._task.base_url

    @property
    def authenticator(self) -> APIKeyAuthenticator:
        """Returns an authenticator that sends the key in the query."""
        return APIKeyAuthenticator(key="api_key", value=API_KEY, location="params")

    def get_new_paginator(self) -> Pages:
        """Returns a paginator that starts at offset 0."""
        return Pages(0, self._task.page)

    def get_url_params(self, context: Context | None, next_page_token: int | None) -> dict[str, Any]:
        """Returns the query of one page."""
        return {"offset": next_page_token or 0, "limit": self._task.page}


class BenchTap(Tap):
    """The tap, with a stream for every resource of the task."""

    name = "tap-bench"
    config_jsonschema = {"type": "object", "properties": {}}  # noqa: RUF012 - singer-sdk's own way

    def discover_streams(self) -> list[Resource]:
        """Returns the streams to read."""
        task = task_from_arguments()
        return [Resource(self, name, task) for name in task.names]


if __name__ == "__main__":
    BenchTap(config={}).sync_all()

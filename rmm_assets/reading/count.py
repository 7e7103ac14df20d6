"""Sends the endpoint's count request."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import orjson

from rmm_assets.errors import PagingError
from rmm_assets.http.transport import Reply
from rmm_assets.reading.answers import find
from rmm_assets.reading.endpoint import Endpoint
from rmm_assets.reading.fetch import Pager
from rmm_assets.reading.settings import Count
from rmm_assets.reading.signals import number_of


def count_rows(pager: Pager, endpoint: Endpoint) -> int | None:
    """Returns the number of rows by the endpoint's `count` request; None if the connection file has none.

    Raises:
        TransportError: There was no response.
        PagingError: The response does not state a number of rows.
    """
    count = endpoint.count
    if count is None:
        return None
    request = endpoint.request()
    # With the endpoint's parameters, so that it counts the same rows.
    params = {key: value for key, value in {**request.params, **count.params}.items() if value is not None}
    request = replace(
        request,
        path=count.path,
        params=params,
        method=count.method,
        json=count.body(request.json),
        data=None,
        label=f"{endpoint.name} count",
    )
    number = number_of(_stated(count, pager.reply(endpoint, request)))
    if number is None or number < 0:
        where = f"in `{count.total_header}`" if count.total_header else f"at `{count.total_path or '$'}`"
        raise PagingError(f"{endpoint.name}: {count.path} does not state a number of rows {where}; check `count`")
    return number


def _stated(count: Count, reply: Reply) -> Any:
    """Returns the value in place of the number of rows."""
    if count.total_header is not None:
        return reply.headers.get(count.total_header)
    text = reply.body.strip()
    try:
        value = orjson.loads(text)
    except ValueError:
        value = text.decode("utf-8", "replace")
    return value if count.total_path is None else find(count.total_path, value)

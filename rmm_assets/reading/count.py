"""Asks how many rows there are by a request of its own."""

from __future__ import annotations

from dataclasses import replace

import orjson

from rmm_assets.errors import PagingError
from rmm_assets.reading.absent import ABSENT
from rmm_assets.reading.answers import find
from rmm_assets.reading.endpoint import Endpoint
from rmm_assets.reading.fetch import Pager
from rmm_assets.reading.signals import number_of


def count_rows(pager: Pager, endpoint: Endpoint) -> int | None:
    """Returns what the endpoint's `count` says; None where the connection file has none.

    Raises:
        TransportError: there was no answer.
        PagingError: the answer is not a number of rows.
    """
    count = endpoint.count
    if count is None:
        return None
    request = endpoint.request()
    # The same filter, so that it counts the same rows.
    params = {key: value for key, value in {**request.params, **count.params}.items() if value is not None}
    request = replace(request, path=count.path, params=params, label=f"{endpoint.name} count")
    text = pager.text(endpoint, request).removeprefix(b"\xef\xbb\xbf").strip()
    try:
        value = orjson.loads(text)
    except ValueError:
        value = text.decode("utf-8", "replace")
    if count.total_path is not None:
        value = find(count.total_path, value)
    number = None if value is ABSENT else number_of(value)
    if number is None or number < 0:
        where = f"at `{count.total_path}`" if count.total_path else "as the whole body"
        raise PagingError(f"{endpoint.name}: {count.path} does not state a number of rows {where}; check `count`")
    return number

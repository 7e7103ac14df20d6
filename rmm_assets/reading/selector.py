"""Finds where the rows are when the connection file leaves it out: never a guess between two lists."""

from __future__ import annotations

import json
import re

from dlt.sources.helpers.rest_client.detector import RECORD_KEY_PATTERNS, find_all_lists

from rmm_assets.errors import BodyError
from rmm_assets.reading.endpoint import Endpoint
from rmm_assets.reading.paginators import SinglePagePaginator


def selector_of(endpoint: Endpoint, body: bytes) -> str:
    """Returns where the rows are: what the connection file says, else the list that dlt would take on the first page.

    Raises:
        BodyError: there is no list in a page of a list, or there are several, and none has a name that dlt knows.
    """
    if endpoint.data_selector is not None:
        return endpoint.data_selector
    if not endpoint.found_selector:
        try:
            document = json.loads(body)
        except ValueError:
            return "$"  # no JSON: reading the page says so
        lists = find_all_lists(document, result=[]) or [] if isinstance(document, dict) else None
        if lists is None or (not lists and isinstance(endpoint.paginator, SinglePagePaginator)):
            return "$"
        known = [path for path, _ in lists if path[-1] in RECORD_KEY_PATTERNS]
        top = [path for path, _ in lists if len(path) == min(len(other) for other, _ in lists)]
        if not known and len(top) != 1:
            which = ", ".join(".".join(path) for path in top) or "no list"
            raise BodyError("no_selector", f"without a data_selector, the rows could be in {which}")
        path = (known or top)[0]
        endpoint.found_selector.append(".".join(k if re.fullmatch(r"[A-Za-z_]\w*", k) else f"'{k}'" for k in path))
    return endpoint.found_selector[0]

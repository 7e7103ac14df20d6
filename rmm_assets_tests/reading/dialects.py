"""Provides servers that page like well-known APIs, with the same kind of rows and each API's signals.

A `Dialect` is one server and the configurations that read it. `right` ones must return every row; `wrong` ones, which
misspell a key or use another style, and servers with a `fault`, must be red or still return every row.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from rmm_assets_tests.http.servers import Say, Seen

Rows = list[dict[str, Any]]
Server = Callable[[Rows, dict[str, str], Seen], Say]
Settings = dict[str, Any]


@dataclass(frozen=True)
class Dialect:
    """One API.

    Attributes:
        answer: Returns the response, from all rows, the query and the request.
        right: Endpoints that read it as documented: changes to `path: rows`, including the paginator.
        wrong: Endpoints with a mistake, by mistake.
        sizes: Numbers of rows, one server each.
    """

    name: str
    answer: Server
    right: list[Settings]
    wrong: dict[str, Settings] = field(default_factory=dict)
    sizes: tuple[int, ...] = (0, 7, 20, 40, 57)

    def serve(self, rows: Rows) -> Callable[[Seen], Say]:
        """Returns the responses of a scripted server with these rows."""

        def answer(seen: Seen) -> Say:
            return self.answer(rows, query_of(seen), seen)

        return answer


def query_of(seen: Seen) -> dict[str, str]:
    return dict(parse_qsl(urlsplit(seen.target).query, keep_blank_values=True))


def rows_of(number: int) -> Rows:
    return [{"id": i, "name": f"PC-{i:04}"} for i in range(1, number + 1)]


def _size(query: Mapping[str, str], name: str, default: int = 20, most: int = 20) -> int:
    return min(int(query.get(name) or default), most)


def _pages(rows: Rows, size: int) -> int:
    return -(-len(rows) // size)


def _url(seen: Seen, **changes: Any) -> str:
    query = {**query_of(seen), **{key: str(value) for key, value in changes.items()}}
    query.pop("api_key", None)
    path = urlsplit(seen.target).path
    return path + "?" + "&".join(f"{key}={value}" for key, value in query.items())


# Servers


def drf(rows: Rows, query: dict[str, str], seen: Seen) -> Say:
    """Responds like Django REST framework's PageNumberPagination."""
    page, size = int(query.get("page", 1)), _size(query, "page_size")
    if page < 1 or (page - 1) * size >= max(len(rows), 1):
        return Say({"detail": "Invalid page."}, 404)
    more = page * size < len(rows)
    return Say({
        "count": len(rows), "next": _url(seen, page=page + 1) if more else None,
        "previous": _url(seen, page=page - 1) if page > 1 else None, "results": rows[(page - 1) * size : page * size],
    })  # fmt: skip


def laravel(rows: Rows, query: dict[str, str], seen: Seen) -> Say:
    page, size = max(int(query.get("page", 1)), 1), _size(query, "per_page", 15)
    last = max(_pages(rows, size), 1)
    links = [{"url": _url(seen, page=n), "label": str(n), "active": n == page} for n in range(1, last + 1)]
    return Say({
        "current_page": page, "data": rows[(page - 1) * size : page * size], "last_page": last, "links": links,
        "next_page_url": _url(seen, page=page + 1) if page < last else None, "per_page": size, "total": len(rows),
        "prev_page_url": _url(seen, page=page - 1) if page > 1 else None,
    })  # fmt: skip


def spring(rows: Rows, query: dict[str, str], seen: Seen) -> Say:
    page, size = int(query.get("page", 0)), _size(query, "size")
    part = rows[page * size : (page + 1) * size]
    return Say({
        "content": part, "totalElements": len(rows), "totalPages": _pages(rows, size), "number": page, "size": size,
        "numberOfElements": len(part), "first": page == 0, "last": (page + 1) * size >= len(rows), "empty": not part,
    })  # fmt: skip


def relay(rows: Rows, query: dict[str, str], seen: Seen) -> Say:
    variables = json.loads(seen.body)["variables"]
    start = int(base64.b64decode(variables["after"])) if variables.get("after") else 0
    part = rows[start : start + 20]
    end = base64.b64encode(str(start + len(part)).encode()).decode() if part else None
    info = {"hasNextPage": start + 20 < len(rows), "endCursor": end}
    return Say({"data": {"devices": {"nodes": part, "pageInfo": info, "totalCount": len(rows)}}})


def salesforce(rows: Rows, query: dict[str, str], seen: Seen) -> Say:
    start = int(query.get("locator", 0))
    done = start + 20 >= len(rows)
    body = {"totalSize": len(rows), "done": done, "records": rows[start : start + 20]}
    return Say(body if done else {**body, "nextRecordsUrl": _url(seen, locator=start + 20)})


def odata(rows: Rows, query: dict[str, str], seen: Seen) -> Say:
    if seen.target.partition("?")[0].endswith("$count"):
        return Say(str(len(rows)).encode(), headers=(("Content-Type", "text/plain"),))
    start = int(query.get("$skip", 0))
    body: dict[str, Any] = {"@odata.context": "/$metadata#rows", "value": rows[start : start + 20]}
    if start + 20 < len(rows):
        body["@odata.nextLink"] = _url(seen, **{"$skip": start + 20})
    return Say(body)


def hal(rows: Rows, query: dict[str, str], seen: Seen) -> Say:
    page, size = int(query.get("page", 0)), _size(query, "size")
    pages = _pages(rows, size)
    links: dict[str, Any] = {"self": {"href": _url(seen, page=page)}, "first": {"href": _url(seen, page=0)}}
    if page + 1 < pages:
        links["next"] = {"href": _url(seen, page=page + 1)}
    else:
        links["next"] = None
    page_info = {"size": size, "totalElements": len(rows), "totalPages": pages, "number": page}
    return Say({"_embedded": {"devices": rows[page * size : (page + 1) * size]}, "_links": links, "page": page_info})


def glpi(rows: Rows, query: dict[str, str], seen: Seen) -> Say:
    first, _, last = query.get("range", "0-19").partition("-")
    start, stop = int(first), min(int(last) + 1, int(first) + 20)
    part = rows[start:stop]
    if not part:
        return Say(["ERROR_RANGE_EXCEED_TOTAL"], 400) if rows else Say([])
    status = 206 if len(part) < len(rows) else 200
    header = f"{start}-{start + len(part) - 1}/{len(rows)}"
    return Say(part, status, (("Content-Range", header), ("Accept-Range", "Computer 990")))


def github(rows: Rows, query: dict[str, str], seen: Seen) -> Say:
    page, size = int(query.get("page", 1)), _size(query, "per_page")
    pages = _pages(rows, size)
    links = []
    if page < pages:
        links += [f'<{_url(seen, page=page + 1)}>; rel="next"', f'<{_url(seen, page=pages)}>; rel="last"']
    if page > 1:
        links += [f'<{_url(seen, page=page - 1)}>; rel="prev"', f'<{_url(seen, page=1)}>; rel="first"']
    return Say(rows[(page - 1) * size : page * size], headers=(("Link", ", ".join(links)),) if links else ())


def gitlab(rows: Rows, query: dict[str, str], seen: Seen) -> Say:
    page, size = int(query.get("page", 1)), _size(query, "per_page")
    more = page < _pages(rows, size)
    return Say(rows[(page - 1) * size : page * size], headers=(
        ("X-Next-Page", str(page + 1) if more else ""), ("X-Page", str(page)), ("X-Per-Page", str(size)),
        ("X-Total", str(len(rows))), ("X-Total-Pages", str(_pages(rows, size))),
    ))  # fmt: skip


def kinto(rows: Rows, query: dict[str, str], seen: Seen) -> Say:
    """Responds like Kinto 26.5 (compared with the real server); only responses to HEAD contain the number of records."""
    start = int(query.get("_token", 0))
    url = f"http://{seen.headers['host']}{_url(seen, _token=start + 20)}"
    following = (("Next-Page", url),) if start + 20 < len(rows) else ()
    if seen.method == "HEAD":
        return Say(b"", headers=(("Total-Records", str(len(rows))),))
    return Say({"data": rows[start : start + 20]}, headers=following)


def datasette(rows: Rows, query: dict[str, str], seen: Seen) -> Say:
    start = int(query.get("_next", 0))
    more = start + 20 < len(rows)
    return Say({
        "ok": True, "next": str(start + 20) if more else None, "truncated": False, "rows": rows[start : start + 20],
        "next_url": _url(seen, _next=start + 20) if more else None,
    })  # fmt: skip


def redmine(rows: Rows, query: dict[str, str], seen: Seen) -> Say:
    size = _size(query, "limit")
    start = int(query.get("offset") or (max(int(query.get("page", 1)), 1) - 1) * size)
    return Say({"issues": rows[start : start + size], "total_count": len(rows), "offset": start, "limit": size})


def json_server_0(rows: Rows, query: dict[str, str], seen: Seen) -> Say:
    page, size = max(int(query.get("_page", 1)), 1), _size(query, "_limit")
    links = [f'<{_url(seen, _page=1)}>; rel="first"', f'<{_url(seen, _page=max(_pages(rows, size), 1))}>; rel="last"']
    if page < _pages(rows, size):
        links.append(f'<{_url(seen, _page=page + 1)}>; rel="next"')
    headers = (("X-Total-Count", str(len(rows))), ("Link", ", ".join(links)))
    return Say(rows[(page - 1) * size : page * size], headers=headers)


def json_server_1(rows: Rows, query: dict[str, str], seen: Seen) -> Say:
    """Sends the last page again for every later page."""
    size = _size(query, "_per_page")
    pages = max(_pages(rows, size), 1)
    page = min(max(int(query.get("_page", 1)), 1), pages)
    return Say({
        "first": 1, "prev": page - 1 or None, "next": page + 1 if page < pages else None, "last": pages, "pages": pages,
        "items": len(rows), "data": rows[(page - 1) * size : page * size],
    })  # fmt: skip


def statuspage(rows: Rows, query: dict[str, str], seen: Seen) -> Say:
    """Links the last page to itself."""
    page, size = int(query.get("page", 1)), _size(query, "per_page")
    following = page + 1 if page * size < len(rows) else page
    link = f'<{_url(seen, page=following, per_page=size)}>; rel="next"'
    return Say(rows[(page - 1) * size : page * size], headers=(("Link", link),))


def snipe_it(rows: Rows, query: dict[str, str], seen: Seen) -> Say:
    """Sends a total that counts the rows of the page."""
    start = int(query["offset"])
    part = rows[start : start + _size(query, "limit")]
    return Say({"total": len(part), "rows": part})


def off_by_one(rows: Rows, query: dict[str, str], seen: Seen) -> Say:
    """Sends a flag that only says whether the page was full."""
    start, size = int(query.get("offset", 0)), _size(query, "limit")
    part = rows[start : start + size]
    return Say({"items": part, "has_more": len(part) == size})


def keyset(rows: Rows, query: dict[str, str], seen: Seen) -> Say:
    after, size = int(query.get("starting_after", 0)), _size(query, "limit")
    part = [row for row in rows if row["id"] > after][:size]
    return Say({"object": "list", "data": part, "has_more": len(part) == size})


def bare(rows: Rows, query: dict[str, str], seen: Seen) -> Say:
    """Sends no total, link or end mark."""
    size = _size(query, "limit")
    start = int(query["offset"]) if "offset" in query else max(int(query.get("page", 1)) - 1, 0) * size
    return Say({"items": rows[start : start + size]})


def google(rows: Rows, query: dict[str, str], seen: Seen) -> Say:
    """Omits the token's key on the last page."""
    start = int(query.get("pageToken", 0))
    more = {"nextPageToken": str(start + 20)} if start + 20 < len(rows) else {}
    return Say({"items": rows[start : start + 20], **more})


def jira(rows: Rows, query: dict[str, str], seen: Seen) -> Say:
    """Says which page is the last, and has a token on it, too."""
    start = int(query.get("nextPageToken", 0))
    return Say(
        {"issues": rows[start : start + 20], "nextPageToken": str(start + 20), "isLast": start + 20 >= len(rows)}
    )


def link_only(rows: Rows, query: dict[str, str], seen: Seen) -> Say:
    """Sends a `Link` header only if there is a next page."""
    start, size = int(query.get("from", 0)), _size(query, "per_page")
    link = f'<{_url(seen, **{"from": start + size})}>; rel="next"'
    return Say(rows[start : start + size], headers=(("Link", link),) if start + size < len(rows) else ())


def relative_header(rows: Rows, query: dict[str, str], seen: Seen) -> Say:
    """Names the next page by a relative address in a header of its own."""
    start = int(query.get("from", 0))
    if not urlsplit(seen.target).path.endswith("/rows"):
        return Say({"message": "not found"}, 404)
    following = (("X-Next", f"?from={start + 20}"),) if start + 20 < len(rows) else ()
    return Say(rows[start : start + 20], headers=following)


def slack(rows: Rows, query: dict[str, str], seen: Seen) -> Say:
    start = int(query.get("cursor") or 0)
    following = str(start + 20) if start + 20 < len(rows) else ""
    return Say({"members": rows[start : start + 20], "response_metadata": {"next_cursor": following}})


def whole(rows: Rows, query: dict[str, str], seen: Seen) -> Say:
    return Say(rows)


PAGES_FROM_1 = {"type": "page_number", "base_page": 1}
PAGES_FROM_0 = {"type": "page_number", "base_page": 0}

DIALECTS = [
    Dialect(
        "django_rest_framework", drf,
        [
            {"data_selector": "results", "paginator": {"type": "json_link"}},
            {"data_selector": "results", "paginator": {"type": "json_link"}, "total_path": "count"},
            {"data_selector": "results", "paginator": {**PAGES_FROM_1, "total_path": None}, "total_path": "count"},
            {"data_selector": "results", "paginator": {**PAGES_FROM_1, "total_path": None}},
        ],
        {
            "single_page": {"data_selector": "results", "paginator": "single_page"},
            "next_url_path": {"data_selector": "results", "paginator": {"type": "json_link", "next_url_path": "links.next"}},
            "total_path": {"data_selector": "results", "paginator": {"type": "json_link"}, "total_path": "total"},
            "cursor_path": {"data_selector": "results", "paginator": {"type": "cursor", "cursor_path": "next_cursor"}},
            "base_page": {"data_selector": "results", "paginator": {**PAGES_FROM_1, "base_page": 2, "total_path": None}},
        },
    ),
    Dialect(
        "laravel", laravel,
        [
            {"data_selector": "data", "paginator": {"type": "json_link", "next_url_path": "next_page_url"}},
            {"data_selector": "data", "paginator": {**PAGES_FROM_1, "total_path": "last_page"}},
            {"data_selector": "data", "paginator": PAGES_FROM_1},
            {"data_selector": "data", "paginator": PAGES_FROM_0},
        ],
        {
            "single_page": {"data_selector": "data", "paginator": "single_page"},
            "per_page as a total": {"data_selector": "data", "paginator": {**PAGES_FROM_1, "total_path": "per_page"}},
            "page_param": {"data_selector": "data", "paginator": {**PAGES_FROM_1, "page_param": "p"}},
            "header_link": {"data_selector": "data", "paginator": "header_link"},
        },
    ),
    Dialect(
        "spring", spring,
        [
            {"data_selector": "content", "paginator": {**PAGES_FROM_0, "total_path": "totalPages"}},
            {"data_selector": "content", "paginator": PAGES_FROM_0, "total_path": "totalElements"},
            {"data_selector": "content", "paginator": {**PAGES_FROM_0, "total_path": None}},
        ],
        {
            "single_page": {"data_selector": "content", "paginator": "single_page"},
            "base_page": {"data_selector": "content", "paginator": {**PAGES_FROM_1, "total_path": "totalPages"}},
            "base_page, no total": {"data_selector": "content", "paginator": {**PAGES_FROM_1, "total_path": None}},
            "maximum for total": {"data_selector": "content", "paginator": {**PAGES_FROM_0, "total_path": "size"}},
        },
    ),
    Dialect(
        "relay", relay,
        [
            {
                "data_selector": "data.devices.nodes", "method": "POST", "json": {"query": "...", "variables": {}},
                "paginator": {
                    "type": "cursor", "cursor_path": "data.devices.pageInfo.endCursor",
                    "cursor_body_path": "variables.after", "has_more_path": "data.devices.pageInfo.hasNextPage",
                },
            },
        ],
        {
            "cursor_path": {
                "data_selector": "data.devices.nodes", "method": "POST", "json": {"query": "...", "variables": {}},
                "paginator": {"type": "cursor", "cursor_path": "data.pageInfo.endCursor",
                              "cursor_body_path": "variables.after"},
            },
            "single_page": {
                "data_selector": "data.devices.nodes", "method": "POST", "json": {"query": "...", "variables": {}},
                "paginator": "single_page",
            },
        },
    ),
    Dialect(
        "salesforce", salesforce,
        [
            {"data_selector": "records", "paginator": {"type": "json_link", "next_url_path": "nextRecordsUrl"},
             "total_path": "totalSize"},
        ],
        {
            "single_page": {"data_selector": "records", "paginator": "single_page"},
            "next_url_path": {"data_selector": "records",
                              "paginator": {"type": "json_link", "next_url_path": "nextRecordUrl"}},
        },
    ),
    Dialect(
        "odata", odata,
        [
            {"data_selector": "value", "paginator": {"type": "json_link", "next_url_path": "'@odata.nextLink'"},
             "count": {"path": "rows/$count"}},
            {"data_selector": "value", "paginator": {"type": "json_link", "next_url_path": "@odata.nextLink"},
             "count": {"path": "rows/$count"}},
        ],
        {
            "single_page": {"data_selector": "value", "paginator": "single_page"},
            "next_url_path": {"data_selector": "value", "paginator": {"type": "json_link", "next_url_path": "nextLink"}},
        },
    ),
    Dialect(
        "hal", hal,
        [
            {"data_selector": "_embedded.devices", "paginator": {"type": "json_link", "next_url_path": "_links.next.href"},
             "total_path": "page.totalElements"},
            {"data_selector": "_embedded.devices", "paginator": {**PAGES_FROM_0, "total_path": "page.totalPages"}},
        ],
        {
            "single_page": {"data_selector": "_embedded.devices", "paginator": "single_page"},
            "base_page": {"data_selector": "_embedded.devices", "paginator": {**PAGES_FROM_1, "total_path": None}},
        },
    ),
    Dialect(
        "glpi", glpi,
        [{"data_selector": "$", "paginator": {"type": "offset", "limit": 20, "range_param": "range"}},
         {"data_selector": "$", "paginator": {"type": "offset", "limit": 50, "range_param": "range"}}],
        {
            "no range": {"data_selector": "$", "paginator": "single_page"},
            "one range": {"data_selector": "$", "paginator": "single_page", "params": {"range": "0-9"}},
        },
    ),
    Dialect(
        "github", github,
        [
            {"data_selector": "$", "paginator": "header_link", "params": {"per_page": 20}},
            {"data_selector": "$", "paginator": {**PAGES_FROM_1, "total_path": None}, "params": {"per_page": 20}},
        ],
        {
            "single_page": {"data_selector": "$", "paginator": "single_page"},
            "rel": {"data_selector": "$", "paginator": {"type": "header_link", "links_next_key": "nxt"}},
        },
        sizes=(0, 7, 40, 57),  # a single page of 20 rows has no end mark
    ),
    Dialect(
        "gitlab", gitlab,
        [
            {"data_selector": "$", "paginator": {"type": "header_cursor", "cursor_key": "X-Next-Page", "cursor_param": "page"}},
            {"data_selector": "$", "paginator": {**PAGES_FROM_1, "total_path": None}},
            {"data_selector": "$", "paginator": {**PAGES_FROM_1, "total_path": None}, "total_header": "X-Total"},
        ],
        {
            "single_page": {"data_selector": "$", "paginator": "single_page"},
            "header_link": {"data_selector": "$", "paginator": "header_link"},
            "cursor_key": {"data_selector": "$", "paginator": {"type": "header_cursor", "cursor_key": "Next-Page"}},
        },
    ),
    Dialect(
        "kinto", kinto,
        [
            {
                "data_selector": "data", "paginator": {"type": "header_cursor", "cursor_key": "Next-Page"},
                "count": {"path": "rows", "method": "HEAD", "total_header": "Total-Records"},
            },
        ],
        {
            "header_link": {"data_selector": "data", "paginator": "header_link"},
            "single_page": {"data_selector": "data", "paginator": "single_page"},
            "no count": {"data_selector": "data", "paginator": {"type": "header_cursor", "cursor_key": "Next-Page"}},
        },
    ),
    Dialect(
        "jira", jira,
        [{"data_selector": "issues", "paginator": {
            "type": "cursor", "cursor_path": "nextPageToken", "cursor_param": "nextPageToken", "last_path": "isLast"}}],
        {
            "turned": {"data_selector": "issues", "paginator": {
                "type": "cursor", "cursor_path": "nextPageToken", "cursor_param": "nextPageToken", "has_more_path": "isLast"}},
            "misspelt": {"data_selector": "issues", "paginator": {
                "type": "cursor", "cursor_path": "nextToken", "cursor_param": "nextPageToken", "last_path": "last"}},
        },
    ),
    Dialect(
        "link only", link_only,
        [{"data_selector": "$", "paginator": "header_link", "params": {"per_page": 20}}],
        {"single_page": {"data_selector": "$", "paginator": "single_page"}},
        sizes=(0, 7, 20, 40, 57),
    ),
    Dialect(
        "relative header", relative_header,
        [{"data_selector": "$", "paginator": {"type": "header_cursor", "cursor_key": "X-Next"}}],
        {"single_page": {"data_selector": "$", "paginator": "single_page"}},
        sizes=(0, 7, 57),  # a full last page has no end mark
    ),
    Dialect(
        "datasette", datasette,
        [
            {"data_selector": "rows", "paginator": {"type": "cursor", "cursor_path": "next", "cursor_param": "_next"}},
            {"data_selector": "rows", "paginator": {"type": "json_link", "next_url_path": "next_url"}},
        ],
        {
            "cursor_path": {"data_selector": "rows",
                            "paginator": {"type": "cursor", "cursor_path": "next_token", "cursor_param": "_next"}},
            "single_page": {"data_selector": "rows", "paginator": "single_page"},
        },
    ),
    Dialect(
        "redmine", redmine,
        [
            {"data_selector": "issues", "paginator": {"type": "offset", "limit": 20, "total_path": "total_count"}},
            {"data_selector": "issues", "paginator": PAGES_FROM_1, "params": {"limit": 20}},
            {"data_selector": "issues", "paginator": PAGES_FROM_1, "total_path": "total_count"},
            {"data_selector": "issues", "paginator": PAGES_FROM_0},
        ],
        {
            "single_page": {"data_selector": "issues", "paginator": "single_page"},
            "limit as a total": {"data_selector": "issues", "paginator": {"type": "offset", "limit": 20, "total_path": "limit"}},
            "offset_param": {"data_selector": "issues", "paginator": {"type": "offset", "limit": 20, "offset_param": "skip"}},
        },
    ),
    Dialect(
        "json_server_0", json_server_0,
        [
            {"data_selector": "$", "paginator": {**PAGES_FROM_1, "page_param": "_page"}, "params": {"_limit": 20}},
            {"data_selector": "$", "paginator": "header_link"},
        ],
        {"page_param": {"data_selector": "$", "paginator": PAGES_FROM_1}},
    ),
    Dialect(
        "json_server_1", json_server_1,
        [
            {"data_selector": "data", "paginator": {**PAGES_FROM_1, "page_param": "_page", "total_path": "pages"}},
            {"data_selector": "data", "paginator": {**PAGES_FROM_1, "page_param": "_page", "total_path": None}},
            {"data_selector": "data", "paginator": {"type": "cursor", "cursor_path": "next", "cursor_param": "_page"}},
        ],
        {
            "page_param": {"data_selector": "data", "paginator": PAGES_FROM_1},
            "single_page": {"data_selector": "data", "paginator": "single_page"},
        },
    ),
    Dialect(
        "statuspage", statuspage,
        [{"data_selector": "$", "paginator": "header_link"}],
        {"single_page": {"data_selector": "$", "paginator": "single_page"}},
        sizes=(1, 7, 57),  # an exactly full last page looks like one whose link is stuck
    ),
    Dialect(
        "snipe_it", snipe_it, [{"data_selector": "rows", "paginator": {"type": "offset", "limit": 20}}],
        {"capped": {"data_selector": "rows", "paginator": {"type": "offset", "limit": 500}}},
    ),
    Dialect(
        "off_by_one", off_by_one,
        [
            {"data_selector": "items", "paginator": {"type": "offset", "limit": 20}},
            {"data_selector": "items", "paginator": {"type": "offset", "limit": 20, "has_more_path": "has_more"}},
        ],
        {
            "single_page": {"data_selector": "items", "paginator": "single_page"},
            "misspelt mark": {"data_selector": "items",
                              "paginator": {"type": "offset", "limit": 20, "has_more_path": "hasMore"}},
        },
    ),
    Dialect(
        "keyset", keyset,
        [
            {"data_selector": "data", "paginator": {
                "type": "cursor", "cursor_path": "data[-1].id", "cursor_param": "starting_after", "has_more_path": "has_more"}},
            {"data_selector": "data", "paginator": {
                "type": "cursor", "cursor_path": "data[-1].id", "cursor_param": "starting_after"}},
        ],
        {"cursor_path": {"data_selector": "data", "paginator": {"type": "cursor", "cursor_path": "last_id"}}},
    ),
    Dialect(
        "bare", bare,
        [
            {"data_selector": "items", "paginator": {"type": "offset", "limit": 20}},
            {"data_selector": "items", "paginator": {"type": "offset", "limit": 500}},
            {"data_selector": "items", "paginator": PAGES_FROM_1},
            {"data_selector": "items", "paginator": PAGES_FROM_0},
        ],
        {"offset_param": {"data_selector": "items", "paginator": {"type": "offset", "limit": 20, "offset_param": "skip"}}},
    ),
    Dialect(
        "google", google,
        [{"data_selector": "items", "paginator": {"type": "cursor", "cursor_path": "nextPageToken", "cursor_param": "pageToken"}}],
        {
            "cursor_path": {"data_selector": "items", "paginator": {"type": "cursor", "cursor_path": "next_page_token"}},
            "single_page": {"data_selector": "items", "paginator": "single_page"},
        },
        sizes=(0, 7, 57),  # an exactly full last page without a token may have been cut off
    ),
    Dialect(
        "slack", slack,
        [{"data_selector": "members", "paginator": {
            "type": "cursor", "cursor_path": "response_metadata.next_cursor", "cursor_param": "cursor"}}],
        {"cursor_path": {"data_selector": "members", "paginator": {"type": "cursor", "cursor_path": "next_cursor"}}},
    ),
    Dialect("whole", whole, [{"data_selector": "$", "paginator": "single_page"}]),
]  # fmt: skip

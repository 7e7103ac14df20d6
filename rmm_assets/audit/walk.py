"""Walks over an endpoint once, one request at a time, and collects doubts whether all rows were received."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import parse_qs, urljoin, urlsplit

from rmm_assets.audit.documents import (
    MISSING,
    kind_of,
    lists_of_objects,
    look_up,
    pack,
    parse,
    parse_xml,
    put,
    select,
    without_texts,
)
from rmm_assets.audit.evidence import Hint, Kind, Seen, configured, failure, hints, link
from rmm_assets.audit.requests import Target, Unfilled, resized, target_of
from rmm_assets.config import Connection, Resource
from rmm_assets.errors import TransportError
from rmm_assets.http.request import Request
from rmm_assets.http.transport import BodyFault, Reply, Transport

Take = Callable[[Mapping[str, Any]], None]

# Statuses for a page after the last one; those of the second group are also used to refuse paging further.
_BEHIND = (404, 410, 416)
_REFUSED = (400, 422)
_NOTHING_HERE = (200, 204, 404, 410)
# Errors for one parent that say nothing of the others, unless the file mentions them.
_OF_ONE_PARENT = (403, 404, 410)
_THROTTLED = (b"rate limit", b"ratelimit", b"too many", b"throttl", b"quota", b"slow down", b"try again")
# Usual page sizes: a page with this many rows and no statement about the end may not be the last.
_USUAL = frozenset((10, 15, 20, 25, 30, 50, 100, 150, 200, 250, 300, 500, 1000, 2000, 5000, 10000, 51, 101))
_MOST_EMPTY = 2


@dataclass
class Heard:
    """The outcome of reading a resource, in addition to its rows.

    Attributes:
        doubts: Why it is not certain that these were all rows; empty if it is.
        rows: Number of rows received.
        ignored: Number of responses that are errors for one parent or that the file says to ignore.
        lists: Number of lists read: one, or one per parent.
        largest: Number of rows on the largest page.
        suspects: Last pages whose length is a usual page size, each with a sentence about it.
    """

    requests: int = 0
    rows: int = 0
    doubts: list[str] = field(default_factory=list)
    ignored: int = 0
    lists: int = 0
    largest: int = 0
    suspects: list[tuple[int, str]] = field(default_factory=list)


def read(transport: Transport, connection: Connection, resource: Resource, take: Take) -> Heard:
    """Reads all rows of a resource: once, or once per row of its parent.

    Args:
        transport: Used for this walk only.
        connection: The connection.
        resource: The resource.
        take: Called with each row, which includes its parent's fields.
    """
    heard = Heard()
    for target in _targets(transport, connection, resource, heard):
        heard.lists += 1
        walk = _Walk(transport, target, take, heard)
        try:
            walk.run()
        except TransportError as error:
            heard.doubts.append(f"{target.label} could not be read to the end: {error}")
    # A larger page of another parent shows that this is not the maximum page size.
    heard.doubts += [sentence for rows, sentence in heard.suspects if rows >= heard.largest]
    least = 2 if resource.endpoint.response_actions else 1
    if heard.lists >= least and heard.ignored == heard.lists:
        heard.doubts.append(f"{resource.name}: all responses are errors, which usually mean that there are no rows")
    return heard


def _targets(transport: Transport, connection: Connection, resource: Resource, heard: Heard) -> Iterator[Target]:
    if resource.parent is None:
        try:
            yield target_of(resource)
        except Unfilled as problem:
            heard.doubts.append(str(problem))
        return
    rows: list[Mapping[str, Any]] = []
    above = read(transport, connection, connection.resource(resource.parent), rows.append)
    heard.doubts += [f"of the parents: {doubt}" for doubt in above.doubts]
    if not rows:
        heard.doubts.append(f"{resource.parent} has no rows, so no children were read")
    done: set[str] = set()
    for row in rows:
        try:
            target = target_of(resource, row)
        except Unfilled as problem:
            if str(problem) not in heard.doubts:
                heard.doubts.append(str(problem))
            continue
        request = pack([target.path, target.params, target.headers, target.json, target.data, target.added])
        if request not in done:
            done.add(request)
            yield target


@dataclass(frozen=True)
class _Answer:
    status: int
    headers: Mapping[str, str]
    url: str
    document: Any
    rows: Sequence[Any]
    ignored: bool = False
    throttled: bool = False


class _Walk:
    """One walk over one list of rows."""

    def __init__(self, transport: Transport, target: Target, take: Take, heard: Heard) -> None:
        self._transport, self._target, self._take, self._heard = transport, target, take, heard
        self._configured = target
        self._seen = Seen.nothing()
        self._known: set[bytes] = set()
        path = target.resource.endpoint.xml_path
        self._selector = target.resource.endpoint.data_selector if path is None else ".".join(path).removesuffix(".*")
        self._here = ""
        self._followed = ""

    def run(self) -> None:
        """Walks to the end and collects doubts about it."""
        self._target = resized(self._configured)
        self._seen.counted = before = self._count()
        try:
            first = self._ask(self._target, {}, "page 1") if self._is_chain else None
        except TransportError as error:
            if self._target is self._configured or error.status not in (*_BEHIND, *_REFUSED):
                raise
            self._target, first = self._configured, None  # no other page size than this one
        if self._is_chain:
            self._chain(first)
        else:
            try:
                self._positions()
            except TransportError as error:
                if self._seen.each or self._target is self._configured or error.status not in (*_BEHIND, *_REFUSED):
                    raise
                self._target = self._configured
                self._positions()
        if before is not None and (after := self._count()) != before:
            self._doubt(f"the number of rows changed from {before:,} to {after} while they were read")
        contradictions = self._seen.contradictions(self._target.size, followed=self._followed, here=self._here)
        self._doubt(*contradictions)

    @property
    def _is_chain(self) -> bool:
        return self._target.kind not in ("offset", "page_number")

    def _doubt(self, *sentences: str) -> None:
        self._heard.doubts += [f"{self._target.label}: {sentence}" for sentence in sentences]

    # Offsets and page numbers

    def _positions(self) -> None:
        target, paginator = self._target, self._target.paginator
        offsets = target.kind == "offset"
        start = int(
            paginator.offset if offsets else (paginator.base_page if paginator.page is None else paginator.page)
        )
        position, empty, stale, number = start, 0, 0, 0
        while empty < _MOST_EMPTY and stale < _MOST_EMPTY:
            if target.maximum is not None and position >= target.maximum:
                self._doubt(f"the file says to stop at {position}, so rows after it were not read")
                return
            number += 1
            try:
                answer = self._ask(self._at(position), {}, f"page {number} (from {position})")
            except TransportError as error:
                if not self._seen.received or error.status not in (*_BEHIND, *_REFUSED):
                    raise
                if error.status in _REFUSED and not self._seen.confirmed(target.size):
                    self._doubt(f"the API refuses to continue after {self._seen.received:,} rows ({error.status})")
                break
            new = self._arrive(answer)
            if answer.ignored:
                return
            empty = 0 if answer.rows else empty + 1
            stale = stale + 1 if answer.rows and not new else 0
            position += (len(answer.rows) or target.size or 1) if offsets else 1
        if stale and not (self._seen.confirmed(target.size) or self._seen.all_pages()):
            self._doubt("the server repeats rows that it sent before, so the end cannot be determined")
        if not offsets and start > 0:
            self._before(start - 1)

    def _before(self, page: int) -> None:
        """Checks the page before the first one, as an API may number pages from another number than the file says."""
        try:
            answer = self._ask(self._at(page), {}, f"page number {page}")
        except TransportError:
            return
        fresh = [row for row in answer.rows if _digest(row) not in self._known]
        self._seen.rows[-1] += self._hand_on(fresh)

    def _at(self, position: int) -> Target:
        paginator, params, json = self._target.paginator, dict(self._target.params), self._target.json
        places: list[tuple[str | None, str | None, str, int | None]] = []
        if self._target.kind == "offset" and paginator.range_param:
            last = position + (self._target.size or paginator.limit) - 1
            params[paginator.range_param] = f"{position}-{last}"
        elif self._target.kind == "offset":
            places = [
                (paginator.offset_param, paginator.offset_body_path, "offset", position),
                (paginator.limit_param, paginator.limit_body_path, "limit", self._target.size),
            ]
        else:
            places = [(paginator.page_param, paginator.page_body_path, "page", position)]
        for param, body_path, default, value in places:
            if body_path:
                json = put(json, body_path, value)
            else:
                params[param or default] = value
        return replace(self._target, params=params, json=json)

    # Links, cursors, single pages

    def _chain(self, answer: _Answer | None) -> None:
        changes: dict[str, Any] = {}
        asked = {pack(changes)}
        number, empty, said_end = 1, 0, False
        while True:
            if answer is None:
                answer = self._ask(self._target, changes, f"page {number}")
            new = self._arrive(answer)
            if answer.ignored or self._target.kind == "single_page":
                break
            if number > 1 and answer.rows and not new:
                if said_end:
                    return
                self._doubt(f"page {number} has only rows that were received before, so the end cannot be determined")
                return
            said_end = self._flags_end(answer)
            if said_end and self._target.paginator.more_path:
                break
            empty = 0 if answer.rows else empty + 1
            following, place = self._next(answer)
            self._followed = place
            if following is None or empty >= _MOST_EMPTY:
                break
            if pack(following) in asked and not getattr(self._target.paginator, "cursor_stays", False):
                self._doubt(f"page {number} names a next page that was already read")
                return
            changes, answer = following, None
            asked.add(pack(changes))
            number += 1
        if not answer.ignored:
            self._judge_last(answer)

    def _next(self, answer: _Answer) -> tuple[dict[str, Any] | None, str]:
        """Returns the changes to the request for the next page, and where they were found.

        The place that the file names comes first; if it has no value, any next link in the response is followed.
        """
        value, place = self._configured_next(answer)
        if value is MISSING:
            others = [hint for hint in self._said(answer) if hint.kind == "next"]
            urls = [
                hint for hint in others if isinstance(hint.value, str) and hint.value.startswith(("http", "/", "?"))
            ]
            if not urls and len({pack(hint.value) for hint in others}) != 1:
                return None, ""
            value, place = (urls or others)[0].value, (urls or others)[0].place
        if value in (None, "", False):
            return None, place
        text = str(value)
        link_like = text.startswith(("http://", "https://")) or (self._target.kind == "header_cursor" and "?" in text)
        if self._target.kind in ("json_link", "header_link") or link_like:
            url = self._transport.same_origin(urljoin(answer.url, text))
            known = parse_qs(urlsplit(url).query, keep_blank_values=True)
            names = set(getattr(self._target.paginator, "keep_params", ())) - known.keys()
            kept = {name: value for name, value in self._target.params.items() if name in names}
            return (None if url == answer.url else {"url": url, "params": kept}), place
        paginator = self._target.paginator
        if getattr(paginator, "cursor_body_path", None):
            return {"json": put(self._target.json, paginator.cursor_body_path, value)}, place
        return {"params": {paginator.cursor_param or "cursor": value}}, place

    def _configured_next(self, answer: _Answer) -> tuple[Any, str]:
        paginator = self._target.paginator
        if paginator.type == "json_link":
            return look_up(paginator.next_url_path, answer.document), paginator.next_url_path
        if paginator.type == "cursor":
            return look_up(paginator.cursor_path, answer.document), paginator.cursor_path
        if paginator.type == "header_link":
            relation = paginator.links_next_key
            return link(answer.headers, relation) or MISSING, f'Link rel="{relation}"'
        if paginator.type == "header_cursor":
            return answer.headers.get(paginator.cursor_key, MISSING), paginator.cursor_key
        return MISSING, ""  # another style: any next link in the response is followed

    def _judge_last(self, answer: _Answer) -> None:
        """Adds a doubt if the last page is full and nothing says that it is the last one."""
        size, largest, rows = self._target.size, max(self._seen.each), len(answer.rows)
        if not rows or self._says_end(answer) or self._seen.confirmed(size):
            return
        pages = len(self._seen.each)
        sentence = f"the last page is full ({rows:,} rows), and nothing says that it is the last"
        if rows == size or (pages > 1 and rows >= largest):
            self._doubt(sentence)
        elif pages == 1 and rows in _USUAL and (size is None or rows < size):
            self._heard.suspects.append((rows, f"{self._target.label}: {sentence}"))

    def _flags_end(self, answer: _Answer) -> bool:
        """Returns whether flags in the response say that this is the last page and none says that it is not."""
        kinds = {hint.kind for hint in self._said(answer)}
        return "end" in kinds and "more" not in kinds

    def _says_end(self, answer: _Answer) -> bool:
        if self._flags_end(answer):
            return True
        if self._target.kind == "single_page":
            return False
        if self._target.kind == "header_link":
            return "Link" in answer.headers and len(self._seen.each) > 1
        return self._configured_next(answer)[0] in (None, "", False)

    def _said(self, answer: _Answer) -> list[Hint]:
        endpoint, paginator = self._target.resource.endpoint, self._target.paginator
        found = hints(answer.document, answer.headers, frozenset((self._selector or "").split(".")))
        if path := self._target.resource.total_path:
            found += configured(path, "total", look_up(path, answer.document))
        if header := endpoint.total_header:
            found += configured(header, "total", answer.headers.get(header))
        if paginator is not None and "total_path" in paginator.model_fields_set and paginator.total_path:
            kind: Kind = "total" if self._target.kind == "offset" else "pages"
            found += configured(paginator.total_path, kind, look_up(paginator.total_path, answer.document))
        wrong = {name.lower() for name in endpoint.wrong_signals or ()}
        return [hint for hint in found if not wrong & {hint.place.lower(), hint.place.lower().split(" ")[0]}]

    # One request

    def _count(self) -> int | None:
        """Requests the number of rows if the file defines a count request."""
        target, count = self._target, self._target.resource.endpoint.count
        if count is None:
            return None
        params = {name: value for name, value in {**target.params, **count.params}.items() if value is not None}
        body = None if count.json_body is None else _with_changes(target.json, count.json_body)
        request = Request(
            count.path, count.method, params, target.headers, body, label=f"audit of {target.label}, count"
        )
        self._heard.requests += 1
        try:
            reply = self._transport.send(request, lambda reply: reply)
            if count.total_header:
                value = reply.headers.get(count.total_header)
            else:
                value = parse(reply.body) if reply.body.strip() else None
                value = value if count.total_path is None else look_up(count.total_path, value)
        except (TransportError, ValueError) as error:
            self._doubt(f"the count request failed: {error}")
            return None
        found = configured("count", "total", value)
        return found[0].value if found else None

    def _ask(self, target: Target, changes: Mapping[str, Any], page: str) -> _Answer:
        first = not self._seen.each
        request = Request(
            changes.get("url") or target.path, target.method,
            {**({} if "url" in changes else target.params), **changes.get("params", {})},
            target.headers, changes.get("json", target.json), target.data, label=f"audit of {target.label}, {page}",
        )  # fmt: skip
        self._heard.requests += 1
        answer = self._transport.send(
            request,
            lambda reply: self._accept(reply, first=first),
            tolerate=lambda reply: first and self._ignored(reply),
        )
        self._here = answer.url
        return answer

    def _accept(self, reply: Reply, *, first: bool) -> _Answer:
        if first and self._ignored(reply):
            throttled = any(word in reply.body.lower() for word in _THROTTLED)
            return _Answer(reply.status, reply.headers, reply.url, None, [], ignored=True, throttled=throttled)
        empty = self._target.resource.endpoint.empty_as
        if (reply.status == 204 and (first or "no_content" in empty)) or (not reply.body and "empty_body" in empty):
            return _Answer(reply.status, reply.headers, reply.url, None, [])
        try:
            path = self._target.resource.endpoint.xml_path
            document = parse(reply.body) if path is None else parse_xml(reply.body, path)
        except ValueError:
            raise BodyFault(f"the body is not {self._target.resource.endpoint.response.upper()}") from None
        rows = self._rows(document)
        wrong = self._target.resource.endpoint.wrong_signals or ()
        if said := failure(document, {*wrong, *re.findall(r"[\w@ -]+", self._selector or "")[:1]}):
            raise BodyFault(f"`{said}` says that the request failed, at least in part")
        return _Answer(reply.status, reply.headers, reply.url, document, rows)

    def _rows(self, document: Any) -> Sequence[Any]:
        endpoint = self._target.resource.endpoint
        if self._selector is None:
            found = [path for path, _ in lists_of_objects(document)]
            if len(found) != 1:
                raise BodyFault(
                    "the file has no data_selector, and the response does not have exactly one list of objects"
                )
            self._selector = ".".join(found[0]) or "$"
        rows = without_texts(select(self._selector, document, endpoint.empty_as), self._target.resource.null_values)
        if isinstance(rows, list):
            return rows
        if (key := endpoint.map_key) and isinstance(rows, Mapping) and not _looks_like_an_error(rows):
            return [{**row, key: name} for name, row in rows.items() if isinstance(row, Mapping)]
        single = self._target.kind == "single_page" or endpoint.single_object
        if isinstance(rows, Mapping) and single and not _looks_like_an_error(rows):
            return [rows]
        if kind_of(rows) in endpoint.empty_as:
            return []
        what = "nothing" if rows is MISSING else "null" if rows is None else "no list"
        raise BodyFault(f"{what} is at {self._selector!r}, where the rows should be")

    def _ignored(self, reply: Reply) -> bool:
        resource = self._target.resource
        actions = resource.endpoint.response_actions or ()
        if any(
            (action.status_code is None or action.status_code == reply.status)
            and (action.content is None or action.content.encode() in reply.body)
            for action in actions
        ):
            return True
        said = {action.status_code for action in actions}
        return resource.parent is not None and reply.status in _OF_ONE_PARENT and not said & {None, reply.status}

    def _arrive(self, answer: _Answer) -> int:
        """Takes in a page's rows and returns how many of them are new."""
        if answer.ignored:
            self._heard.ignored += 1
        self._heard.largest = max(self._heard.largest, len(answer.rows))
        new = len({_digest(row) for row in answer.rows} - self._known)
        taken = self._hand_on(answer.rows)
        self._seen.add(answer.status, len(answer.rows), taken, self._said(answer))
        if answer.ignored and (answer.status not in _NOTHING_HERE or answer.throttled):
            self._doubt(f"the response is {answer.status}, so the rows there are unknown")
        return new

    def _hand_on(self, rows: Sequence[Any]) -> int:
        """Passes rows on, each key only once, as a repeated row may have moved during the read."""
        keyed, before = bool(self._target.resource.keys), self._heard.rows
        for row in rows:
            digest = _digest(row)
            if keyed and digest in self._known:
                continue
            self._known.add(digest)
            self._heard.rows += 1
            self._take({**row, **self._target.added} if isinstance(row, Mapping) else row)
        return self._heard.rows - before


def _with_changes(body: Any, changes: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the body of a count request: the endpoint's with other fields, or without those that are null."""
    found = dict(body or {})
    for name, value in changes.items():
        if value is None:
            found.pop(name, None)
        else:
            found[name] = _with_changes(found.get(name), value) if isinstance(value, Mapping) else value
    return found


def _digest(row: Any) -> bytes:
    return hashlib.blake2b(pack(row).encode(), digest_size=16).digest()


def _looks_like_an_error(document: Mapping[str, Any]) -> bool:
    return any(str(key).lower() in ("error", "errors", "exception", "fault") and document[key] for key in document)

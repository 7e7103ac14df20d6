"""Finds what responses say about the number of rows and about more pages, and what contradicts an end.

As a check, it errs on one side: anything that can mean "there is more" does, and "this is all" is believed only if the rows
confirm it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass
from decimal import Decimal
from itertools import pairwise
from typing import Any, Literal

from rmm_assets.audit.documents import parse

Kind = Literal["total", "pages", "more", "end", "next"]


@dataclass(frozen=True)
class Hint:
    """A statement in a response outside its rows.

    Attributes:
        place: Where it is: the path in the body, or the header.
        kind: `total`, of rows; `pages`, their total; `more` and `end`, flags; `next`, a link or a cursor.
        value: Its value.
    """

    place: str
    kind: Kind
    value: Any


# Names are compared in lower case without `_ - . @ $`.
_TOTAL = re.compile(
    r"x?(wp|pagination|grand)?total(number|num|of)?(count|items?|results?|records?|entries|elements|size|rows|objects"
    r"|resources|hits|itemcount|itemscount|recordcount|resultcount)?|\w*count|numfound|recordsfiltered|treesize|numresults"
)
_NOT_TOTAL = re.compile(
    r"(page|pages|max|current|returned|retrieved|retry|error|warning|fail\w*)+count|\w*(ac|dis)count"
)
_PAGES = re.compile(r"x?(wp|pagination)?total_?pages?|pages|pagescount|pagecount|x?pagecount|numpages|maxpage|lastpage")
_MORE = re.compile(
    r"x?has(more|next)(pages?|rows|records|results|items|data)?|more(records|results|rows|dataavailable|available|items)?"
    r"|istruncated|truncated|ispartial|partialresults|exceededtransferlimit|incomplete(search|results)"
)
_END = re.compile(r"(is)?last(page)?|done|endofstream|eof|finished|(is)?complete")
_NEXT = re.compile(
    r"x?(pagination)?next(page|link|url|cursor|token|pagetoken|pageurl|pagelink|pageuri|recordsurl|href|uri|offset|id|key"
    r"|marker)?|odatanextlink|x?(ms)?continuation(token)?|xcursornext|searchafter"
)
_FOLLOWING = frozenset({"href", "url", "uri", "link", "path", "after", "startingafter", "offset", "cursor", "page"})
_AROUND = frozenset(
    {
        *("meta", "metadata", "pagination", "paging", "paginationmeta", "paginationmetadata", "responsemetadata"),
        *("page", "pages", "pageinfo", "pagedetails", "listinfo", "info", "links", "cursor", "cursors", "feed"),
        *("records", "hits", "d", "response", "result", "results", "data", "total", "messageresponse"),
        *("pagecontext", "resultinfo"),
    }
)
_FAILURE = re.compile(r"(error|exception|fault)s?(message|messages|msg|text|description|code|count)?")
_NO_FAILURE = frozenset({"", "-", "0", "200", "false", "none", "null", "n/a", "ok", "success", "no error", "no errors"})
_PAGING_HEADER = re.compile(r"total|next|page|pagination|more|record|result|continuation")
_LINK = re.compile(r"<([^>]*)>((?:\s*;\s*[\w*-]+\s*=\s*(?:\"[^\"]*\"|[^\s;,]+))*)")
_RANGE = re.compile(r"\s*(?!bytes)\w*\s*(\d+)-(\d+)/(\d+)\s*")


def hints(document: Any, headers: Mapping[str, str], around: Set[str] = frozenset()) -> list[Hint]:
    """Returns the statements in a response outside its rows.

    Args:
        document: The body without its rows.
        headers: The headers.
        around: Names of objects to search in addition to those with a usual name: those that contain the rows.
    """
    inside = _AROUND | {_plain(name) for name in around}
    found = list(_of_body(document, (), inside))
    for name, value in headers.items():
        plain = _plain(name)
        if plain in ("xpagination", "pagination") and value.lstrip().startswith("{"):
            try:
                found += [Hint(name, hint.kind, hint.value) for hint in _of_body(parse(value), (), inside)]
            except ValueError:
                continue
        elif plain == "contentrange":
            if match := _RANGE.fullmatch(value):
                found.append(Hint(name, "total", int(match[3])))
        elif plain == "link":
            found += [Hint('Link rel="next"', "next", url) for url in [link(headers, "next")] if url]
        elif _PAGING_HEADER.search(plain) and "ratelimit" not in plain:
            found += _of_name(name, plain, value)
    return found


def failure(document: Any, ignored: Set[str]) -> str:
    """Returns the key at the root of a body that says that the request failed, at least in part; empty if none does.

    Args:
        document: The body.
        ignored: Keys that say nothing, such as that of the rows.
    """
    plain_ignored = {_plain(name) for name in ignored}
    for key, value in document.items() if isinstance(document, Mapping) else ():
        plain = _plain(str(key))
        if plain in plain_ignored:
            continue
        says = (
            (_FAILURE.fullmatch(plain) and _is_filled(value))
            or (plain in ("success", "ok", "succeeded", "successful", "issuccess") and _flag(value) is False)
            or (plain in ("haserror", "haserrors", "iserror", "timedout") and _flag(value) is True)
            or (plain == "status" and str(value).strip().lower() in ("error", "fail", "failed", "failure"))
            or (plain in ("status", "code", "statuscode") and 400 <= (_number(value) or 0) < 600)
            or (plain == "shards" and isinstance(value, Mapping) and _number(value.get("failed")))
        )
        if says:
            return str(key)
    return ""


def _is_filled(value: Any) -> bool:
    if isinstance(value, Mapping):
        return value.get("code") not in (0, 200, "0", "200") and any(map(_is_filled, value.values()))
    if isinstance(value, list):
        return any(map(_is_filled, value))
    return value is not None and value is not False and str(value).strip().lower() not in _NO_FAILURE


def configured(place: str, kind: Kind, value: Any) -> list[Hint]:
    """Returns the statement at a place named in the connection file, whatever its name."""
    if isinstance(value, Mapping) and "value" in value:  # Elasticsearch
        value = value["value"]
    number = _number(value)
    return [Hint(place, kind, number)] if number else []


def link(headers: Mapping[str, str], relation: str) -> str | None:
    """Returns the address of a relation in a `Link` header; None if there is none."""
    header = next((value for name, value in headers.items() if name.lower() == "link"), "")
    for url, attributes in _LINK.findall(header):
        said = {
            name.lower(): value.strip("\"'")
            for name, value in re.findall(r"([\w*-]+)\s*=\s*(\"[^\"]*\"|[^\s;,]+)", attributes)
        }
        if relation.lower() in said.get("rel", "").lower().split() and said.get("results") != "false":
            return str(url)
    return None


def _of_body(value: Any, path: tuple[str, ...], inside: Set[str]) -> Iterator[Hint]:
    """Yields the statements in objects, and in lists of links, but in no other lists, whose values belong to a row."""
    if not isinstance(value, Mapping):
        return
    for key, inner in value.items():
        below = (*path, str(key))
        plain = _plain(str(key))
        if isinstance(inner, Mapping):
            if _NEXT.fullmatch(plain):
                for name, target in inner.items():
                    if _plain(str(name)) in _FOLLOWING and _leads_on(target):
                        yield Hint(".".join((*below, str(name))), "next", target)
                        break
            elif plain in inside and len(below) < 4:
                yield from _of_body(inner, below, inside)
        elif isinstance(inner, list):
            if plain in ("link", "links"):
                yield from _of_links(".".join(below), inner)
        elif plain == "value" and path and _plain(path[-1]) == "total":  # Elasticsearch
            yield from _of_name(".".join(below), "total", inner)
        else:
            yield from _of_name(".".join(below), plain, inner)


def _of_links(place: str, links: list[Any]) -> Iterator[Hint]:
    for link_ in links:
        if isinstance(link_, Mapping) and "next" in (link_.get("rel"), link_.get("relation")):
            for name, target in link_.items():
                if _plain(str(name)) in _FOLLOWING and isinstance(target, str) and target:
                    yield Hint(place, "next", target)


def _of_name(place: str, plain: str, value: Any) -> Iterator[Hint]:
    """Yields the statement of a scalar with that name."""
    number = _number(value)
    if plain in ("remaining", "recordsremaining"):
        if number:
            yield Hint(place, "more", value)
    elif _MORE.fullmatch(plain):
        if _flag(value) is not None:
            yield Hint(place, "more" if _flag(value) else "end", value)
    elif _END.fullmatch(plain) and isinstance(value, (bool, str)) and _flag(value) is not None:
        yield Hint(place, "end" if _flag(value) else "more", value)
    elif _PAGES.fullmatch(plain):
        if number:
            yield Hint(place, "pages", number)
    elif _NEXT.fullmatch(plain):
        if _leads_on(value):
            yield Hint(place, "next", value)
    elif _TOTAL.fullmatch(plain) and not _NOT_TOTAL.fullmatch(plain) and number:
        yield Hint(place, "total", number)


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _flag(value: Any) -> bool | None:
    if isinstance(value, str):
        return {"true": True, "false": False}.get(value.strip().lower())
    return bool(value) if isinstance(value, bool) or value in (0, 1) else None


def _number(value: Any) -> int | None:
    """Returns a number of rows, given as a number or as digits; None if it is neither or negative."""
    if isinstance(value, str) and re.fullmatch(r"\s*\d{1,3}(,\d{3})+\s*|\s*\d+\s*", value):
        value = int(value.replace(",", ""))
    if isinstance(value, Decimal) and value == value.to_integral_value():
        value = int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


def _leads_on(value: Any) -> bool:
    if isinstance(value, str):
        return value.strip().lower() not in ("", "false", "true", "none", "null")
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


@dataclass
class Seen:
    """The statements in the responses of one walk, page by page.

    Attributes:
        rows: Number of distinct rows received by the end of each page.
        each: Number of rows on each page.
        counted: The number of rows by a count request, if it was the same before and after the walk.
    """

    rows: list[int]
    each: list[int]
    said: list[list[Hint]]
    statuses: list[int]
    counted: int | None = None

    @classmethod
    def nothing(cls) -> Seen:
        return cls([], [], [], [])

    def add(self, status: int, rows: int, new: int, said: list[Hint]) -> None:
        self.rows.append((self.rows[-1] if self.rows else 0) + new)
        self.each.append(rows)
        self.said.append(said)
        self.statuses.append(status)

    @property
    def received(self) -> int:
        return self.rows[-1] if self.rows else 0

    def totals(self, asked: int | None) -> dict[str, int]:
        """Returns the stated totals of rows, by place, that nothing contradicts."""
        found: dict[str, int] = {}
        refuted: set[str] = set()
        for received, rows, said in zip(self.rows, self.each, self.said, strict=True):
            for hint in said:
                if hint.kind == "total":
                    found[hint.place] = hint.value
                    # A number below the rows received, or one that changes with the page, counts something else.
                    if hint.value < received or (received > rows and hint.value == rows):
                        refuted.add(hint.place)
        for place, value in found.items():
            if "count" in place.lower() and value == asked and value != self.received:
                refuted.add(place)
        count = {} if self.counted is None else {"count": self.counted}
        return {place: value for place, value in found.items() if place not in refuted} | count

    def confirmed(self, asked: int | None) -> bool:
        """Returns whether a stated total was reached, and not just by the first page unless by a count request."""
        if self.counted is not None:
            return self.counted == self.received
        full = [rows for rows in self.each if rows]
        reached = any(value == self.received for value in self.totals(asked).values())
        return reached and (len(full) > 1 or (asked is not None and self.received < asked))

    def all_pages(self) -> bool:
        """Returns whether as many pages had rows as the server states."""
        brought = sum(1 for before, now in pairwise([0, *self.rows]) if now > before)
        return any(hint.kind == "pages" and hint.value == brought for said in self.said for hint in said)

    def contradictions(self, asked: int | None, *, followed: str = "", here: str = "") -> Iterator[str]:
        """Yields the statements that there is more than was received, as sentences.

        Args:
            asked: The requested page size.
            followed: The place of the link or cursor that was followed to an end.
            here: The last address requested.
        """
        received, pages = self.received, sum(1 for rows in self.each if rows)
        confirmed = self.confirmed(asked)
        for place, value in self.totals(asked).items():
            if value > received:
                yield f"{place} states {value:,} rows, and {received:,} were received"
        if not self.said or confirmed:
            return
        for hint in self.said[-1]:
            if hint.kind == "more":
                yield f"{hint.place} says on the last page that more follows"
            elif hint.kind == "next" and not _is(hint.value, here) and not f"{hint.place}.".startswith(f"{followed}."):
                yield f"{hint.place} names a next page after the last one"
        stated = {hint.place: hint.value for said in self.said for hint in said if hint.kind == "pages"}
        for place, value in stated.items():
            if value > pages and pages:
                yield f"{place} states {value:,} pages, and {pages:,} had rows"
        if self.statuses[-1] == 206 and not any(hint.kind == "total" for hint in self.said[-1]):
            yield "the last response is 206 Partial Content without a number of rows"


def _is(value: Any, here: str) -> bool:
    """Returns whether a next link leads to its own page."""
    return isinstance(value, str) and bool(here) and (value == here or here.endswith(value))

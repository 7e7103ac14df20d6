"""Detects signals in responses that there are more rows: evidence against an end, never used to find the next page.

The tables below list the names that servers use. Five criteria, in this order, distinguish a signal from a field that only
looks like one:

1. Position: in a header, next to the rows, or next to an object that contains them; at most within one of the usual objects
   there (`meta`, `pagination`, `pageInfo` ...), never in a row or in an array other than a list of links.
2. Name: the whole name is in one of the tables, ignoring case and punctuation.
3. Type: a number of rows or pages, a flag, an address or a token.
4. Relation: the statement is possible given the rows received.
5. Steadiness: a signal that contradicted itself once is ignored for the rest of the run.

A signal can only say "more". Strong ones contradict an end; weak ones, which are often present at the end as well, ask for
a second look. Absent, null, empty and false values say nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import orjson

from rmm_assets.http.redaction import MASK
from rmm_assets.reading.answers import Answer
from rmm_assets.rows.selector import lead_of, place_in


class Kind(StrEnum):
    """What a signal states."""

    TOTAL = "rows in all"
    COUNT = "rows in all, or on this page"
    PAGES = "the number of pages"
    PAGE = "the number of this page"
    REMAINING = "remaining rows"
    MORE = "whether more follows"
    LAST = "whether this is the last page"
    NEXT = "the next page"
    NEXT_TOKEN = "a token for the next page"
    CURSOR = "a token, which may also be set at the end"
    RANGE = "the range of rows in this response"
    PARTIAL = "206 Partial Content"
    SIZE = "the maximum rows per page"


def words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Names in lower case without punctuation and a header's leading `X-`.
_NAMES: dict[Kind, frozenset[str]] = {
    Kind.TOTAL: words(
        "total totalcount totalitems totalitemcount totalitemscount totalresults numresults totalentries "
        "totalrecords totalrecordcount totalelements totalresources totalsize odatacount recordsfiltered "
        "totalrows totalobjects treesize numfound totalnumber totalhits contactcount issuecount wptotal "
        "paginationtotal paginationtotalcount kaminaritotalcount"
    ),
    Kind.COUNT: frozenset(("count", "recordcount", "resultcount", "paginationcount")),
    Kind.PAGES: words(
        "totalpages totalpage pagecount pagescount numpages maxpage lastpage pages pagetotal wptotalpages "
        "paginationtotalpages kaminaritotalpages"
    ),
    Kind.PAGE: frozenset(("page", "currentpage", "pagenumber", "pageno")),
    Kind.REMAINING: frozenset(("remaining", "recordsremaining", "rowsremaining", "itemsremaining")),
    Kind.MORE: words(
        "hasmore hasnextpage hasnext morerecords moredataavailable hasmorerows hasmorepage hasmorepages more "
        "moreresults hasmoreitems hasmoreresults hasmoredata istruncated truncated ispartial "
        "exceededtransferlimit incompletesearch incompleteresults partialresults paginationhasnext"
    ),
    Kind.LAST: words("last islast islastpage lastpage done complete iscomplete endofstream eof kaminarilastpage"),
    Kind.NEXT: words(
        "next nextpage nextpageurl nextpagelink nextpageuri nextlink nextrecordsurl nexthref nexturl nexturi "
        "odatanextlink paginationnext kaminarinextpage"
    ),
    Kind.NEXT_TOKEN: words(
        "nextpagetoken nexttoken nextcursor cursornext nextmarker nextoffset nextid nextkey nextpagekey "
        "continuationtoken lastevaluatedkey mscontinuation"
    ),
    Kind.SIZE: frozenset(
        ("perpage", "pagesize", "size", "limit", "maxresults", "itemsperpage", "resultsperpage", "step")
    ),
    Kind.CURSOR: frozenset(
        ("cursor", "marker", "after", "aftercursor", "endcursor", "bookmark", "searchafter", "scrollid")
    ),
}
_KINDS: dict[str, tuple[Kind, ...]] = {
    name: tuple(kind for kind, names in _NAMES.items() if name in names) for name in frozenset().union(*_NAMES.values())
}
# Objects next to the rows that contain signals.
_CONTAINERS = words(
    "meta metadata pagination paging page pages pageinfo pagedetails paginationmeta paginationmetadata "
    "responsemetadata listinfo info links cursor cursors records hits d response result data pageresult pagecontext resultinfo"
)
_LINKS = frozenset(("link", "links"))
# Names of the address within an object called `next`.
_ADDRESSES = ("href", "url", "link", "uri", "after", "starting_after", "startingAfter", "offset", "cursor", "path")

# Names of the page number in addresses, and of any position.
_PAGE_PARAMS = frozenset(("page", "pagenumber", "pageno"))
_POSITIONS = _PAGE_PARAMS | {"offset", "skip", "start", "pageoffset"}

_LAST_LINK = "Link rel=last"

# Values at which APIs cap totals.
ROUND_TOTALS = frozenset((1_000, 10_000))
# Usual maximum page sizes: a page of exactly this length may be cut off.
PAGE_SIZES = frozenset((10, 15, 20, 25, 30, 50, 51, 100, 101, 150, 200, 250, 300, 500, 1000, 2000, 5000, 10000))
# Page sizes to which servers are known to cap larger requests.
CAPS = frozenset(size for size in PAGE_SIZES if size >= 20)

_DIGITS = re.compile(r"\d+|\d{1,3}(?:,\d{3})+", re.ASCII)
_CONTENT_RANGE = re.compile(r"\s*([\w-]*)\s*(?:(\d+)-(\d+)|\*)/(\d+|\*)\s*", re.ASCII)
_MOST_LISTED = 12


@dataclass(frozen=True)
class Signal:
    """A signal in a response.

    Attributes:
        kind: What it states.
        name: Where it is, for people: a path or a header's name.
        value: Its value.
    """

    kind: Kind
    name: str
    value: Any


def number_of(value: Any) -> int | None:
    """Parses a whole number as servers write it: `1055`, `"1055"`, `"1,055"`; None for anything else."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value
    if isinstance(value, float):
        return int(value) if value.is_integer() else None
    if isinstance(value, str) and _DIGITS.fullmatch(value.strip()):
        return int(value.replace(",", ""))
    return None


def signals_of(answer: Answer, selector: str | None) -> Iterator[Signal]:
    """Yields the signals in a response's headers, around its rows and in its status."""
    headers = answer.reply.headers
    for name, value in headers.items():
        plain = _plain_header(name)
        if plain in ("pagination",):
            yield from _in_json(name, value)
        elif plain in _KINDS and plain not in ("cursor", "after", "marker", "done", "last"):
            yield from _typed(plain, name, value)
    if "next" in answer.links and not answer.says_no_results("next"):
        yield Signal(Kind.NEXT, "Link rel=next", answer.links["next"])
    if "next" not in answer.links and (last := answer.links.get("last")):
        number = next(
            (int(v) for k, v in parse_qsl(urlsplit(last).query) if plain_name(k) in _PAGE_PARAMS and v.isdigit()), None
        )
        if number is not None:
            yield Signal(Kind.PAGES, _LAST_LINK, number)
        else:
            yield Signal(Kind.NEXT, _LAST_LINK, last)
    yield from _ranges(headers.get("Content-Range"), answer.reply.status)
    yield from _beside(answer.page.envelope, lead_of(selector) or place_in(answer.page.envelope, selector))


def _ranges(header: str | None, status: int) -> Iterator[Signal]:
    found = _CONTENT_RANGE.fullmatch(header or "")
    if found and found[1] != "bytes" and found[4] != "*":
        if found[3] is not None:
            yield Signal(Kind.RANGE, "Content-Range", (int(found[2]), int(found[3]), int(found[4])))
        yield Signal(Kind.TOTAL, "Content-Range", int(found[4]))
    if status == 206:
        yield Signal(Kind.PARTIAL, "206 Partial Content", True)


def _in_json(name: str, value: str) -> Iterator[Signal]:
    """Yields the signals in a header that holds a JSON object, as ASP.NET servers send it."""
    try:
        found = orjson.loads(value)
    except ValueError:
        return
    if isinstance(found, dict):
        for key, inner in found.items():
            yield from _typed(plain_name(key), f"{name}: {key}", inner)


def _beside(envelope: Any, path: Sequence[str | int]) -> Iterator[Signal]:
    """Yields the signals next to the rows, to which `path` leads, and next to each object that contains them."""
    level, above = envelope, ""
    for inner in path or (None,):
        if isinstance(level, dict):
            yield from _fields(level, above, skip=inner, deeper=2)
            level = level.get(inner)
        else:
            there = isinstance(level, list) and isinstance(inner, int) and -len(level) <= inner < len(level)
            level = level[inner] if there else None
        above = f"{above}{inner}."


def _fields(level: Mapping[str, Any], above: str, *, skip: str | int | None, deeper: int) -> Iterator[Signal]:
    within = plain_name(above.rstrip(".").rpartition(".")[2])
    for key, value in level.items():
        if key == skip or value is None:
            continue
        name, plain = f"{above}{key}", plain_name(key)
        if isinstance(value, list):
            if plain in _LINKS and (following := _next_of(value)):
                yield Signal(Kind.NEXT, f"{name} rel=next", following)
            continue
        if isinstance(value, dict):
            if plain in _NAMES[Kind.NEXT]:
                address = next((value[word] for word in _ADDRESSES if value.get(word)), None)
                if isinstance(address, (str, int)) and not isinstance(address, bool):
                    yield Signal(Kind.NEXT if _is_address(address) else Kind.NEXT_TOKEN, name, address)
            elif plain == "total" and within == "hits":
                yield from _typed("total", f"{name}.value", value.get("value"))
            elif deeper and plain in _CONTAINERS:
                yield from _fields(value, f"{name}.", skip=None, deeper=deeper - 1)
        elif within == "pages" and plain == "total":
            yield from _typed("totalpages", name, value)
        elif ((within == "pages" or "pages" in level) and plain == "items") or (
            plain == "count" and _is_beside_links(level)
        ):
            yield from _typed("total", name, value)
        elif plain in _KINDS:
            yield from _typed(plain, name, value)


def _next_of(links: list[Any]) -> str | None:
    """Returns the address of the next page in a list of links such as `{"rel": "next", "href": ...}`."""
    for link in links:
        if isinstance(link, dict) and "next" in (link.get("rel"), link.get("relation")):
            return next((link[word] for word in _ADDRESSES if isinstance(link.get(word), str) and link[word]), None)
    return None


def _is_beside_links(level: Mapping[str, Any]) -> bool:
    """Returns whether this is Django REST framework's format, whose `count` counts all rows."""
    names = {plain_name(key) for key in level}
    return bool(names & {"next", "nextpage"}) and bool(names & {"previous", "previouspage", "prev"})


def _typed(plain: str, name: str, value: Any) -> Iterator[Signal]:
    """Yields the signals of that name whose type matches the value."""
    for kind in _KINDS.get(plain, ()):
        if kind in (Kind.TOTAL, Kind.COUNT, Kind.PAGES, Kind.PAGE, Kind.REMAINING, Kind.SIZE):
            number = number_of(value)
            if number is not None and number >= 0:
                yield Signal(kind, name, number)
        elif kind in (Kind.MORE, Kind.LAST):
            flag = flag_of(value)
            # `last: 1` may be the number of the last page.
            if flag is not None and (kind is Kind.MORE or isinstance(value, (bool, str))):
                yield Signal(kind, name, flag)
        elif kind is Kind.NEXT:
            if flag_of(value) is not None and not isinstance(value, int):
                yield Signal(Kind.MORE, name, flag_of(value))
            elif isinstance(value, (str, int)) and not isinstance(value, bool) and value != "":
                known = _is_address(value) or number_of(value) is not None
                yield Signal(Kind.NEXT if known else Kind.NEXT_TOKEN, name, value)
        elif isinstance(value, (str, int)) and not isinstance(value, bool) and value not in ("", 0):
            yield Signal(kind, name, value)


def flag_of(value: Any) -> bool | None:
    if isinstance(value, bool):
        return value
    if isinstance(value, int):
        return bool(value) if value in (0, 1) else None
    return {"true": True, "false": False}.get(value.strip().lower()) if isinstance(value, str) else None


def _is_address(value: Any) -> bool:
    return isinstance(value, str) and (value.startswith(("/", "?", "http://", "https://")) or "?" in value)


@lru_cache(maxsize=1024)
def plain_name(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


@lru_cache(maxsize=1024)
def _plain_header(name: str) -> str:
    return plain_name(re.sub(r"^x-", "", name.lower()))


def same_address(one: str, other: str) -> bool:
    """Returns whether two addresses request the same page, ignoring origins, parameter order and echoed keys."""
    return _asked(one) == _asked(other)


def _is_before(one: str, other: str) -> bool:
    """Returns whether an address requests an earlier page: their parameters only differ in a position, which is smaller."""
    (path, pairs), (other_path, other_pairs) = _asked(one), _asked(other)
    changes = [(a, b) for a, b in zip(pairs, other_pairs, strict=False) if a != b]
    if path != other_path or len(pairs) != len(other_pairs) or len(changes) != 1:
        return False
    (name, here), (other_name, there) = changes[0]
    return (
        name == other_name
        and plain_name(name) in _POSITIONS
        and here.isdigit()
        and there.isdigit()
        and int(here) < int(there)
    )


def _asked(url: str) -> tuple[str, list[tuple[str, str]]]:
    parts = urlsplit(url)
    pairs = [(key, value) for key, value in parse_qsl(parts.query, keep_blank_values=True) if value != MASK]
    return parts.path, sorted(pairs)


@dataclass
class _Count:
    """What a run's responses say under a name that may count all rows or those of a page.

    Attributes:
        values: The numbers stated.
        later: Whether a page after the first of a pass states one.
    """

    values: set[int] = field(default_factory=set)
    later: bool = False


class Signals:
    """The signals in one run's responses: which are believed and which contradicted themselves.

    Args:
        wrong: Names that the connection file says the API gets wrong.
    """

    def __init__(self, wrong: Iterable[str] = ()) -> None:
        self._wrong = {_plain_header(name) for name in wrong}
        self._latest: list[Signal] = []
        self._totals: dict[str, int] = {}
        self._most: dict[str, int] = {}
        self._counts: dict[str, _Count] = {}
        self._sizes: set[int] = set()
        self._asked: set[int] | None = None
        self._seen: dict[str, str] = {}
        self._refuted: dict[str, str] = {}
        self._last: Answer | None = None
        self.counted: int | None = None
        self._rows = self._received = 0
        self._pages: int | None = None
        self._first: int | None = None
        self._current: int | None = None
        self._kinds: dict[str, Kind] = {}

    def begin(self, counted: int | None = None) -> None:
        """Starts a pass.

        Args:
            counted: The number of rows returned by a count request, if there was one.
        """
        self._latest, self._received = [], 0
        self.counted = counted
        if counted is not None:
            self.state("count", counted)

    def take(
        self, answer: Answer, selector: str | None, *, received: int, pages: int | None = None,
        current: int | None = None, numbered: bool = False,
    ) -> None:  # fmt: skip
        """Records a response's signals.

        Args:
            answer: The response.
            selector: Where its rows are.
            received: Number of rows in this pass, including this page's.
            pages: Number of pages in this pass, including this one, if paging is by page number or there is a single page.
            current: This page's number as in the request.
            numbered: Whether the page number that a response states, if any, shows how many pages were received.
        """
        self._last, self._rows, self._received = answer, answer.page.rows, received
        asked = {int(v) for _, v in parse_qsl(urlsplit(answer.reply.url).query) if v.isascii() and v.isdigit()}
        self._asked = asked if self._asked is None else self._asked & asked
        self._pages, self._current, first = pages, current, received == answer.page.rows
        self._latest = []
        for signal in signals_of(answer, selector):
            if signal.kind is Kind.NEXT and signal.name == _LAST_LINK and first:
                continue  # the first page's address may differ from the one requested
            self._kinds[signal.name] = signal.kind
            if self.is_wrong(signal.name):
                self._seen[signal.name] = "not believed, as wrong_signals says"
            elif signal.name not in self._refuted:
                self._look_at(signal)
        stated = next((signal.value for signal in self._latest if signal.kind is Kind.PAGE), None)
        if numbered and stated is not None:
            if first:
                self._first = stated
            if self._first in (0, 1):  # other numbers are not page numbers
                self._pages = stated - self._first + 1

    def _look_at(self, signal: Signal) -> None:
        if signal.kind is Kind.TOTAL:
            self.state(signal.name, signal.value)
            return
        if signal.kind is Kind.COUNT:
            count = self._counts.setdefault(signal.name, _Count())
            count.values.add(signal.value)
            count.later |= self._received > self._rows
        if signal.kind is Kind.SIZE:
            self._sizes.add(signal.value)
        if signal.kind not in (Kind.SIZE, Kind.PAGE):
            self._seen.setdefault(signal.name, f"says {signal.kind}")
        self._latest.append(signal)

    def is_wrong(self, name: str) -> bool:
        """Returns whether the connection file lists a signal as wrong, by its whole name or its last part."""
        if not self._wrong:
            return False
        last = re.split(r"[.:\s]", name)[-1]
        return bool(self._wrong & {_plain_header(name), plain_name(last), _plain_header(name.split(" ")[0])})

    def state(self, name: str, total: int) -> bool:
        """Records a stated total and returns whether it is credible."""
        if name in self._refuted:
            return False
        self._most[name] = max(total, self._most.get(name, 0))
        # A total that was or nearly is high enough may be right, as rows may be deleted during the read.
        nearly = total > self._rows and self._received - total <= max(1, self._received // 50)
        counts_page = total == self._rows
        if total < self._received and (counts_page or (self._most[name] < self._received and not nearly)):
            self.refute(name, f"states {total} rows when {self._received} had been received")
            return False
        if counts_page and plain_name(re.split(r"[.:\s]", name)[-1]) in _NAMES[Kind.SIZE]:
            self._totals.pop(name, None)
            self._seen[name] = f"states {total} rows, which may be the size of a page"
            return False
        self._totals[name] = total
        self._seen[name] = f"states {total} rows"
        return True

    def refute(self, name: str, why: str) -> None:
        """Ignores a signal for the rest of the run."""
        self._refuted.setdefault(name, why)
        self._totals.pop(name, None)
        self._seen[name] = f"refuted: {why}"
        self._latest = [signal for signal in self._latest if signal.name != name]

    def dismiss(self, name: str, why: str) -> None:
        """Ignores a signal on the latest page, where it was wrong."""
        self._seen[name] = f"refuted: {why}"
        self._latest = [signal for signal in self._latest if signal.name != name]

    def confirms(self, rows: int, pages: int | None) -> bool:
        """Returns whether a number stated by the API confirms that these are all rows or all pages."""
        if any(total == rows for total in self._totals.values()):
            return True
        return pages is not None and any(s.value == pages for s in self._latest if s.kind is Kind.PAGES)

    def more_here(self, *, could_be_full: bool = True) -> dict[str, str]:
        """Returns the signals in the latest response that say more follows, by name, each as a sentence."""
        found = {}
        for signal in self._latest:
            kind, value = signal.kind, signal.value
            if kind is Kind.MORE and value:
                found[signal.name] = f"`{signal.name}` is true"
            elif kind is Kind.LAST and not value:
                found[signal.name] = f"`{signal.name}` is false"
            elif kind is Kind.REMAINING and value:
                found[signal.name] = f"`{signal.name}` is {value}"
            elif kind is Kind.RANGE and value[1] + 1 < value[2]:
                found[signal.name] = f"`Content-Range` ends with row {value[1]} of {value[2]}"
            elif kind is Kind.NEXT and self._leads_on(value):
                found[signal.name] = f"`{signal.name}` names a next page"
            elif kind is Kind.PAGES and self._pages is not None and value > self._pages:
                found[signal.name] = f"`{signal.name}` states {value} pages, and {self._pages} were received"
            elif kind is Kind.NEXT_TOKEN and could_be_full and self._rows:
                found[signal.name] = f"`{signal.name}` is set"
        return found

    def _leads_on(self, value: Any) -> bool:
        number = number_of(value)
        if number is not None:
            return number > (self._current or 0)  # a next page is never the first one
        if self._last is None:
            return False
        here, there = self._last.reply.url, self._last.absolute(str(value))
        return not (same_address(here, there) or _is_before(there, here))

    def more_in_all(self, rows: int, distinct: int | None = None) -> dict[str, str]:
        """Returns the stated totals above a number of rows, by name, each as a sentence.

        Args:
            rows: Number of rows received.
            distinct: Number of distinct rows, if it is known: a total that only repeated rows exceed may be right.
        """
        found = {name: total for name, total in (self._steady_counts() | self._totals).items() if total > rows}
        for name in self._refuted.keys() & self._most.keys():
            if distinct is not None and self._most[name] > distinct:
                found[name] = self._most[name]
        return {name: f"`{name}` states {total} rows" for name, total in found.items()}

    def doubts(self, *, rows: int) -> list[str]:
        """Returns the weak signals, often present at the end as well, that ask for a second look, as sentences."""
        kinds = {signal.kind for signal in self._latest}
        found = []
        for signal in self._latest:
            if signal.kind is Kind.PARTIAL and Kind.RANGE not in kinds:
                found.append("the last response is 206 Partial Content")
            elif signal.kind in (Kind.CURSOR, Kind.NEXT_TOKEN):
                found.append(f"`{signal.name}` is still filled")
            elif signal.kind is Kind.COUNT and not self._totals and self._counts_all(signal.name, rows):
                found.append(f"`{signal.name}` is {signal.value}, and {rows} rows were received")
        return found

    def _counts_all(self, name: str, rows: int) -> bool:
        """Returns whether a number that may count only a page's rows appears to count all rows, which are more."""
        count = self._counts[name]
        # Some APIs send back the size of a page that every request asks for.
        sizes = self._sizes | (self._asked or set())
        return len(count.values) == 1 and max(count.values) > rows and not count.values & sizes

    def _steady_counts(self) -> dict[str, int]:
        """Returns the numbers that may count only a page's rows, but are the same, and more, on several pages."""
        return {
            name: max(count.values) for name, count in self._counts.items() if count.later and self._counts_all(name, 0)
        }

    def total(self, name: str) -> int | None:
        """Returns the last total stated under a name in this run; None if there is none or it is not credible."""
        return self._totals.get(name)

    def kind(self, name: str) -> Kind | None:
        """Returns the kind of the signal with that name."""
        return self._kinds.get(name)

    def look_alikes(self, *kinds: Kind) -> list[str]:
        """Returns the names of the signals of these kinds seen in this run."""
        return [name for name, kind in self._kinds.items() if kind in kinds]

    def summary(self) -> list[str]:
        """Returns what was seen, believed and refuted, one line per signal."""
        return [f"{name}: {what}" for name, what in self._seen.items()][:_MOST_LISTED]

"""Holds one decoded response and finds values in it: next to the rows first, within them only if a path leads there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any
from urllib.parse import urljoin

from dlt.common import jsonpath

from rmm_assets.http.transport import Reply
from rmm_assets.reading.absent import ABSENT
from rmm_assets.rows.json_text import loads
from rmm_assets.rows.page import Page

_DOTTED = re.compile(r"(?:\$\.)?([A-Za-z_@][\w@-]*(?:\.[A-Za-z_@][\w@-]*)*)", re.ASCII)
_LINK = re.compile(r"<([^>]*)>((?:[^,<\"]|\"[^\"]*\"|,(?!\s*<))*)")
# Some servers write single quotes, which are no quotes in RFC 8288.
_REL = re.compile(r";\s*rel\s*=\s*(?:\"([^\"]*)\"|'([^']*)'|([^\s;,\"']+))", re.IGNORECASE)


@dataclass(frozen=True)
class Answer:
    """A decoded response.

    Attributes:
        reply: The response as received.
        page: Its rows and the envelope around them.
        ignored: Whether a response action says that it means no rows.
    """

    reply: Reply
    page: Page
    ignored: bool = False

    @cached_property
    def document(self) -> Any:
        """The whole body as Python values; None if it is empty."""
        return loads(self.reply.body.decode()) if self.reply.body else None

    @cached_property
    def links(self) -> dict[str, str]:
        """The addresses in the `Link` headers by their `rel` in lower case, as relations are compared without case."""
        return dict(_links(self.reply.headers.get("Link", "")))

    @property
    def has_unclear_links(self) -> bool:
        """Whether a `Link` header may name a next page under another relation, or in a part that is not understood."""
        header = self.reply.headers.get("Link", "")
        if _LINK.sub("", header).strip(", \t") or any("next" in rel for rel in self.links):
            return True
        return any(len(_REL.findall(match[2])) != 1 for match in _LINK.finditer(header))

    def says_no_results(self, rel: str) -> bool:
        """Returns whether a link says that it leads to no results, as Sentry's `results="false"` does."""
        text = rf"rel=[\"']?{re.escape(rel)}[\"']?[^,]*results=[\"']?false"
        return re.search(text, self.reply.headers.get("Link", ""), re.IGNORECASE) is not None

    def absolute(self, address: str) -> str:
        """Resolves an address found in this response to an absolute one."""
        return urljoin(self.reply.url, address)

    def beside_rows(self, path: str) -> Any:
        """Returns the value at a JSONPath outside the rows, or `ABSENT`."""
        return find(path, self.page.envelope)

    def find(self, path: str) -> Any:
        """Returns the value at a JSONPath, or `ABSENT`."""
        found = find(path, self.page.envelope)
        # Only a path into the rows, as in keyset paging, needs the whole document decoded.
        return find(path, self.document) if found is ABSENT else found


def find(path: str, value: Any) -> Any:
    """Returns the first value at a JSONPath, or `ABSENT`. A key with exactly this name, dots included, takes precedence."""
    if not isinstance(value, (dict, list)):
        return ABSENT
    if isinstance(value, dict) and path in value:
        return value[path]
    if dotted := _DOTTED.fullmatch(path):
        for name in dotted[1].split("."):
            if not isinstance(value, dict) or name not in value:
                return ABSENT
            value = value[name]
        return value
    return next((match.value for match in _compiled(path).find(value)), ABSENT)


def _links(header: str) -> Iterator[tuple[str, str]]:
    """Yields each relation in a `Link` header (RFC 8288) with its address; the first one of a name wins."""
    seen: set[str] = set()
    for match in _LINK.finditer(header):
        for rel in _REL.findall(match[2])[:1]:  # the others of a link do not count
            for name in "".join(rel).lower().split():
                if name not in seen:
                    seen.add(name)
                    yield name, match[1].strip()


@lru_cache(maxsize=256)
def _compiled(path: str) -> Any:
    return jsonpath.compile_path(path)

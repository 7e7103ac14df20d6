"""Strikes a secret out of whatever comes back from a server or goes to a log."""

from __future__ import annotations

import base64
import html
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar
from urllib.parse import quote, quote_plus

MASK = "***"


class Redactor:
    """Strikes a secret out of text and bytes, in every form in which it may come back.

    Forms: as it is, URL-encoded (once and twice, either case), escaped in HTML, as Python prints it, each of these in
    JSON and in JSON within JSON, and in base64 at each of the three alignments. Not: any other encoding, or pieces.
    """

    # A shorter secret is struck out of messages but not of rows and links, where it could be an innocent word.
    SHORTEST_IN_BODIES = 8

    def __init__(self) -> None:
        self._in_messages: tuple[_Forms[str], ...] = ()
        self._in_bodies: tuple[_Forms[bytes], ...] = ()

    def add(self, secret: str) -> None:
        """Strike this out, too, from now on."""
        if not secret:
            return
        written, packed = _written_forms(secret), set[str]()
        core = max(re.findall("[A-Za-z0-9]+", secret), key=len, default="")
        if len(secret) >= self.SHORTEST_IN_BODIES:
            packed = _base64_forms(secret.encode())
            in_latin = {form.encode("latin-1", "replace") for form in written}
            bodies = _Forms(
                core.encode(), _longest_first({form.encode() for form in written} | in_latin),
                _longest_first({form.encode() for form in packed}),
            )  # fmt: skip
            self._in_bodies = (*self._in_bodies, bodies)
        # UTF-16 read as UTF-8, which is how an error page of another encoding ends up in a message.
        packed.add("\0".join(secret))
        messages = _Forms(core, _longest_first(written), _longest_first(packed))
        self._in_messages = (*self._in_messages, messages)

    def text(self, text: str) -> str:
        """The text with the secret masked."""
        for forms in self._in_messages:
            for form in forms.to_look_for(text):
                if form in text:
                    text = text.replace(form, MASK)
        return text

    def body(self, body: bytes) -> bytes:
        """A response body with the secret masked, so that an echoed key reaches no table, link or message."""
        for forms in self._in_bodies:
            for form in forms.to_look_for(body):
                if form in body:
                    body = body.replace(form, MASK.encode())
        return body

    def header(self, value: str) -> str:
        """A response header's value with the secret masked."""
        # http.client reads a header's bytes as latin-1.
        return self.body(value.encode("latin-1", "replace")).decode("latin-1")


Text = TypeVar("Text", str, bytes)


@dataclass(frozen=True)
class _Forms(Generic[Text]):
    """One secret's forms, the longest first, so that none leaves the rest of a longer one behind.

    Attributes:
        core: Letters and digits that every written form holds as they are.
        written: Forms that a search for `core` rules out.
        packed: All others.
    """

    core: Text
    written: tuple[Text, ...]
    packed: tuple[Text, ...]

    def to_look_for(self, text: Text) -> tuple[Text, ...]:
        # A secret with special characters has some hundred forms, and every page is searched.
        return self.written + self.packed if self.core in text else self.packed


def _longest_first(forms: set[Text]) -> tuple[Text, ...]:
    return tuple(sorted(forms, key=len, reverse=True))


def _written_forms(secret: str) -> set[str]:
    """How people, browsers, servers and Python write a secret down, and that within JSON within JSON."""
    encoded = {quote(secret, safe=""), quote(secret), quote_plus(secret)}
    # encodeURIComponent and encodeURI of browsers leave more as it is than Python does.
    encoded |= {quote(secret, safe="!*'()~"), quote(secret, safe="!*'()~;/?:@&=+$,#")}
    encoded |= {quote(form, safe="") for form in encoded}
    encoded |= {re.sub("%[0-9A-F]{2}", lambda match: match[0].lower(), form) for form in encoded}
    pages = {html.escape(secret), html.escape(secret, quote=False), html.escape(secret).replace("&quot;", "&#34;")}
    pages |= {page.replace("&#x27;", "&#39;") for page in pages}
    printed = {repr(secret)[1:-1], repr(secret.encode())[2:-1], repr(secret.encode("latin-1", "replace"))[2:-1]}
    forms = {secret} | encoded | pages | printed | _json_forms({secret})
    forms |= _json_forms(forms)
    return forms | _json_forms(forms)


def _json_forms(texts: Iterable[str]) -> set[str]:
    forms: set[str] = set()
    for text in texts:
        ascii_only = json.dumps(text)[1:-1]
        forms |= {ascii_only, json.dumps(text, ensure_ascii=False)[1:-1]}
        forms.add(re.sub(r"\\u[0-9a-f]{4}", lambda match: "\\u" + match[0][2:].upper(), ascii_only))
    return forms | {form.replace("/", "\\/") for form in forms}


def _base64_forms(secret: bytes) -> set[str]:
    """What stays the same of a secret's base64, whatever stands before and after it."""
    forms: set[str] = set()
    for before in range(3):
        encoded = base64.b64encode(b"\0" * before + secret).decode().rstrip("=")
        # The first characters mix with what stands before, the last one with what stands after.
        stable = encoded[(0, 2, 3)[before] : len(encoded) if (before + len(secret)) % 3 == 0 else -1]
        forms |= {stable, stable.replace("+", "-").replace("/", "_")}
    return forms

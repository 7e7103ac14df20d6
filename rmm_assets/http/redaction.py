"""Redacts a secret from server responses and log messages."""

from __future__ import annotations

import base64
import html
import json
import logging
import re
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, TypeVar
from urllib.parse import quote, quote_plus

MASK = "***"

# Separates a key from its scheme, its name or its user.
_SEPARATORS = re.compile(r"""[\s:=,;"']+""")
_SHORTEST_PART = 4
_SCHEMES = frozenset(
    {"token", "bearer", "basic", "apikey", "api_key", "api-key", "digest", "key", "user", "username", "password"}
)
# One or two words, perhaps with a year, or a number such as an ID or a date: ordinary values of a row.
_ORDINARY = re.compile(
    r"([A-Z]?[a-z]{1,15}|[A-Z]{1,15})([-_. ]([A-Z]?[a-z]{1,15}|[A-Z]{1,15})|[A-Z][a-z]{1,14})?([-_. ]?\d{1,4}!?)?|[\d\W_]{1,12}"
)


class Redactor:
    """Redacts a secret from text and bytes, in every form in which a server may return it.

    These forms are: unencoded, URL-encoded (once and twice, in either case), HTML-escaped, as a Python repr, each of
    these in JSON and in JSON within JSON, and base64 at each of the three alignments. Other encodings are not redacted.
    A secret of several parts, such as `Token 0a1b2c3d4e`, is redacted as a whole and by its parts.

    Attributes:
        spared: Names of the secrets that are redacted from messages but not from rows and links, where they could be
            ordinary values.
    """

    # Shorter secrets could be ordinary words.
    SHORTEST_IN_BODIES = 8

    def __init__(self) -> None:
        self._in_messages: tuple[_Forms[str], ...] = ()
        self._in_bodies: tuple[_Forms[bytes], ...] = ()
        self._added: set[str] = set()
        self.spared: list[str] = []

    def add(self, secret: str, name: str = "") -> None:
        """Adds a secret to redact, with its parts.

        Args:
            secret: The secret as it is stored or sent.
            name: What the connection file calls it, for `spared`.
        """
        whole = secret.strip()
        if name and whole and not self._is_unmistakable(whole):
            self.spared.append(name)
        parts = [
            part for part in _SEPARATORS.split(whole) if len(part) >= _SHORTEST_PART and part.lower() not in _SCHEMES
        ]
        for text in (secret, whole, *parts):
            if text and text not in self._added:
                self._added.add(text)
                self._add(text)

    def _is_unmistakable(self, text: str) -> bool:
        """Returns whether a text in a row can only be the secret."""
        return len(text) >= self.SHORTEST_IN_BODIES and _ORDINARY.fullmatch(text) is None

    def _add(self, secret: str) -> None:
        written, packed = _written_forms(secret), set[str]()
        core = max(re.findall("[A-Za-z0-9]+", secret), key=len, default="")
        if self._is_unmistakable(secret):
            packed = _base64_forms(secret.encode())
            in_latin = {form.encode("latin-1", "replace") for form in written}
            bodies = _Forms(
                core.encode(), _longest_first({form.encode() for form in written} | in_latin),
                _longest_first({form.encode() for form in packed}),
            )  # fmt: skip
            self._in_bodies = (*self._in_bodies, bodies)
        # UTF-16 decoded as UTF-8, as happens with error pages in another encoding.
        packed.add("\0".join(secret))
        messages = _Forms(core, _longest_first(written), _longest_first(packed))
        self._in_messages = (*self._in_messages, messages)

    def warn(self, log: logging.Logger) -> None:
        """Logs which secrets are not redacted from rows."""
        for name in self.spared:
            log.warning(
                "%s is too short or too common to be redacted from rows; if the API echoes it in a row, it is loaded. "
                "Use a longer, random secret if you can",
                name,
            )

    def text(self, text: str) -> str:
        """Masks the secret in a text."""
        for forms in self._in_messages:
            for form in forms.to_look_for(text):
                if form in text:
                    text = text.replace(form, MASK)
        return text

    def body(self, body: bytes) -> bytes:
        """Masks the secret in a response body, so that an echoed key does not get into a table, link or message."""
        for forms in self._in_bodies:
            for form in forms.to_look_for(body):
                if form in body:
                    body = body.replace(form, MASK.encode())
        return body

    def header(self, value: str) -> str:
        """Masks the secret in the value of a response header."""
        # http.client decodes headers as latin-1.
        return self.body(value.encode("latin-1", "replace")).decode("latin-1")


class Redactors:
    """Redacts the secrets of several redactors from what is said about all of them."""

    def __init__(self) -> None:
        self._each: tuple[Redactor, ...] = ()

    def new(self) -> Redactor:
        """Returns a further redactor, whose secrets are masked, too."""
        self._each = (*self._each, redactor := Redactor())
        return redactor

    def text(self, text: str) -> str:
        """Masks all secrets in a text."""
        for redactor in self._each:
            text = redactor.text(text)
        return text

    @contextmanager
    def masking(self, log: logging.Logger) -> Iterator[None]:
        """Masks all secrets in what is logged meanwhile, in tracebacks, too."""

        def mask(record: logging.LogRecord) -> bool:
            record.msg, record.args = self.text(record.getMessage()), None
            if record.exc_info:
                record.exc_text = self.text("".join(traceback.format_exception(*record.exc_info)).rstrip())
                record.exc_info = None
            return True

        log.addFilter(mask)
        try:
            yield
        finally:
            log.removeFilter(mask)


Text = TypeVar("Text", str, bytes)


@dataclass(frozen=True)
class _Forms(Generic[Text]):
    """The forms of one secret, longest first, so that masking a form does not leave the rest of a longer one.

    Attributes:
        core: Letters and digits that every written form contains unchanged.
        written: Forms that cannot occur in a text without `core`.
        packed: All other forms.
    """

    core: Text
    written: tuple[Text, ...]
    packed: tuple[Text, ...]

    def to_look_for(self, text: Text) -> tuple[Text, ...]:
        # A secret with special characters has hundreds of forms, and every page is searched for them.
        return self.written + self.packed if self.core in text else self.packed


def _longest_first(forms: set[Text]) -> tuple[Text, ...]:
    return tuple(sorted(forms, key=len, reverse=True))


def _written_forms(secret: str) -> set[str]:
    """Returns the forms in which browsers, servers and Python write a secret, also in JSON and in JSON within JSON."""
    encoded = {quote(secret, safe=""), quote(secret), quote_plus(secret)}
    # Browsers' encodeURIComponent and encodeURI leave more characters unencoded than Python does.
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
    """Returns the parts of a secret's base64 encoding that do not depend on the bytes before and after it."""
    forms: set[str] = set()
    for before in range(3):
        encoded = base64.b64encode(b"\0" * before + secret).decode().rstrip("=")
        # The first characters also encode the bytes before, and the last one those after.
        stable = encoded[(0, 2, 3)[before] : len(encoded) if (before + len(secret)) % 3 == 0 else -1]
        forms |= {stable, stable.replace("+", "-").replace("/", "_")}
    return forms

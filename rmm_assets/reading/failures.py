"""Recognizes fields next to the rows that say that a request failed, or a part of it, although its status is 200."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from rmm_assets.reading.signals import flag_of, number_of, plain_name, words

# Names without case and punctuation. Filled, the first say that the request failed; the second if true; the third if false.
ERRORS = words(
    "error errors exception exceptions fault faults errormessage errormessages errormsg errortext errordescription "
    "errordetails errorcode errorcount"
)
_FAILED = words("iserror haserror haserrors timedout")
_SUCCEEDED = words("success ok succeeded issuccess issuccessful successful")
_STATUSES = words("status statuscode code httpstatus httpstatuscode httpcode")
_FAILURES = frozenset(("error", "fail", "failed", "failure"))
# Texts under an error's name that mean "no error".
_NONE = frozenset(("", "0", "200", "-", "n/a", "false", "none", "null", "ok", "success", "no error", "no errors"))
_ROOT_KEY = re.compile(r"(?:\$?\.|\$)?(?:\[?(['\"]))?(?P<key>[\w@ -]+)")


def error_beside(envelope: Any, selector: str, wrong: Sequence[str] = ()) -> str | None:
    """Returns the key at the root of a body that says that the request failed; None if there is none.

    Args:
        envelope: The body without its rows, or, with a selector that is not a dotted path, the whole body.
        selector: Where the rows are. The key at the root that leads to them is no error.
        wrong: Keys that the API gets wrong.
    """
    if not isinstance(envelope, dict):
        return None
    found = _ROOT_KEY.match(selector)
    rows = found["key"] if found else None
    ignored = {plain_name(re.split(r"[.:\s]", name)[-1]) for name in wrong}
    for key, value in envelope.items():
        if (
            value is not None
            and key != rows
            and _says_failed(plain_name(key), value)
            and plain_name(key) not in ignored
        ):
            return str(key)
    return None


def _says_failed(name: str, value: Any) -> bool:
    if name == "shards" and isinstance(value, dict):
        return bool(number_of(value.get("failed")))
    if name in ERRORS:
        return _is_error(value)
    if name in _FAILED:
        return flag_of(value) is True
    if name in _SUCCEEDED:
        return flag_of(value) is False
    if name == "status" and isinstance(value, str) and value.strip().lower() in _FAILURES:
        return True
    # Other numbers are an API's own, and may mean success.
    return name in _STATUSES and 400 <= (number_of(value) or 0) < 600


def _is_error(value: Any) -> bool:
    """Returns whether a value under an error's name is filled; a number may count errors, or be a code."""
    if isinstance(value, str):
        return value.strip().lower() not in _NONE and number_of(value) != 0
    if isinstance(value, dict):
        if value.get("code") in (0, 200, "0", "200"):
            return False
        return any(_is_error(inner) for inner in value.values())
    if isinstance(value, list):
        return any(_is_error(inner) for inner in value)
    return bool(value) and value != 200

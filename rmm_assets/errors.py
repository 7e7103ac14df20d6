"""The one family of errors that a person can act on: what went wrong, where, and what to do."""

from __future__ import annotations


class RmmError(Exception):
    """A run cannot go on, and its text says why in a sentence for people, without the secret. Catch this one."""

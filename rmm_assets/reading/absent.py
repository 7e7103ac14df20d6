"""Defines `ABSENT`, the value of a path that is missing."""

from typing import Any

# Marks a missing value; a null is None.
ABSENT: Any = object()

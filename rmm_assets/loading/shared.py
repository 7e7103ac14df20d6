"""Defines what the resources of one connection share while one process runs them."""

from __future__ import annotations

from dataclasses import dataclass, field

from rmm_assets.http.tokens import Tokens
from rmm_assets.loading.parents import Rows


@dataclass
class Shared:
    """What resources leave for those that run after them in the same process.

    Attributes:
        tokens: The tokens of its auth.
        parents: The rows of parent resources that are read and not loaded, by run and resource.
    """

    parents: dict[tuple[str, str], Rows] = field(default_factory=dict, repr=False)
    tokens: Tokens = field(default_factory=Tokens)

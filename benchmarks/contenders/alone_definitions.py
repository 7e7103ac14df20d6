"""Defines the code location of contender z: one asset that does nothing."""

from __future__ import annotations

import dagster as dg


@dg.asset
def nothing() -> None:
    """Does nothing."""


defs = dg.Definitions(assets=[nothing])

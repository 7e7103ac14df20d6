"""Decides how many examples the tests with generated data try: few in `make test`, all in `make property`."""

from __future__ import annotations

import os


def examples(few: int, every: int) -> int:
    """Returns `every` if the environment variable `RMM_EXAMPLES` is `all`, else `few`."""
    return every if os.environ.get("RMM_EXAMPLES") == "all" else few

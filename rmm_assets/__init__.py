"""Turns a remote monitoring and management API, described in one YAML file, into Dagster assets.

`RmmConnection` is the component that a connection file names. It is imported lazily, so that importing the parts of
the package that do not use Dagster does not import Dagster.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rmm_assets.orchestration.component import RmmConnection

__all__ = ["RmmConnection"]


def __getattr__(name: str) -> Any:
    if name == "RmmConnection":
        from rmm_assets.orchestration.component import RmmConnection

        return RmmConnection
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    # `dg list components` finds components through `dir`.
    return sorted({*globals(), *__all__})

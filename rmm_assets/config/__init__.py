"""Defines what a connection file may contain, as frozen models. Does not use Dagster, and does not look up secrets."""

from rmm_assets.config.connection import Connection
from rmm_assets.config.resource import Resource

__all__ = ["Connection", "Resource"]

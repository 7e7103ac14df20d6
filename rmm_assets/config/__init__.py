"""Defines what a connection file may contain, as frozen models. It neither uses Dagster nor looks up secrets."""

from rmm_assets.config.connection import Connection
from rmm_assets.config.resource import Resource

__all__ = ["Connection", "Resource"]

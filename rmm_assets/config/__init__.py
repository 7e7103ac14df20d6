"""What a user may write in a connection file, as frozen values. No Dagster here, and nothing is looked up."""

from rmm_assets.config.connection import Connection
from rmm_assets.config.resource import Resource

__all__ = ["Connection", "Resource"]

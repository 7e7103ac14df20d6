"""Says where a connection's tables are stored."""

from __future__ import annotations

from pathlib import Path

from rmm_assets.config.connection import Connection
from rmm_assets.tables.store import Store

WORK_FOLDER = Path("data/work")


def store_of(connection: Connection) -> Store:
    """Returns where a connection's tables land. It reads environment variables, so call it when a run starts."""
    destination = connection.destination
    return Store(
        destination=destination.type,
        credentials=destination.resolved_credentials(),
        dataset=connection.dataset_name,
        work=WORK_FOLDER,
        options=destination.options,
        memory_limit=destination.memory_limit,
    )

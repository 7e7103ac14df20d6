"""Opens what loads a resource, and keeps others from loading it meanwhile."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import dlt

from rmm_assets.http.redaction import Redactors
from rmm_assets.loading.plan import LoadPlan
from rmm_assets.tables.existing import Existing, look_up
from rmm_assets.tables.locks import Lock
from rmm_assets.tables.store import Store


class Opened(NamedTuple):
    """What loads a resource.

    Attributes:
        pipeline: Its pipeline.
        folder: An empty folder for rows before they land.
        existing: What the destination has that the resource's dlt schema does not say.
        lock: The lock among machines; None if files do.
        release: Lets others use the database file, until the rows land.
    """

    pipeline: dlt.Pipeline
    folder: Path
    existing: Existing
    lock: Lock | None
    release: Callable[[], None]


@contextmanager
def opened(
    store: Store, plan: LoadPlan, log: logging.Logger, redactors: Redactors, *, progress: Any = None
) -> Iterator[Opened]:
    """Waits until nobody else loads a resource, and opens its pipeline without what a killed run left.

    Args:
        store: Where the rows land.
        plan: How the resource is landed.
        log: Receives whom the run waits for.
        redactors: Mask dlt's log, which quotes database errors, which quote rows; they learn the database's password.
        progress: dlt's progress collector.
    """
    name = plan.source_name
    with ExitStack() as stack:
        stack.enter_context(store.alone(name, log))
        folder = store.work / "pages" / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        if store.password:
            redactors.new().add(store.password)
        stack.enter_context(redactors.masking(logging.getLogger("dlt")))
        lock = stack.enter_context(store.locked(name, log))
        # A killed run leaves an incomplete state behind; the destination has the valid one.
        shutil.rmtree(store.working_folder(name), ignore_errors=True)
        pipeline = store.pipeline(name, progress=progress)
        # Held until dlt has restored its state.
        holding = stack.enter_context(ExitStack())
        holding.enter_context(store.writing(log))
        holding.enter_context(store.held())
        existing = look_up(pipeline.destination_client(), name, plan.table)
        yield Opened(pipeline, folder, existing, lock, holding.close)

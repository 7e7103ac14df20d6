"""Records the outcome of a run's attempt at one resource in `rmm_syncs` and describes why it failed."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from dlt.destinations.sql_client import SqlClientBase

from rmm_assets.errors import DatabaseInUseError, PublishedError, RmmError
from rmm_assets.http.redaction import Redactors
from rmm_assets.http.transport import Traffic
from rmm_assets.loading import metrics
from rmm_assets.loading.outcome import Outcome, TenantOutcome
from rmm_assets.loading.plan import LoadPlan
from rmm_assets.reading.report import Report
from rmm_assets.tables import syncs
from rmm_assets.tables.store import Store

_LONGEST_ERROR = 500


@dataclass
class Attempt:
    """One run's attempt at a resource, recorded in `rmm_syncs`.

    Attributes:
        batch: The names of the tenants of the run; empty in a connection without tenants.
        tenants: The outcomes for those read so far.
        load_id: dlt's id of the load whose rows are in the table although the attempt failed.
    """

    store: Store
    plan: LoadPlan
    log: logging.Logger
    redactor: Redactors = field(default_factory=Redactors)
    traffic: Traffic = field(default_factory=Traffic)
    began: datetime = field(default_factory=lambda: datetime.now(UTC))
    started: float = field(default_factory=time.monotonic)
    sent: bool = False
    batch: Sequence[str] = ()
    tenants: list[TenantOutcome] = field(default_factory=list)
    load_id: str = ""

    def loaded(self, client: SqlClientBase[Any], outcome: Outcome) -> None:
        """Records a load while the database is open."""
        sync = self._sync("loaded" if outcome.report.complete else "incomplete", outcome)
        self._send(sync)
        try:
            syncs.write(client, *self._of_tenants(sync))
        except Exception as error:  # the load itself succeeded
            self.log.warning("%s: the run could not be recorded in %s: %s", self.plan.resource.name, syncs.SYNCS, error)

    def failed(self, error: Exception, said: str = "") -> None:
        """Records a failure if the destination can be reached.

        Args:
            error: The error.
            said: What to record; by default the error's message.
        """
        verdict: syncs.Verdict = "failed_after_load" if isinstance(error, PublishedError) else "failed"
        self._send(self._sync(verdict))
        if isinstance(explained_by(error), DatabaseInUseError):
            return
        said = self.redactor.text(said or sentence_of(error, self.plan.resource.name))
        sentence = " ".join(said.split())[:_LONGEST_ERROR]
        try:
            self.store.prepare()
            with self.store.changing(self.plan.source_name, self.log) as client:
                syncs.write(client, *self._of_tenants(replace(self._sync(verdict), error=sentence)))
        except Exception as fault:
            self.log.info(
                "%s: the failure could not be recorded in %s: %s", self.plan.resource.name, syncs.SYNCS, fault
            )

    def _send(self, sync: syncs.Sync) -> None:
        """Sends metrics; a load that fails after its rows are in the table has sent its requests already."""
        verdicts = Counter(str(each.verdict) for each in self._of_tenants(sync))
        metrics.send(self.plan.connection, sync, verdicts, Traffic() if self.sent else self.traffic, self.log)
        self.sent = True

    def _of_tenants(self, sync: syncs.Sync) -> list[syncs.Sync]:
        """Returns a run's row, or one for each tenant."""
        read = {tenant.tenant for tenant in self.tenants}
        report, traffic = Report(sync.resource), Traffic()
        unread = [TenantOutcome(name, report, traffic, sync.error) for name in self.batch if name not in read]
        return [_of_tenant(sync, tenant) for tenant in (*self.tenants, *unread)] or [sync]

    def _sync(self, verdict: syncs.Verdict, outcome: Outcome | None = None) -> syncs.Sync:
        sync = syncs.Sync(
            self.store.run_id, self.plan.resource.name, self.began, round(time.monotonic() - self.started, 3), verdict,
            requests=self.traffic.requests, retries=self.traffic.retries, load_id=self.load_id,
        )  # fmt: skip
        if outcome is None:
            return sync
        evidence = outcome.report.evidence
        return replace(
            sync, evidence=evidence.name.lower() if evidence is not None else "",
            rows_received=outcome.report.distinct,
            rows_loaded=outcome.rows_loaded, rows_written=outcome.rows_written, rows_new=outcome.rows_new,
            rows_changed=outcome.rows_changed, rows_absent=outcome.absences.gone, rows_rejected=outcome.rows_rejected,
            row_count=outcome.row_count, load_id=outcome.load_id, last_full_read=outcome.last_full_read,
            used_values=outcome.used_values,
        )  # fmt: skip


def _of_tenant(sync: syncs.Sync, tenant: TenantOutcome) -> syncs.Sync:
    """Returns a run's row with the counts of one tenant."""
    report, traffic, verdict = tenant.report, tenant.traffic, sync.verdict
    if tenant.error:
        verdict = "failed"
    elif verdict != "failed" and verdict != "failed_after_load":
        verdict = "loaded" if report.complete else "incomplete"
    loaded = verdict in ("loaded", "incomplete")
    return replace(
        sync, tenant=tenant.tenant, verdict=verdict, seconds=round(tenant.seconds, 3),
        evidence=report.evidence.name.lower() if loaded and report.evidence is not None else "",
        rows_received=tenant.rows_received if loaded else None,
        rows_loaded=tenant.rows_received - tenant.rows_left_out if loaded else 0,
        rows_written=tenant.rows_written if loaded else None, rows_new=tenant.rows_new,
        rows_changed=tenant.rows_written - tenant.rows_new, rows_absent=tenant.rows_absent, rows_rejected=0,
        row_count=tenant.row_count, requests=traffic.requests, retries=traffic.retries,
        last_full_read=tenant.last_full_read if loaded else None, used_values="",
        load_id="" if verdict == "failed" else sync.load_id, error=" ".join((tenant.error or sync.error).split())[:_LONGEST_ERROR],
    )  # fmt: skip


def explained_by(error: BaseException) -> RmmError | None:
    """Returns the `RmmError` among an error and its causes; None if there is none."""
    return next((cause for cause in causes(error) if isinstance(cause, RmmError)), None)


def sentence_of(error: BaseException, resource: str) -> str:
    """Returns the message of the `RmmError` or else the name and message of the innermost error; not redacted."""
    explained, innermost = explained_by(error), causes(error)[-1]
    if explained is not None:
        return str(explained) or type(explained).__name__
    return f"{resource}: {type(innermost).__name__}: {innermost}"


def causes(error: BaseException) -> list[BaseException]:
    """Returns an error and its causes, outermost first."""
    chain = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None and cause not in chain:
        chain.append(cause)
    return chain

"""`rmm check`: says what is wrong with connections before their first run."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import click

from rmm_assets.cli.instance import leave

if TYPE_CHECKING:
    from rmm_assets.config import Connection
    from rmm_assets.loading.sample import Sample


@dataclass
class _Checked:
    """What was found about one connection."""

    connection: str
    file_faults: list[str] = field(default_factory=list)
    missing_secrets: list[str] = field(default_factory=list)
    resources: list[Sample] = field(default_factory=list)

    @property
    def is_right(self) -> bool:
        return not (self.file_faults or self.missing_secrets or any(sample.problems for sample in self.resources))

    def as_json(self) -> dict[str, Any]:
        return {**vars(self), "right": self.is_right, "resources": [sample.as_json() for sample in self.resources]}


@click.command()
@click.argument("connection", required=False)
@click.option("--tenant", help="The tenant to send requests to; by default the first one.")
@click.option("--json", "as_json", is_flag=True, help="Print the results as JSON.")
def check(connection: str | None, tenant: str | None, as_json: bool) -> None:
    """Check the file, the secrets and the API of CONNECTION (default: all connections), and load nothing.

    Names every fault of the files, and the secrets that are not set. Then sends a few small requests for each resource and
    says what it would load: rows, the largest page, the total, what would prove a read complete, types, keys, and whether
    an incremental read gets fewer rows. Exits with 0 only if everything is right.
    """
    from rmm_assets.cli.arguments import known_and_broken

    known, broken = known_and_broken()
    if connection is not None and connection not in known and connection not in broken:
        names = ", ".join(sorted({*known, *broken})) or "none"
        raise click.UsageError(f"unknown connection {connection}; known connections: {names}")
    results = [
        _Checked(name, file_faults=faults.splitlines()) for name, faults in broken.items() if connection in (None, name)
    ]
    try:
        for name, found in known.items():
            if connection in (None, name):
                results.append(checked(found, tenant))
    except KeyboardInterrupt:
        click.echo("\nInterrupted.", err=True)
        leave(130)
    if as_json:
        click.echo(json.dumps([result.as_json() for result in results], indent=2, default=str))
    else:
        _print(results)
    leave(0 if results and all(result.is_right for result in results) else 1)


def checked(connection: Connection, tenant: str | None) -> _Checked:
    from rmm_assets.cli.arguments import for_requests
    from rmm_assets.loading.sample import sample
    from rmm_assets.orchestration.resources import api_resource

    result = _Checked(connection.name)
    if connection.tenants is not None:
        result.file_faults, result.missing_secrets = _faults_of_tenants(connection)
        if result.file_faults:
            return result
    connection = for_requests(connection, tenant)
    api = api_resource(connection)
    if missing := api.missing():
        result.missing_secrets = result.missing_secrets or missing
        return result
    with api.session() as (base_url, secrets):
        for resource in connection.resources:
            if resource.selected:
                with doing(f"{connection.name}/{resource.name}"):
                    result.resources.append(
                        sample(
                            connection, resource, secrets, base_url=base_url, thorough=True, tokens=api.shared.tokens
                        )
                    )
    return result


def _faults_of_tenants(connection: Connection) -> tuple[list[str], list[str]]:
    """Returns what is wrong with the list of tenants and the settings of all, and the secrets that are not set."""
    from rmm_assets.config.store import store_of
    from rmm_assets.errors import TenantError
    from rmm_assets.loading.tenants import tenants_of
    from rmm_assets.orchestration.resources import api_resource

    missing = list[str]()
    try:
        found = tenants_of(connection, store_of(connection))
    except TenantError as error:
        return [str(error)], []
    faults = list(found.faults)
    for tenant in found.tenants:
        try:
            missing += [
                f"tenant {tenant.name}: {said}" for said in api_resource(connection.of_tenant(tenant)).missing()
            ]
        except TenantError as error:
            faults.append(str(error))
    return faults, missing


@contextmanager
def doing(what: str) -> Iterator[None]:
    """Shows on a terminal what is in progress."""
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console

    with Console(stderr=True).status(what):
        yield


def _print(results: Sequence[_Checked]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console(width=None if sys.stdout.isatty() else 120)

    def say(color: str, name: str, sentence: str) -> None:
        console.print(f"[{color}]{escape(name)}[/{color}] {escape(sentence)}", highlight=False)

    for result in results:
        if result.resources:
            table = Table(title=result.connection, title_justify="left")
            for title in ("resource", "HTTP", "rows", "asked", "total", "proof of completeness", "incremental"):
                table.add_column(title, justify="right" if title in ("HTTP", "rows", "asked", "total") else "left")
            for sample in result.resources:
                numbers = (sample.status, sample.rows, sample.asked, sample.total)
                cells = ["" if number is None else f"{number:,}" for number in numbers]
                color = "red" if sample.problems else "green"
                table.add_row(f"[{color}]{sample.resource}[/{color}]", *cells, sample.proof, escape(sample.incremental))
            console.print(table)
        for fault in result.file_faults:
            say("red", result.connection, fault)
        for missing in result.missing_secrets:
            say("red", result.connection, missing)
        for sample in result.resources:
            name = f"{result.connection}/{sample.resource}"
            for problem in sample.problems:
                say("red", name, problem)
            for note in sample.notes:
                say("yellow", name, note)
            other = [
                f"{column.name}: {column.inferred} in the rows, {column.declared} in the file"
                for column in sample.columns
                if column.inferred and column.declared and column.inferred != column.declared
            ]
            if other:
                say("dim", name, f"types that the file changes: {'; '.join(other)}")
        if result.is_right:
            say("green", result.connection, "is right.")

"""Defines `RmmApi`, the Dagster resource that looks up a connection's secret when a run starts.

The code location loads without any secret; a run without its secret fails immediately and names the variable to set.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import dagster as dg
from pydantic import Field, PrivateAttr, SecretStr

from rmm_assets.config import Connection
from rmm_assets.http.auth import Secrets, hidden
from rmm_assets.loading.dlt_internals import reload_secrets
from rmm_assets.loading.shared import Shared
from rmm_assets.orchestration.lost_runs import tag_run


class RmmApi(dg.ConfigurableResource[None]):
    """The secrets of one connection, or where to look them up.

    Attributes:
        api_key: The key; in your own code, pass `dg.EnvVar("ACME_API_KEY")`. If that variable is not set, Dagster
            refuses to launch a run.
        api_key_variable: Name of the environment variable that holds the key, which is what a connection file sets. If
            that variable is not set, the run starts and fails, so that failure sensors report it.
        dlt_secret: Path in `dlt.secrets`, looked up in all of dlt's providers (environment, `.dlt/secrets.toml`,
            vaults).
        named_variables: Names of the environment variables that hold the secrets of `secrets`, by name.
        named_dlt_secrets: Paths in `dlt.secrets` of those that are looked up there, by name.
        simulator: Settings of the embedded RMM, which then provides address and key.
    """

    # Not part of the resource's repr, because the resource is a variable in many stack frames.
    api_key: str | None = Field(default=None, repr=False)
    api_key_variable: str | None = None
    dlt_secret: str | None = None
    named_variables: dict[str, str] = Field(default_factory=dict)
    named_dlt_secrets: dict[str, str] = Field(default_factory=dict)
    simulator: dict[str, int] | None = None
    _shared: Shared = PrivateAttr(default_factory=Shared)

    @property
    def shared(self) -> Shared:
        """What the connection's resources share while this process runs them: Dagster makes one of these for each run."""
        return self._shared

    def setup_for_execution(self, context: dg.InitResourceContext) -> None:
        """Tags the run with the process that executes it, before the run does anything."""
        if context.instance is not None and context.run is not None:
            tag_run(context.instance, context.run)

    @contextmanager
    def session(self) -> Iterator[tuple[str | None, Secrets]]:
        """Yields the base URL (None for the one in the connection file) and the secrets, for the duration of a run.

        Raises:
            dagster.Failure: A secret is not set.
        """
        if self.simulator is not None:
            import secrets
            from datetime import UTC, datetime

            from rmm_assets.simulator import Fleet, Simulator

            # The fleet follows the clock, so each run of the demo finds changes, but it does not change during a run.
            settings: dict[str, Any] = dict(self.simulator)
            fleet = Fleet(**settings)
            with Simulator(fleet=fleet, api_key=secrets.token_hex(16), tick=fleet.tick_at(datetime.now(UTC))) as rmm:
                yield rmm.base_url, hidden(rmm.api_key)
            return
        yield None, self.secrets()

    def secrets(self) -> Secrets:
        """Returns all secrets of the connection.

        Raises:
            dagster.Failure: A secret is not set.
        """
        named = {name: _variable(variable, f"secret {name}") for name, variable in self.named_variables.items()}
        named |= {name: _dlt_secret(path, f"secret {name}") for name, path in self.named_dlt_secrets.items()}
        return Secrets(self.secret(), named, again=self._look_up_again)

    def secret(self) -> SecretStr | None:
        """Returns the secret of `api_key`, or None if the API does not need one.

        Raises:
            dagster.Failure: The secret is not set.
        """
        if self.dlt_secret is not None:
            return _dlt_secret(self.dlt_secret, "API key")
        if self.api_key_variable is not None:
            return _variable(self.api_key_variable, "API key")
        return SecretStr(self.api_key) if self.api_key is not None else None

    def missing(self) -> list[str]:
        """Returns what to set for each secret that is not there."""
        found = []
        looks: list[Callable[[], Any]] = [
            self.secret,
            *(partial(_variable, variable, f"secret {name}") for name, variable in self.named_variables.items()),
            *(partial(_dlt_secret, path, f"secret {name}") for name, path in self.named_dlt_secrets.items()),
        ]
        for look in looks:
            try:
                look()
            except dg.Failure as failure:
                found.append(str(failure.description))
        return found

    def _look_up_again(self) -> Secrets | None:
        reload_secrets()
        try:
            return self.secrets()
        except dg.Failure:
            return None


def _variable(name: str, what: str) -> SecretStr:
    value = dg.EnvVar(name).get_value()
    if not value or not value.strip():
        raise dg.Failure(f"No {what}: set the environment variable {name}", allow_retries=False)
    return SecretStr(value)


def _dlt_secret(path: str, what: str) -> SecretStr:
    import dlt

    value: Any = dlt.secrets.get(path)
    if not value:
        variable = path.upper().replace(".", "__")
        raise dg.Failure(
            f"No {what}: set the environment variable {variable}, or {path} in .dlt/secrets.toml", allow_retries=False
        )
    return SecretStr(str(value))


def api_resource(connection: Connection) -> RmmApi:
    """Returns the resource of a connection, with references to its secrets instead of values."""
    if connection.simulator is not None:
        return RmmApi(simulator=connection.simulator.model_dump())
    key, named = connection.api_key, connection.secrets
    return RmmApi(
        api_key_variable=None if key is None else key.env,
        dlt_secret=None if key is None else key.dlt_secret,
        named_variables={name: one.env for name, one in named.items() if one.env is not None},
        named_dlt_secrets={name: one.dlt_secret for name, one in named.items() if one.dlt_secret is not None},
    )


def resource_key(connection: Connection) -> str:
    """Returns the name under which a connection's ops find its resource."""
    return f"{connection.name}_api"

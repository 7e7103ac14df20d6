"""Defines `RmmApi`, the Dagster resource that looks up a connection's secret when a run starts.

The code location loads without any secret set; a run then fails immediately and names the variable to set.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import dagster as dg
from pydantic import Field, SecretStr

from rmm_assets.config import Connection
from rmm_assets.http.auth import hidden


class RmmApi(dg.ConfigurableResource[None]):
    """The API key of one connection, or where to look it up.

    Attributes:
        api_key: The key; in your own code, pass `dg.EnvVar("ACME_API_KEY")`. If that variable is not set, Dagster
            refuses to launch a run.
        api_key_variable: Name of the environment variable that holds the key, which is what a connection file sets. If
            that variable is not set, the run starts and fails, so that failure sensors report it.
        dlt_secret: Path in `dlt.secrets`, looked up in all of dlt's providers (environment, `.dlt/secrets.toml`,
            vaults).
        simulator: Settings of the embedded RMM, which then provides address and key.
    """

    # Not part of the resource's repr, because the resource is a variable in many stack frames.
    api_key: str | None = Field(default=None, repr=False)
    api_key_variable: str | None = None
    dlt_secret: str | None = None
    simulator: dict[str, int] | None = None

    @contextmanager
    def session(self) -> Iterator[tuple[str | None, SecretStr | None]]:
        """Yields the base URL (None for the one in the connection file) and the secret, for the duration of a run.

        Raises:
            dagster.Failure: The secret is not set.
        """
        if self.simulator is not None:
            from datetime import UTC, datetime

            from rmm_assets.simulator import Fleet, Simulator

            # The fleet follows the clock, so that each run of the demo finds changes, but does not change during a run.
            settings: dict[str, Any] = dict(self.simulator)
            fleet = Fleet(**settings)
            with Simulator(fleet=fleet, tick=fleet.tick_at(datetime.now(UTC))) as rmm:
                yield rmm.base_url, hidden(rmm.api_key)
            return
        yield None, self.secret()

    def secret(self) -> SecretStr | None:
        """Returns the secret, or None if the API does not need one.

        Raises:
            dagster.Failure: The secret is not set.
        """
        if self.dlt_secret is not None:
            import dlt

            value: Any = dlt.secrets.get(self.dlt_secret)
            if not value:
                variable = self.dlt_secret.upper().replace(".", "__")
                raise dg.Failure(
                    f"No API key: set the environment variable {variable}, or {self.dlt_secret} in .dlt/secrets.toml",
                    allow_retries=False,
                )
            return hidden(str(value))
        if self.api_key_variable is not None:
            key = dg.EnvVar(self.api_key_variable).get_value()
            if not key or not key.strip():
                raise dg.Failure(
                    f"No API key: set the environment variable {self.api_key_variable}", allow_retries=False
                )
            return hidden(key)
        return hidden(self.api_key)


def api_resource(connection: Connection) -> RmmApi:
    """Returns the resource of a connection; its secret is still a reference."""
    if connection.simulator is not None:
        return RmmApi(simulator=connection.simulator.model_dump())
    if connection.api_key is None:
        return RmmApi()
    if connection.api_key.env is not None:
        return RmmApi(api_key_variable=connection.api_key.env)
    return RmmApi(dlt_secret=connection.api_key.dlt_secret)

"""A connection's secret reference to the secret, when a run starts: the resource `RmmApi`.

With no secret set the code location loads all the same; the run fails at once, naming the variable to set.
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
    """The API key of one connection, or where dlt finds it.

    Attributes:
        api_key: The key; in code of your own, give it as `dg.EnvVar("ACME_API_KEY")`. Where that is not set, Dagster
            refuses to launch a run at all.
        api_key_variable: Name of the environment variable that holds the key, which is what a connection file gives.
            Where it is not set, there is a run, and it fails: red, and told by failure sensors.
        dlt_secret: Path in `dlt.secrets`: all of dlt's providers are asked (environment, `.dlt/secrets.toml`, vaults).
        simulator: Settings of the embedded RMM, which then gives address and key.
    """

    # Not printed with the resource, which stands in the variables of many a frame.
    api_key: str | None = Field(default=None, repr=False)
    api_key_variable: str | None = None
    dlt_secret: str | None = None
    simulator: dict[str, int] | None = None

    @contextmanager
    def session(self) -> Iterator[tuple[str | None, SecretStr | None]]:
        """Base URL (None: the connection's own) and secret, for as long as a run lasts.

        Raises:
            dagster.Failure: no secret is set.
        """
        if self.simulator is not None:
            from datetime import UTC, datetime

            from rmm_assets.simulator import Fleet, Simulator

            # A demo that stands still shows nothing: the fleet moves on with the clock, and holds still for a run.
            settings: dict[str, Any] = dict(self.simulator)
            fleet = Fleet(**settings)
            with Simulator(fleet=fleet, tick=fleet.tick_at(datetime.now(UTC))) as rmm:
                yield rmm.base_url, hidden(rmm.api_key)
            return
        yield None, self.secret()

    def secret(self) -> SecretStr | None:
        """The secret; None where the API asks for none.

        Raises:
            dagster.Failure: a place is named, and nothing is there.
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
            found = dg.EnvVar(self.api_key_variable).get_value()
            if not found or not found.strip():
                raise dg.Failure(
                    f"No API key: set the environment variable {self.api_key_variable}", allow_retries=False
                )
            return hidden(found)
        return hidden(self.api_key)


def api_resource(connection: Connection) -> RmmApi:
    """The resource of a connection, the secret still a reference."""
    if connection.simulator is not None:
        return RmmApi(simulator=connection.simulator.model_dump())
    if connection.api_key is None:
        return RmmApi()
    if connection.api_key.env is not None:
        return RmmApi(api_key_variable=connection.api_key.env)
    return RmmApi(dlt_secret=connection.api_key.dlt_secret)

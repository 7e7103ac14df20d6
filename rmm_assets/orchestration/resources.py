"""A connection's secret reference to the secret, when a run starts: the resource `RmmApi`.

With no secret set the code location loads all the same; the run fails at once, naming the variable to set.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import dagster as dg

from rmm_assets.connection_file import Connection

class RmmApi(dg.ConfigurableResource[None]):
    """The API key of one connection, or where dlt finds it.

    Attributes:
        api_key: The key; give it as `dg.EnvVar("ACME_API_KEY")`, which is read when a run starts.
        dlt_secret: Path in `dlt.secrets`: all of dlt's providers are asked (environment, `.dlt/secrets.toml`, vaults).
        simulator: Settings of the embedded RMM, which then gives address and key.
    """

    api_key: str | None = None
    dlt_secret: str | None = None
    simulator: dict[str, int] | None = None

    @contextmanager
    def session(self) -> Iterator[tuple[str | None, str | None]]:
        """Base URL (None: the connection's own) and secret, for as long as a run lasts.

        Raises:
            dagster.Failure: no secret is set.
        """
        if self.simulator is not None:
            from datetime import UTC, datetime

            from rmm_assets.simulator import Fleet, Simulator

            # A demo that stands still shows nothing: the fleet moves on with the clock, and holds still for a run.
            fleet = Fleet(**self.simulator)
            with Simulator(fleet=fleet, tick=fleet.tick_at(datetime.now(UTC))) as rmm:
                yield rmm.base_url, rmm.api_key
            return
        yield None, self.secret()

    def secret(self) -> str | None:
        """The secret; None where the API asks for none.

        Raises:
            dagster.Failure: a place is named, and nothing is there.
        """
        if self.dlt_secret is not None:
            import dlt

            value = dlt.secrets.get(self.dlt_secret)
            if not value:
                variable = self.dlt_secret.upper().replace(".", "__")
                raise dg.Failure(
                    f"No API key: set the environment variable {variable}, or {self.dlt_secret} in .dlt/secrets.toml",
                    allow_retries=False,
                )
            return str(value)
        if self.api_key is not None and not self.api_key.strip():
            raise dg.Failure("No API key: the environment variable that holds it is empty", allow_retries=False)
        return self.api_key


def api_resource(connection: Connection) -> RmmApi:
    """The resource of a connection, the secret still a reference."""
    if connection.simulator is not None:
        return RmmApi(simulator=connection.simulator.model_dump())
    if connection.api_key is None:
        return RmmApi()
    if connection.api_key.env is not None:
        return RmmApi(api_key=dg.EnvVar(connection.api_key.env))
    return RmmApi(dlt_secret=connection.api_key.dlt_secret)

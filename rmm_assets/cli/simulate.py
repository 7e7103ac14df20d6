"""`rmm simulate`: runs the embedded RMM."""

from __future__ import annotations

import click


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", default=8099, show_default=True)
@click.option("--seed", default=7, show_default=True, help="The same seed gives the same rows.")
@click.option("--tick-seconds", default=60.0, show_default=True, help="How often the fleet changes.")
def simulate(host: str, port: int, seed: int, tick_seconds: float) -> None:
    """Run the embedded RMM as a standalone server until interrupted."""
    from rmm_assets.simulator import run

    run(host=host, port=port, seed=seed, tick_seconds=tick_seconds)

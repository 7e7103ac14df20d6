"""Defines a schedule in a connection file."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from rmm_assets.settings import Settings, line_error, refuse, time_zone_fault


def _time_zone(name: str) -> str:
    if fault := time_zone_fault(name):
        refuse([line_error((), fault)])
    return name


class Schedule(Settings):
    """When a job runs automatically."""

    cron: str = Field(min_length=1, description="Cron expression with five fields, for example `0 * * * *`.")
    timezone: Annotated[str, AfterValidator(_time_zone)] = Field(
        default="UTC", description="IANA name of the time zone."
    )
    status: Literal["stopped", "running"] = Field(
        default="stopped",
        description="Whether the schedule is running or stopped when it is first loaded; the UI can change it later.",
    )

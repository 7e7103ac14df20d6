"""Defines the keys of a connection file, and resolves its resources' defaults."""

from __future__ import annotations

import os
from typing import Annotated, Any, ClassVar, Literal
from zoneinfo import ZoneInfo

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
)

from rmm_assets.config.client import ApiKey, Client, WebAddress
from rmm_assets.config.resource import Resource, ResourceDefaults, as_lists, resolved
from rmm_assets.http.settings import Limits, Retry, Tls
from rmm_assets.settings import Settings, line_error, refuse

# Where the data goes when a connection file names no place; relative to the working directory.
DEFAULT_DATABASE = "data/rmm.duckdb"
DATABASE_VARIABLE = "RMM_DATABASE"


class Simulator(Settings):
    """The embedded RMM, started for a run and gone after it: for the demo and for trying things out."""

    seed: int = Field(default=7, description="Two simulators with one seed hold the same rows.")
    organizations: int = Field(default=12, ge=1, description="Number of organizations.")
    devices: int = Field(default=400, ge=0, description="Number of devices.")
    alerts: int = Field(default=250, ge=0, description="Number of alerts.")
    patches: int = Field(default=900, ge=0, description="Number of patches.")


class Destination(Settings):
    """Where tables land: a dlt destination."""

    type: str = Field(
        default="duckdb", min_length=1, description="dlt's name of the destination, for example `postgres`."
    )
    credentials: str | dict[str, Any] | None = Field(
        default=None,
        description="Connection string or mapping, never with a password: dlt looks that up itself, for "
        "example in `DESTINATION__POSTGRES__CREDENTIALS`. For DuckDB the path of the file: "
        "`data/rmm.duckdb` by default, or what the environment variable `RMM_DATABASE` says.",
    )
    options: dict[str, Any] = Field(
        default_factory=dict, description="Further arguments of dlt's destination, for example `bucket_url`."
    )

    def resolved_credentials(self) -> str | dict[str, Any] | None:
        """What dlt is given: the file's words, DuckDB's file, or None, which leaves the look-up to dlt.

        Reads the environment, so call it when a run starts.
        """
        if self.credentials is None and self.type == "duckdb":
            return os.environ.get(DATABASE_VARIABLE) or DEFAULT_DATABASE
        return self.credentials


def _as_destination(value: Any) -> Any:
    return {"type": value} if isinstance(value, str) else value


def _time_zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        refuse(
            [
                line_error(
                    (),
                    f"unknown time zone `{name}`; write a name of the IANA list, for example Europe/Vienna",
                )
            ]
        )
    return name


class Schedule(Settings):
    """When the connection's job runs by itself."""

    cron: str = Field(min_length=1, description="Cron expression of five fields, for example `0 * * * *`.")
    timezone: Annotated[str, AfterValidator(_time_zone)] = Field(
        default="UTC", description="IANA name of the time zone."
    )
    status: Literal["stopped", "running"] = Field(
        default="stopped",
        description="Whether the schedule runs until somebody stops it, or waits until somebody starts it.",
    )


class Attributes(Settings):
    """Every key of a connection, each checked by itself.

    Raises:
        pydantic.ValidationError: every fault at once, each with the path of its key; secrets are never
        repeated.
    """

    model_config = ConfigDict(json_schema_extra={"required": ["name", "resources"]})

    elsewhere: ClassVar[dict[str, str]] = {
        **dict.fromkeys(("base_url", "auth", "headers", "paginator"), "write it under `client`"),
        **dict.fromkeys(
            ("endpoint", "primary_key", "write_disposition", "columns"), "write it under `resource_defaults`"
        ),
        "cron": "write `schedule: {cron: ...}`",
    }

    name: str = Field(
        pattern=r"^[a-z][a-z0-9]*(_[a-z0-9]+)*$",
        description="Name of the connection: first part of every asset key, the group, and the dataset by "
        "default. Small letters, digits and single underscores.",
    )
    docs: WebAddress | None = Field(
        default=None,
        description="Address of the vendor's API documentation, http or https: a link in the description of every "
        "asset, unless a resource names its own.",
    )
    client: Client = Field(default=Client(), description="How the API is reached, in dlt's words.")
    api_key: ApiKey | None = Field(
        default=None,
        description="The one secret, as a reference: `{env: NAME}` or `{dlt_secret: path}`. It is the API "
        "key, bearer token, password or client secret, by `client.auth`. Left out where the API asks for "
        "none.",
    )
    simulator: Simulator | None = Field(
        default=None,
        description="Run against the embedded RMM, which then gives `client.base_url` and the key.",
    )
    resource_defaults: ResourceDefaults = Field(
        default=ResourceDefaults(), description="What holds for every resource that does not say otherwise."
    )
    resources: tuple[
        Annotated[
            Resource,
            BeforeValidator(
                lambda value: {"name": value} if isinstance(value, str) else value,
                json_schema_input_type=str | Resource,
            ),
        ],
        ...,
    ] = Field(description="The resources, at least one; a string is both name and path.")
    retry: Retry = Field(default=Retry(), description="When and how often a request is sent again.")
    limits: Limits = Field(default=Limits(), description="How hard the API may be asked.")
    tls: Tls = Field(default=Tls(), description="How the server's certificate is verified.")
    allow_http: bool = Field(
        default=False, description="Allow plain http beyond this machine: the secret travels readable."
    )
    destination: Annotated[Destination, BeforeValidator(_as_destination, json_schema_input_type=str | Destination)] = (
        Field(default=Destination(), description="The dlt destination, as a word or a mapping.")
    )
    dataset: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z][A-Za-z0-9]*(_[A-Za-z0-9]+)*$",
        description="Dataset (schema) of the tables; the connection's name by default.",
    )
    schedule: Schedule | None = Field(
        default=None, description="When the connection's job runs by itself; never by default."
    )

    audit: Schedule | None = Field(
        default=None,
        description="When the tables are compared with the API by themselves (`rmm audit` does it at any time); never by "
        "default.",
    )

    @field_validator("resources")
    @classmethod
    def _with_defaults(cls, resources: tuple[Resource, ...], info: ValidationInfo) -> tuple[Resource, ...]:
        if not resources:
            refuse([line_error((), "write at least one resource")])
        defaults, client = info.data.get("resource_defaults"), info.data.get("client")
        if defaults is None or client is None:  # at fault themselves
            return resources
        return tuple(resolved(defaults, client, resource) for resource in resources)

    @property
    def dataset_name(self) -> str:
        """Dataset of the tables."""
        return self.dataset or self.name

    def resource(self, name: str) -> Resource:
        """The resource of that name.

        Raises:
            KeyError: there is none.
        """
        found = next((resource for resource in self.resources if resource.name == name), None)
        if found is None:
            raise KeyError(f"{self.name} has no resource {name}")
        return found

    def rest_api_config(self) -> dict[str, Any]:
        """The connection as dlt's `RESTAPIConfig`: no secret, none of our keys, the defaults already in each
        resource.

        A connection on the embedded RMM has no `base_url` until that runs; `client.base_url` is missing then.
        """
        client = self.client.model_dump(by_alias=True, exclude_unset=True)
        return {
            "client": {key: as_lists(value) for key, value in client.items() if value is not None},
            "resources": [resource.as_dlt() for resource in self.resources],
        }

"""Defines the keys of a connection file, and merges `resource_defaults` into its resources."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
)

from rmm_assets.config.client import ApiKey, Client, WebAddress
from rmm_assets.config.resource import Resource, ResourceDefaults, as_lists, resolved, with_tenant
from rmm_assets.config.schedule import Schedule
from rmm_assets.config.tenants import Tenant, Tenants, as_tenants
from rmm_assets.http.settings import Limits, Retry, Tls
from rmm_assets.settings import Settings, line_error, refuse
from rmm_assets.tables.settings import Destination, as_destination


class Simulator(Settings):
    """The embedded RMM, which runs for the duration of a run: for the demo and for experiments."""

    seed: int = Field(default=7, description="The same seed gives the same rows.")
    organizations: int = Field(default=12, ge=1, description="Number of organizations.")
    devices: int = Field(default=400, ge=0, description="Number of devices.")
    alerts: int = Field(default=250, ge=0, description="Number of alerts.")
    patches: int = Field(default=900, ge=0, description="Number of patches.")


# The NAME in `{settings.NAME}` and `{secrets.NAME}`.
_Name = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]


class Attributes(Settings):
    """Every key of a connection, each validated on its own.

    Raises:
        pydantic.ValidationError: It lists all faults, each with the path of its key, and never repeats a secret.
    """

    model_config = ConfigDict(
        json_schema_extra={"required": ["name"], "anyOf": [{"required": ["resources"]}, {"required": ["profile"]}]}
    )

    elsewhere: ClassVar[dict[str, str]] = {
        **dict.fromkeys(("base_url", "auth", "headers", "paginator"), "write it under `client`"),
        **dict.fromkeys(
            ("endpoint", "primary_key", "write_disposition", "columns"), "write it under `resource_defaults`"
        ),
        "cron": "write `schedule: {cron: ...}`",
    }

    name: str = Field(
        pattern=r"^[a-z][a-z0-9]*(_[a-z0-9]+)*$",
        description="Name of the connection: the first part of every asset key, the asset group, and by default the "
        "dataset. Lowercase letters, digits and single underscores.",
    )
    profile: str | None = Field(
        default=None,
        description="Name of a [vendor's profile](../how-to/profiles.md) with which this file is merged key by key; the file's "
        "keys win. `rmm profiles` lists them.",
    )
    settings: dict[_Name, str] = Field(
        default_factory=dict,
        description="Values, such as a region, that are filled in for `{settings.NAME}` under `client`, `resource_defaults` and "
        "`resources`. A profile says which it needs.",
    )
    docs: WebAddress | None = Field(
        default=None,
        description="URL of the vendor's API documentation (http or https), linked in the description of every asset "
        "unless its resource has its own.",
    )
    client: Client = Field(default=Client(), description="How to reach the API: dlt's `client`.")
    api_key: ApiKey | None = Field(
        default=None,
        description="A reference to the secret: `{env: NAME}` or `{dlt_secret: path}`. The secret is an API key, bearer "
        "token, password or client secret, depending on `client.auth`. Leave it out if the API does not need one.",
    )
    secrets: dict[_Name, ApiKey] = Field(
        default_factory=dict,
        description="Further secrets by name, each a reference like `api_key`. Refer to them as `{secrets.NAME}` in headers, "
        "auth, query parameters and request bodies.",
    )
    simulator: Simulator | None = Field(
        default=None,
        description="Run against the embedded RMM, which then provides `client.base_url` and the key.",
    )
    tenants: Annotated[
        Tenants | None, BeforeValidator(as_tenants, json_schema_input_type=list[Tenant] | Tenants | None)
    ] = Field(
        default=None,
        description="Customers with an address, a key or a setting of their own, whose rows land in the same tables, in a "
        "column `tenant`: see [tenants](../how-to/tenants.md).",
    )
    resource_defaults: ResourceDefaults = Field(
        default=ResourceDefaults(), description="Defaults for every resource, which a resource can override."
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
    ] = Field(
        description="The resources, at least one; a string is used as both name and path. With a profile, those of its resources "
        "to load, by name or as a mapping of changes, and new ones; by default all of the profile's."
    )
    retry: Retry = Field(default=Retry(), description="When and how often a request is sent again.")
    limits: Limits = Field(default=Limits(), description="Rate limits, timeouts and sizes.")
    tls: Tls = Field(default=Tls(), description="How the server's certificate is verified.")
    allow_http: bool = Field(
        default=False, description="Allow plain http to other machines, which sends the secret unencrypted."
    )
    destination: Annotated[Destination, BeforeValidator(as_destination, json_schema_input_type=str | Destination)] = (
        Field(default=Destination(), description="The dlt destination, as a name or a mapping.")
    )
    dataset: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z][A-Za-z0-9]*(_[A-Za-z0-9]+)*$",
        description="Dataset (schema) of the tables; by default the connection's name.",
    )
    executor: Literal["in_process", "multiprocess", "location"] = Field(
        default="in_process",
        description="Where the resources of a run are loaded: in the run's process, each in its own process, or by the code "
        "location's executor (`Definitions(executor=...)`, `build_defs(executor=...)`), for example Celery or Kubernetes.",
    )
    run_tags: dict[str, Any] = Field(
        default_factory=dict,
        description="Dagster tags of the runs of the connection's jobs, for example `dagster/priority`, `dagster/max_runtime`, or "
        "`dagster-k8s/config` with the CPU and memory that a run gets.",
    )
    schedule: Schedule | None = Field(
        default=None,
        description="When the connection's job runs automatically; by default never. Resources with a `schedule` of their own are "
        "left out of these runs.",
    )
    audit: Schedule | None = Field(
        default=None,
        description="When the audit job, which compares the tables with the API, runs automatically; by default never. "
        "`rmm audit` runs the same comparison on demand.",
    )

    @field_validator("resources")
    @classmethod
    def _with_defaults(cls, resources: tuple[Resource, ...], info: ValidationInfo) -> tuple[Resource, ...]:
        if not resources:
            refuse([line_error((), "write at least one resource")])
        defaults, client = info.data.get("resource_defaults"), info.data.get("client")
        if defaults is None or client is None:  # they failed validation
            return resources
        tenants = info.data.get("tenants")
        found = (resolved(defaults, client, resource) for resource in resources)
        return tuple(found if tenants is None else (with_tenant(resource, tenants.column) for resource in found))

    @property
    def dataset_name(self) -> str:
        """Returns the dataset of the tables."""
        return self.dataset or self.name

    def resource(self, name: str) -> Resource:
        """Returns the resource with that name.

        Raises:
            KeyError: There is no such resource.
        """
        match = next((resource for resource in self.resources if resource.name == name), None)
        if match is None:
            raise KeyError(f"{self.name} has no resource {name}")
        return match

    def rest_api_config(self) -> dict[str, Any]:
        """Returns the connection as dlt's `RESTAPIConfig`, without the secret and without keys that dlt does not have.

        The defaults are already merged into each resource. With the embedded RMM, `client.base_url` is missing until it
        runs.
        """
        # Each resource has its paginator.
        client = self.client.model_dump(by_alias=True, exclude_unset=True, exclude={"paginator"})
        return {
            "client": {key: as_lists(value) for key, value in client.items() if value is not None},
            "resources": [resource.as_dlt() for resource in self.resources],
        }

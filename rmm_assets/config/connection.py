"""Defines a connection: the attributes of a connection file, and the rules between them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from pydantic import ModelWrapValidatorHandler, PrivateAttr, ValidationError, ValidationInfo, model_validator
from pydantic_core import InitErrorDetails

from rmm_assets.config import rules
from rmm_assets.config.attributes import Attributes
from rmm_assets.config.profiles import merged, setting_names
from rmm_assets.config.secrets import secrets, with_marks
from rmm_assets.config.tenants import Tenant, with_name
from rmm_assets.errors import TenantError
from rmm_assets.settings import messages, refuse

# The context of a tenant's connection, which only differs by texts from one that dlt has validated.
_VALIDATED_BY_DLT = {"validated": "dlt"}


class Connection(Attributes):
    """A whole connection, as its file describes it.

    Raises:
        pydantic.ValidationError: It lists all faults, each with the path of its key, and never repeats a secret.
    """

    # What the connection was made from, to make that of a tenant.
    _written: Mapping[str, Any] = PrivateAttr(default_factory=dict)

    @model_validator(mode="wrap")
    @classmethod
    def _keep_written(cls, data: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        connection = handler(data)
        if isinstance(data, Mapping):
            connection._written = data
        return connection

    @model_validator(mode="before")
    @classmethod
    def _merged_without_secrets(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        data = merged(data)
        refuse(secrets(data))
        marked, errors = with_marks(data)
        refuse(errors)
        return marked

    @model_validator(mode="after")
    def _rules(self, info: ValidationInfo) -> Self:
        refuse(rules.own_faults(self) if info.context is _VALIDATED_BY_DLT else self.faults())
        return self

    def of_tenant(self, tenant: Tenant) -> Connection:
        """Returns the connection to one tenant's API, with its settings and secrets, and without the column of tenants.

        Raises:
            TenantError: It lacks a setting, or a value of it has faults.
        """
        found = {key: value for key, value in self._written.items() if key in Connection.model_fields}
        found |= {key: with_name(found[key], tenant.name) for key in ("api_key", "secrets") if key in found}
        found["settings"] = {**(found.get("settings") or {}), **tenant.settings}
        try:
            return Connection.model_validate({**found, "tenants": None}, context=_VALIDATED_BY_DLT)
        except ValidationError as error:
            path, message = messages(error)[0]
            where = ".".join(map(str, path))
            raise TenantError(f"tenant {tenant.name}: {where}: {message}") from None

    def setting_names(self) -> list[str]:
        """Returns the names of the settings that the connection uses."""
        return sorted(setting_names(self._written))

    def faults(self) -> list[InitErrorDetails]:
        """Returns violations of the rules between keys."""
        return rules.faults(self)

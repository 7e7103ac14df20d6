"""Defines the tenants of a connection: customers with an address, a key or a setting of their own, in the same tables."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import Field, TypeAdapter, ValidationError, model_validator

from rmm_assets.errors import TenantError
from rmm_assets.settings import Settings, line_error, messages, refuse

PLACEHOLDER = "{tenant}"

# Also the key of a partition in Dagster.
_NAME = r"^[A-Za-z0-9][A-Za-z0-9_.@-]*$"


class Tenant(Settings):
    """One tenant."""

    name: str = Field(
        pattern=_NAME,
        max_length=100,
        description="Name of the tenant, as in the column of the tables and as partition key: letters, digits and `_ . @ -`.",
    )
    settings: dict[str, str] = Field(
        default_factory=dict, description="Values that are filled in for `{settings.NAME}`, besides the connection's."
    )


class Tenants(Settings):
    """The tenants of a connection: a list, a file, or the rows of a resource of another connection."""

    list: tuple[Tenant, ...] | None = Field(default=None, description="The tenants.")
    file: str | None = Field(
        default=None,
        min_length=1,
        description="A CSV file beside the connection file, with a column `name` and one for each setting; or a YAML file with a "
        "list as in `list`.",
    )
    from_: str | None = Field(
        default=None,
        alias="from",
        pattern=r"^[a-z][a-z0-9_]*/[A-Za-z][A-Za-z0-9_]*$",
        description="The table of a resource, written `connection/resource`, in the same destination, with one row for each "
        "tenant. Rows marked absent are no tenants.",
    )
    name: str = Field(default="name", description="With `from`: the column with the tenant's name.")
    settings: dict[str, str] = Field(
        default_factory=dict, description="With `from`: for each setting, the column with its value."
    )
    column: str = Field(
        default="tenant",
        pattern=r"^[a-z][a-z0-9]*(_[a-z0-9]+)*$",
        description="The column with the tenant's name, which is the first of each primary key.",
    )
    batch: int = Field(
        default=50, ge=1, le=1000, description="Number of tenants that one run reads and lands together."
    )
    gone: Literal["keep", "mark"] = Field(
        default="keep",
        description="What happens to the rows of a tenant that is no longer one: they stay as they are, or are marked absent.",
    )

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        sources = [self.list, self.file, self.from_]
        if sum(source is not None for source in sources) != 1:
            refuse([line_error((), "write one of `list`, `file` and `from`")])
        if self.list is not None and not self.list:
            refuse([line_error(("list",), "write at least one tenant")])
        if repeated := _repeated([tenant.name for tenant in self.list or ()]):
            sentence = f"`{repeated}`: two names have the same letters and digits; give one of them another name"
            refuse([line_error(("list",), sentence)])
        if self.settings and self.from_ is None:
            refuse([line_error(("settings",), "only used with `from`; write the settings of each tenant with it")])
        return self


def as_tenants(value: Any) -> Any:
    """Returns the mapping that a list of tenants stands for."""
    return {"list": value} if isinstance(value, (list, tuple)) else value


def with_name(value: Any, name: str) -> Any:
    """Returns references to secrets for one tenant, whose name has `_` for characters that are no letters or digits."""
    if isinstance(value, Mapping):
        return {
            key: _named(str(key), inner, name) if isinstance(inner, str) else with_name(inner, name)
            for key, inner in value.items()
        }
    return value


def _named(key: str, text: str, name: str) -> str:
    found = _variable(name)
    return text.replace(PLACEHOLDER, found.upper() if key == "env" else found)


def in_file(path: Path, used: Sequence[str]) -> list[Tenant]:
    """Returns the tenants in a file.

    Args:
        path: The file.
        used: The settings that the connection uses; a CSV file may have further columns.

    Raises:
        TenantError: The file cannot be read or has faults.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        rows = list(_rows_of_csv(text, used)) if path.suffix.lower() == ".csv" else yaml.safe_load(text)
    except (OSError, UnicodeDecodeError, csv.Error, yaml.YAMLError) as error:
        # The message of a YAML error quotes the file.
        raise TenantError(
            f"{path.name}: cannot be read: {getattr(error, 'strerror', None) or type(error).__name__}"
        ) from None
    return tenants_in(rows, path.name)


def tenants_in(rows: Any, place: str) -> list[Tenant]:
    """Returns validated tenants.

    Args:
        rows: A list of mappings as in `list`.
        place: Where they are from, for messages.

    Raises:
        TenantError: There are none, a row is not a tenant, or two have the same name.
    """
    try:
        found = TypeAdapter(list[Tenant]).validate_python(rows)
    except ValidationError as error:
        path, message = messages(error)[0]
        number = f"tenant {int(path[0]) + 1}" if path and isinstance(path[0], int) else "the list"
        key = f" {path[1]}:" if len(path) > 1 else ""
        raise TenantError(f"{place}: {number}:{key} {message}") from None
    if not found:
        raise TenantError(f"{place}: has no tenants")
    if repeated := _repeated([tenant.name for tenant in found]):
        raise TenantError(f"{place}: {repeated}: two names have the same letters and digits")
    return found


def _rows_of_csv(text: str, used: Sequence[str]) -> Iterator[dict[str, Any]]:
    for row in csv.DictReader(text.splitlines(), strict=True):
        settings = {name: row[name].strip() for name in used if row.get(name)}
        yield {"name": (row.get("name") or "").strip(), "settings": settings}


def _repeated(names: Sequence[str]) -> str | None:
    """Returns a name that occurs twice, as variables of secrets distinguish names: by their letters and digits."""
    seen: set[str] = set()
    for name in names:
        variable = _variable(name).upper()
        if variable in seen:
            return name
        seen.add(variable)
    return None


def _variable(name: str) -> str:
    return "".join(letter if letter.isalnum() else "_" for letter in name)

"""Defines the tenants of a connection: customers with an address, a key or a setting of their own, in the same tables."""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from io import StringIO
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

import yaml
from pydantic import Field, ValidationError, model_validator

from rmm_assets.errors import TenantError
from rmm_assets.settings import Settings, line_error, messages, refuse

PLACEHOLDER = "{tenant}"

# Also the key of a partition in Dagster.
_NAME = r"^[A-Za-z0-9][A-Za-z0-9_.@-]*$"
_LONGEST_NAME = 100
_NO_NAME = f"a name has letters, digits and `_ . @ -`, begins with a letter or digit and has at most {_LONGEST_NAME} characters"

# Faults that a message quotes, and letters of a name in it.
_QUOTED = 5
_QUOTED_LETTERS = 60


class Tenant(Settings):
    """One tenant."""

    name: str = Field(
        pattern=_NAME,
        max_length=_LONGEST_NAME,
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
        if repeated := _repeated(self.list or ()):
            sentence = f"`{repeated[0][-1]}`: two names have the same letters and digits; give one of them another name"
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


class Listed(NamedTuple):
    """What a list of tenants has.

    Attributes:
        tenants: The tenants whose entries have no faults.
        faults: What is wrong with the list. If anything is, a tenant that it lacks may be one nevertheless.
    """

    tenants: list[Tenant]
    faults: list[str]

    @property
    def problem(self) -> str:
        """Says what is wrong with the list; empty if nothing is."""
        more = len(self.faults) - _QUOTED
        return "; ".join([*self.faults[:_QUOTED], *([f"and {more} more"] if more > 0 else [])])


class _Fault(str):
    """What is wrong with a line of a file."""


def in_file(path: Path, used: Sequence[str]) -> Listed:
    """Returns the tenants in a file.

    Args:
        path: The file.
        used: The settings that the connection uses; a CSV file may have further columns.

    Raises:
        TenantError: The file cannot be read, or has no tenant.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        rows = list(_rows_of_csv(text, used, path.name)) if path.suffix.lower() == ".csv" else yaml.safe_load(text)
    except UnicodeDecodeError:
        raise TenantError(f"{path.name}: cannot be read: save it as UTF-8") from None
    except (OSError, csv.Error, yaml.YAMLError) as error:
        # The message of a YAML error quotes the file.
        raise TenantError(
            f"{path.name}: cannot be read: {getattr(error, 'strerror', None) or type(error).__name__}"
        ) from None
    return tenants_in(rows, path.name)


def tenants_in(rows: Any, place: str) -> Listed:
    """Returns the validated tenants of a list. An entry with faults spares the others.

    Args:
        rows: A list of mappings as in `list`; faults of lines are in their places.
        place: Where they are from, for messages.

    Raises:
        TenantError: It is not a list, or no entry is a tenant.
    """
    if not isinstance(rows, list):
        raise TenantError(f"{place}: the list: write a list of tenants, each with a `name`")
    found, faults = list[Tenant](), list[str]()
    for number, row in enumerate(rows, 1):
        said = row.get("name") if isinstance(row, Mapping) else None
        named = f"{place}: tenant {number}" + (f", `{str(said)[:_QUOTED_LETTERS]}`" if said not in (None, "") else "")
        if not isinstance(row, Mapping):
            faults.append(
                f"{named}: {row if isinstance(row, _Fault) else 'write a mapping with `name` and `settings`'}"
            )
            continue
        try:
            found.append(Tenant.model_validate(row))
        except ValidationError as error:
            path, message = messages(error)[0]
            where = f" {path[0]}:" if path else ""
            faults.append(f"{named}:{where} {_NO_NAME if path == ('name',) else message}")
    for names in _repeated(found):
        # Nobody knows which of them is meant.
        found = [tenant for tenant in found if tenant.name not in names]
        faults.append(f"{place}: {', '.join(names)}: two names have the same letters and digits")
    if not found:
        raise TenantError(Listed(found, faults).problem or f"{place}: has no tenants")
    return Listed(found, faults)


def _rows_of_csv(text: str, used: Sequence[str], place: str) -> Iterator[dict[str, Any] | _Fault]:
    """Yields the entries of a CSV file; in place of a line that is not one, its fault.

    Raises:
        TenantError: The columns are not those of tenants.
    """
    reader = csv.DictReader(StringIO(text, newline=""), strict=True)
    reader.fieldnames = columns = [name.strip() for name in reader.fieldnames or ()]
    if "name" not in columns:
        raise TenantError(f"{place}: the first line has no column `name`; columns are separated by commas")
    for name in ("name", *used):
        if columns.count(name) > 1:
            raise TenantError(f"{place}: the first line has the column `{name}` twice")
    for row in reader:
        # The key of values without a column is None.
        if not any(map(str.strip, (*filter(None, (row[name] for name in columns)), *row.get(None, ())))):
            continue
        missing = [name for name in ("name", *used) if name in columns and row[name] is None]
        if missing or None in row:
            what = (
                f"ends before the column `{missing[0]}`" if missing else "has more values than columns; quote a comma"
            )
            yield _Fault(f"line {reader.line_num} {what}")
            continue
        settings = {name: row[name].strip() for name in used if row.get(name)}
        yield {"name": row["name"].strip(), "settings": settings}


def _repeated(tenants: Sequence[Tenant]) -> list[list[str]]:
    """Returns names that are the same as variables of secrets distinguish them: by their letters and digits."""
    named = defaultdict[str, list[str]](list)
    for tenant in tenants:
        named[_variable(tenant.name).upper()].append(tenant.name)
    return [list(dict.fromkeys(names)) for names in named.values() if len(names) > 1]


def _variable(name: str) -> str:
    return "".join(letter if letter.isalnum() else "_" for letter in name)

"""Merges a connection file with the profile of a vendor that it names, and fills in its settings.

A profile is a YAML file of this package: `attributes` as in a connection file, and facts about the vendor's API.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BeforeValidator, Field
from pydantic_core import InitErrorDetails

from rmm_assets.config.client import WebAddress
from rmm_assets.config.endpoint import as_endpoint
from rmm_assets.config.table_hints import as_columns
from rmm_assets.settings import Settings, did_you_mean, leaves, line_error, refuse

FOLDER = Path(__file__).parents[1] / "profiles"

_PLACEHOLDER = re.compile(r"\{settings\.([^{}\s]*)\}")
_PARENT = re.compile(r"\{resources\.([^{}.\s]+)\.")

# Short forms of a mapping, which are merged as the mapping.
_AS_MAPPING = {"endpoint": as_endpoint, "columns": as_columns}

# Where `{settings.NAME}` is filled in.
_FILLED = ("client", "resource_defaults", "resources")


class Setting(Settings):
    """A setting that a connection file must write, because it differs between customers of a vendor."""

    description: str = Field(min_length=1, description="What it is and where to find it.")
    values: Annotated[
        dict[str, str] | None,
        BeforeValidator(
            lambda value: {str(each): str(each) for each in value} if isinstance(value, list) else value,
            json_schema_input_type=list[str] | dict[str, str],
        ),
    ] = Field(default=None, description="The allowed values, or a mapping of them to what is filled in.")
    pattern: str | None = Field(default=None, description="Regular expression that the whole value matches.")
    default: str | None = Field(default=None, description="Value if the file has none.")

    def fault(self, value: str) -> str | None:
        """Returns what is wrong with a value; None if it is allowed."""
        if self.values is not None and value not in self.values:
            return f"unknown value; {did_you_mean(value, list(self.values))}"
        if self.pattern is not None and re.fullmatch(self.pattern, value) is None:
            return f"does not match {self.pattern}: {self.description}"
        return None


class Secret(Settings):
    """A secret that the vendor's API needs."""

    variable: str = Field(
        pattern=r"^[A-Z][A-Z0-9_]*$",
        description="End of the environment variable's name, which begins with the connection's name.",
    )
    description: str = Field(min_length=1, description="What it is.")
    where: str = Field(min_length=1, description="Where the vendor shows it or creates it.")


class Profile(Settings):
    """What is known about a vendor's API."""

    # A profile without these facts is a connection file to copy.
    type: Literal["rmm_assets.RmmConnection"] = Field(default="rmm_assets.RmmConnection", description="The component.")
    vendor: str = Field(default="", description="Name of the product.")
    docs: WebAddress | None = Field(default=None, description="The vendor's API documentation.")
    secrets: dict[str, Secret] = Field(
        default_factory=dict, description="The secrets: `api_key`, and others by their names in `secrets`."
    )
    settings: dict[str, Setting] = Field(default_factory=dict, description="The settings that a file writes.")
    sources: tuple[str, ...] = Field(default=(), description="Where the facts are from.")
    confidence: Literal["high", "medium", "low"] | None = Field(
        default=None,
        description="`high`: the vendor's own description or source code; `medium`: maintained programs of others that use the "
        "API; `low`: single reports.",
    )
    not_verified: tuple[str, ...] = Field(default=(), description="What was assumed, and how.")
    attributes: dict[str, Any] = Field(description="Attributes of a connection file.")

    @property
    def resources(self) -> dict[str, Mapping[str, Any]]:
        """Returns the profile's resources by name."""
        return {resource["name"]: resource for resource in self.attributes["resources"]}


def names() -> list[str]:
    """Returns the names of all profiles."""
    return sorted(file.stem for file in FOLDER.glob("*.yaml"))


def path_of(name: str) -> Path:
    """Returns the file of a profile."""
    return FOLDER / f"{name}.yaml"


def profile_named(name: str) -> Profile:
    """Returns a profile.

    Raises:
        KeyError: There is no profile of that name.
        pydantic.ValidationError: The profile has faults.
    """
    if name not in names():
        raise KeyError(name)
    return _read(path_of(name))


@cache
def _read(file: Path) -> Profile:
    return Profile.model_validate(yaml.safe_load(file.read_text(encoding="utf-8")))


def merged(attributes: Mapping[str, Any], *, keep_open: bool = False) -> dict[str, Any]:
    """Returns a connection's attributes, merged with those of its profile, and with settings filled in.

    Args:
        attributes: The attributes of the file.
        keep_open: Whether settings that each tenant has for itself stay as they are written; else something stands for them.

    Mappings are merged key by key, and the file's keys win; a list or a mapping with another `type` replaces the profile's.
    Resources keep the positions that they have in the file.

    Raises:
        pydantic.ValidationError: The profile does not exist, or does not fit the file. Paths are those of the file.
    """
    found = dict(attributes)
    declared: Mapping[str, Setting] | None = None
    if (name := found.get("profile")) is not None:
        if name not in names():
            refuse([line_error(("profile",), f"there is no such profile; {did_you_mean(str(name), names())}")])
        profile = profile_named(name)
        declared = profile.settings
        found = _with_profile(found, profile)
    stand_ins: dict[str, str] = {}
    if found.get("tenants") is not None:
        stand_ins = {
            name: f"{{settings.{name}}}" if keep_open else _stand_in(name, found, declared)
            for name in setting_names(found, declared)
            if name not in (found.get("settings") or {})
        }
        # Types and zones are those of the table, whoever the rows belong to.
        shared = {name for columns in _columns_in(found) for name in _named(columns)} & stand_ins.keys()
        refuse(
            [
                line_error(("settings",), f"`{name}` is missing: columns use it, so it is the same for all tenants")
                for name in sorted(shared)
            ]
        )
    return _with_settings(found, declared, stand_ins)


def _columns_in(attributes: Mapping[str, Any]) -> Iterator[Any]:
    resources = attributes.get("resources")
    for each in (attributes.get("resource_defaults"), *(resources if isinstance(resources, (list, tuple)) else ())):
        if isinstance(each, Mapping):
            yield each.get("columns")


def setting_names(attributes: Mapping[str, Any], declared: Mapping[str, Setting] | None = None) -> set[str]:
    """Returns the names of the settings that a connection's attributes use, or that its profile declares."""
    name = attributes.get("profile")
    if declared is None and name in names():
        declared = profile_named(str(name)).settings
    return {*(declared or {}), *(name for key in _FILLED for name in _named(attributes.get(key)))}


def _stand_in(name: str, attributes: Mapping[str, Any], declared: Mapping[str, Setting] | None) -> str:
    """Returns what is filled in for a setting that differs between tenants, until it is known which of them is read."""
    setting, client = (declared or {}).get(name), attributes.get("client")
    if setting is not None and setting.values:
        return next(iter(setting.values.values()))
    address = client.get("base_url") if isinstance(client, Mapping) else None
    return "https://tenant" if str(address).startswith(f"{{settings.{name}}}") else "tenant"


def _with_profile(own: Mapping[str, Any], profile: Profile) -> dict[str, Any]:
    errors: list[InitErrorDetails] = []
    base = {**_references(own, profile), **profile.attributes}
    if profile.docs is not None:
        base.setdefault("docs", profile.docs)
    found: dict[str, Any] = _merge(base, {key: value for key, value in own.items() if key != "resources"})
    found["resources"] = list(_resources(own.get("resources"), profile, found.get("resource_defaults"), errors))
    refuse(errors)
    return found


def _references(own: Mapping[str, Any], profile: Profile) -> dict[str, Any]:
    """Returns references to a profile's secrets, in variables that are named after the connection."""
    name, written = str(own.get("name")).upper(), own.get("secrets") or {}
    references = {key: {"env": f"{name}_{secret.variable}"} for key, secret in profile.secrets.items()}
    key = references.pop("api_key", None)
    others = {name: reference for name, reference in references.items() if name not in written}
    return ({"api_key": key} if key and "api_key" not in own else {}) | ({"secrets": others} if others else {})


def _resources(own: Any, profile: Profile, defaults: Any, errors: list[InitErrorDetails]) -> Iterator[Any]:
    known = profile.resources
    if own is None:
        yield from known.values()
        return
    if not isinstance(own, (list, tuple)):  # which validation refuses
        yield from (own,)
        return
    picked: set[str] = set()
    wanted: list[Any] = []
    for index, each in enumerate(own):
        item = {"name": each} if isinstance(each, str) else each
        name = item.get("name") if isinstance(item, Mapping) else None
        if isinstance(name, str):
            if name not in known and "endpoint" not in item:
                advice = did_you_mean(name, sorted(known))
                errors.append(
                    line_error(
                        ("resources", index), f"`{name}` is not in the profile; {advice} A new one needs `endpoint`"
                    )
                )
            item = _merge(_with_default_endpoint(known[name], defaults), item) if name in known else item
            picked.add(name)
        wanted.append(item)
    # Parents that were not picked are read for their children, but not loaded.
    for item in wanted:
        yield item
        for parent in _parents(item):
            if parent in known and parent not in picked:
                picked.add(parent)
                wanted.append({**known[parent], "selected": False})


def _with_default_endpoint(resource: Mapping[str, Any], defaults: Any) -> dict[str, Any]:
    """Returns a resource with the endpoint of `resource_defaults`, so that a file can change a part of its paginator."""
    common = as_endpoint(defaults.get("endpoint")) if isinstance(defaults, Mapping) else None
    endpoint = {**(common if isinstance(common, Mapping) else {}), **(as_endpoint(resource.get("endpoint")) or {})}
    return {**resource, "endpoint": endpoint} if endpoint else {**resource}


def _parents(resource: Any) -> list[str]:
    """Returns the names of the resources from whose rows this one's requests take values."""
    if not isinstance(resource, Mapping):
        return []
    endpoint = as_endpoint(resource.get("endpoint"))
    found = [name for text in leaves(endpoint) if isinstance(text, str) for name in _PARENT.findall(text)]
    params = endpoint.get("params") if isinstance(endpoint, Mapping) else None
    for value in params.values() if isinstance(params, Mapping) else ():
        if isinstance(value, Mapping) and value.get("type") == "resolve":
            found.append(str(value.get("resource")))
    return found


def _merge(base: Any, own: Any, key: str = "") -> Any:
    if key in _AS_MAPPING:
        base, own = _AS_MAPPING[key](base), _AS_MAPPING[key](own)
    if not isinstance(base, Mapping) or not isinstance(own, Mapping):
        return own
    if "type" in own and own["type"] != base.get("type"):
        return own
    return {**base, **{name: _merge(base[name], inner, name) if name in base else inner for name, inner in own.items()}}


def _with_settings(
    attributes: dict[str, Any], declared: Mapping[str, Setting] | None, stand_ins: Mapping[str, str]
) -> dict[str, Any]:
    written = attributes.get("settings")
    if written is not None and not isinstance(written, Mapping):  # which validation refuses
        return attributes
    texts = {str(name): str(value) for name, value in (written or {}).items()}
    errors: list[InitErrorDetails] = []
    if declared is not None:
        wanted = {name: setting for name, setting in declared.items() if name not in stand_ins}
        texts = dict(_allowed(texts, wanted, errors))
        refuse(errors)
    texts |= stand_ins
    filled = {
        key: _filled(value, (key,), texts, errors) if key in _FILLED else value for key, value in attributes.items()
    }
    used = {name for key in _FILLED for name in _named(attributes.get(key))}
    errors += [
        line_error(("settings", name), f"not used; write `{{settings.{name}}}` where it belongs, or leave it out")
        for name in (texts if declared is None else ())
        if name not in used
    ]
    refuse(errors)
    return filled


def _allowed(
    texts: Mapping[str, str], declared: Mapping[str, Setting], errors: list[InitErrorDetails]
) -> Iterator[tuple[str, str]]:
    """Yields each setting with the text to fill in."""
    for name in texts.keys() - declared.keys():
        known = did_you_mean(name, sorted(declared)) if declared else "the profile has none"
        errors.append(line_error(("settings", name), f"unknown setting `{name}`; {known}"))
    for name, setting in declared.items():
        value = texts.get(name, setting.default)
        if value is None:
            errors.append(line_error(("settings",), f"`{name}` is missing: {setting.description}"))
        elif (fault := setting.fault(value)) is not None:
            errors.append(line_error(("settings", name), fault))
        else:
            yield name, setting.values[value] if setting.values else value


def _named(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        value = [*value.keys(), *value.values()]
    if isinstance(value, (list, tuple)):
        for inner in value:
            yield from _named(inner)
    elif isinstance(value, str):
        yield from _PLACEHOLDER.findall(value)


def _filled(value: Any, path: tuple[str | int, ...], texts: Mapping[str, str], errors: list[InitErrorDetails]) -> Any:
    if isinstance(value, Mapping):
        return {
            _filled(key, (*path, key), texts, errors): _filled(inner, (*path, key), texts, errors)
            for key, inner in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [_filled(inner, (*path, index), texts, errors) for index, inner in enumerate(value)]
    if not isinstance(value, str):
        return value
    for name in _PLACEHOLDER.findall(value):
        if name not in texts:
            advice = did_you_mean(name, list(texts)) if texts else f"write `settings: {{{name}: ...}}`"
            errors.append(line_error(path, f"unknown setting `{name}`; {advice}"))
    return _PLACEHOLDER.sub(lambda match: texts.get(match[1], ""), value)


def origins(attributes: Mapping[str, Any]) -> Sequence[int | None]:
    """Returns, for each resource of a connection merged with its profile, its position in the profile; None if it has none."""
    name = attributes.get("profile")
    if name not in names():
        return ()
    known = list(profile_named(name).resources)
    found = _resources(attributes.get("resources"), profile_named(name), None, [])
    words = [item.get("name") if isinstance(item, Mapping) else None for item in found]
    return [known.index(word) if word in known else None for word in words]

"""Turns a connection file, as read by Dagster's component loader, into an `RmmConnection`.

If that fails, one error says what is wrong, in which file and line, and what to write instead. See `rmm_assets.config`
for the keys and the rules between them, and `assets` for the definitions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import dagster as dg
from pydantic import BaseModel, ConfigDict, PrivateAttr, ValidationError
from pydantic_core import InitErrorDetails

from rmm_assets.config import profiles, templates
from rmm_assets.config.connection import Connection
from rmm_assets.config.resource import Resource
from rmm_assets.config.secrets import secrets
from rmm_assets.errors import ConnectionFileError, Fault
from rmm_assets.http.auth import AuthSettings
from rmm_assets.orchestration.dagster_internals import SourcePosition, SourcePositionTree, file_model, positions_in
from rmm_assets.orchestration.scaffolding import ConnectionScaffolder
from rmm_assets.settings import line_error, messages, refuse

if TYPE_CHECKING:
    from dagster_dlt.translator import DltResourceTranslatorData

__all__ = ["ConnectionFileError", "Fault", "Resource", "RmmConnection"]


KINDS = frozenset(AuthSettings.kinds())


class ConnectionAttributes(BaseModel):
    """A file's raw `attributes`: templates are not filled in yet, and nothing is validated.

    `RmmConnection.resolve_from_model` validates them, for two reasons: a template may stand for any value, and
    Dagster prints the lines around a validation error, which may contain a secret.
    """

    model_config = ConfigDict(extra="allow")

    @classmethod
    def model_json_schema(cls, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Returns the connection's schema, for editors, `dg check yaml` and `dg list components`."""
        return Connection.model_json_schema(*args, **kwargs)


@dg.scaffold_with(ConnectionScaffolder)
class RmmConnection(Connection, dg.Component, dg.Resolvable):
    """An RMM API: each of its resources becomes an asset, with a table and checks.

    Describe the API and its resources with the keys of dlt's `rest_api` source, and say where the API key is stored; the
    key itself is looked up when a run starts. Everything else has a default.
    """

    # The position of each key; None if the connection was not read from a file.
    _places: Places | None = PrivateAttr(default=None)
    # The file's attributes, with templates filled in.
    _attributes: dict[str, Any] = PrivateAttr(default_factory=dict)

    @classmethod
    def model(cls) -> type[BaseModel]:
        return ConnectionAttributes

    @classmethod
    def load(cls, attributes: BaseModel | None, context: dg.ComponentLoadContext) -> Self:
        """Loads the component from a file's attributes; if the file has none, the error says what is missing.

        Raises:
            ConnectionFileError: The file has faults, or contains something else that Dagster would execute as a template.
        """
        try:
            refuse(list(_executed(context.component_decl)))
        except ValidationError as error:
            positions = context.resolution_context.source_position_tree
            raise ConnectionFileError(
                list(faults_of(error, None if positions is None else Places(positions), ()))
            ) from None
        return super().load(attributes or ConnectionAttributes(), context)

    @classmethod
    def resolve_from_model(cls, context: dg.ResolutionContext, model: BaseModel) -> Self:
        """Fills in the templates in a file's attributes and validates the result.

        Raises:
            ConnectionFileError: The attributes have faults; it lists all of them, each with its file and line.
        """
        attributes = model.model_extra or {}
        places = None if context.source_position_tree is None else Places.of(attributes, context.source_position_tree)
        try:
            # Before templates are filled in, so that a template that reads a secret is refused, too.
            refuse(secrets(attributes))
            filled, errors = templates.filled(attributes)
            refuse(errors)
            connection = cls.model_validate(_beside_the_file(filled, context))
        except ValidationError as error:
            raise ConnectionFileError(list(faults_of(error, places))) from None
        connection._places, connection._attributes = places, filled
        return connection

    def standalone(self) -> dict[str, Any]:
        """Returns the content of a connection file that needs neither the profile nor the settings of this one's file."""
        found = profiles.merged(self._attributes, keep_open=True)
        keys = [key for key in type(self).model_fields if key in found and key not in ("profile", "settings")]
        return {"type": "rmm_assets.RmmConnection", "attributes": {key: found[key] for key in keys}}

    @classmethod
    def get_code_references_for_yaml(cls, *_: Any, **__: Any) -> Sequence[dg.LocalFileCodeReference]:
        """Returns no common code references: `build_defs` gives each asset the line of its resource."""
        return []

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        """Builds the connection's assets, checks, job and schedule."""
        # Imported here, because loading a file does not need what building assets imports.
        from rmm_assets.orchestration.assets import build_connection_defs

        return build_connection_defs(
            self, spec_of=self.get_asset_spec, execute=self.execute, located=self._with_code_reference
        )

    def get_asset_spec(self, resource: Resource, data: DltResourceTranslatorData) -> dg.AssetSpec:
        """Returns the spec of a resource's asset. Override it to change what Dagster shows.

        Keep the key: checks, the job and other code locations refer to it.

        Args:
            resource: The resource as the file describes it, with `resource_defaults` merged in.
            data: The dlt resource, as dagster-dlt passes it to a translator.
        """
        from rmm_assets.orchestration.specs import asset_spec

        return asset_spec(self, resource, data)

    def execute(
        self, context: dg.AssetExecutionContext, resource: Resource
    ) -> Iterator[dg.MaterializeResult[Any] | dg.AssetCheckResult]:
        """Loads and checks a resource, inside its op. Override it to do something before, after or instead.

        Args:
            context: The op's context; it says which of the asset and its checks are selected.
            resource: The resource as the file describes it, with `resource_defaults` merged in.

        Yields:
            The materialization, then the results of its checks.

        Raises:
            dagster.Failure: The load failed; the description says why.
        """
        from rmm_assets.orchestration.running import run_resource

        yield from run_resource(self, context, resource)

    def _with_code_reference(self, spec: dg.AssetSpec) -> dg.AssetSpec:
        """Returns the spec with a link to the line in the file that describes the asset."""
        if self._places is None:
            return spec
        index = next((at for at, one in enumerate(self.resources) if one.name == spec.key.path[-1]), None)
        path: tuple[str | int, ...] = ("attributes",) if index is None else ("attributes", "resources", index)
        place = self._places.of_key(path)[1]
        reference = dg.LocalFileCodeReference(file_path=place.filename, line_number=place.start.line)
        return spec.merge_attributes(
            metadata={"dagster/code_references": dg.CodeReferencesMetadataValue(code_references=[reference])}
        )

    def faults(self) -> list[InitErrorDetails]:
        """Returns violations of the rules between keys, and values that Dagster would refuse."""
        found = super().faults()
        own = ((("resources", index, "schedule"), each.schedule) for index, each in enumerate(self.resources))
        for path, schedule in ((("schedule",), self.schedule), (("audit",), self.audit), *own):
            if schedule is None:
                continue
            try:
                dg.ScheduleDefinition(job_name="any", cron_schedule=schedule.cron)
            except dg.DagsterInvalidDefinitionError:
                sentence = f"`{schedule.cron}` is not a valid cron expression; write five fields, like `0 * * * *`"
                found.append(line_error((*path, "cron"), sentence))
        try:
            dg.define_asset_job("any", tags=self.run_tags)
        except dg.DagsterInvalidDefinitionError:
            found.append(line_error(("run_tags",), "every value must be text or JSON; write dates in quotes"))
        for index, resource in enumerate(self.resources):
            for key, options in (
                ("owners", {"owners": list(resource.owners)}),
                ("tags", {"tags": dict(resource.tags)}),
            ):
                try:
                    dg.AssetSpec(resource.name, **options)
                except dg.DagsterInvalidDefinitionError as error:
                    sentence = str(error).replace(f" for asset '{dg.AssetKey(resource.name)}'", "")
                    found.append(line_error(("resources", index, key), f"Dagster rejects this: {sentence}"))
        return found


def _beside_the_file(attributes: dict[str, Any], context: dg.ResolutionContext) -> dict[str, Any]:
    """Returns the attributes with the paths of files resolved relative to the connection file."""
    found = dict(attributes)
    for key, name in (("tls", "ca_file"), ("tenants", "file")):
        part = attributes.get(key)
        if isinstance(part, dict) and isinstance(part.get(name), str) and part[name]:
            found[key] = {**part, name: str(context.resolve_source_relative_path(part[name]))}
    return found


def _executed(decl: Any) -> Iterator[InitErrorDetails]:
    """Yields an error for each part of the file outside `attributes` that Dagster would execute."""
    document = file_model(decl)
    if document is None:
        return
    if document.template_vars_module is not None:
        yield line_error(("template_vars_module",), f"{templates.LANGUAGE}; leave it out")
    message = "a template cannot be used here; override `get_asset_spec` in a subclass of RmmConnection instead"
    yield from templates.refused(document.post_processing, ("post_processing",), message)


@dataclass(frozen=True)
class Places:
    """Where each key of a connection is written: in its file, or in the profile that the file names.

    Attributes:
        own: The positions in the connection file, from its root.
        profile: The positions in the profile; None without one.
        origins: For each resource, its position among the profile's resources.
    """

    own: SourcePositionTree
    profile: SourcePositionTree | None = None
    origins: Sequence[int | None] = ()

    @classmethod
    def of(cls, attributes: Mapping[str, Any], own: SourcePositionTree) -> Places:
        """Returns the places of a file's attributes."""
        name = attributes.get("profile")
        if name not in profiles.names():
            return cls(own)
        return cls(own, positions_in(profiles.path_of(name)), profiles.origins(attributes))

    def of_key(self, path: tuple[str | int, ...]) -> tuple[tuple[str | int, ...], SourcePosition]:
        """Returns a key's path in the file that has the longest part of it, and the position there.

        The path may contain what pydantic adds: the kind of auth between `auth` and its keys.
        """
        path = tuple(
            part for before, part in zip(("", *path), path, strict=False) if not (before == "auth" and part in KINDS)
        )
        found = [_located(path, self.own)]
        if self.profile is not None:
            origin: int | None = None
            if path[1:2] == ("resources",) and len(path) > 2:
                origin = self.origins[int(path[2])] if int(path[2]) < len(self.origins) else None
                found += [_located((*path[:2], origin, *path[3:]), self.profile)] if origin is not None else []
            else:
                found.append(_located(path, self.profile))
        return max(found, key=lambda each: each[2])[:2]


def faults_of(
    error: ValidationError, places: Places | None, parent: tuple[str, ...] = ("attributes",)
) -> Iterator[Fault]:
    """Yields the faults in a validation error, without any value from the file.

    Args:
        error: The validation error of a whole connection.
        places: Positions of all keys; None if the connection was not read from a file.
        parent: The key in the file to which the error's paths are relative.
    """
    for below, message in messages(error):
        path: tuple[str | int, ...] = (*parent, *below)
        if places is None:
            yield Fault(path=_written(path), message=message)
            continue
        path, place = places.of_key(path)
        yield Fault(path=_written(path), message=message, file=display_path(place.filename), line=place.start.line)


def _located(
    path: tuple[str | int, ...], positions: SourcePositionTree
) -> tuple[tuple[str | int, ...], SourcePosition, int]:
    """Returns a key's path in a file, the closest position there, and how many of its parts the file has."""
    if path[1:2] == ("resources",) and len(path) > 3:
        own, defaults = _below(positions, path[:3]), _below(positions, ("attributes", "resource_defaults"))
        if path[3] not in own and path[3] in defaults:
            path = ("attributes", "resource_defaults", *path[3:])
    place, passed = positions.lookup_closest_and_path(path, trace=None)
    return path, place, len(passed)


def _below(positions: SourcePositionTree, path: tuple[str | int, ...]) -> Mapping[str | int, SourcePositionTree]:
    for part in path:
        if part not in positions.children:
            return {}
        positions = positions.children[part]
    return positions.children


def _written(path: tuple[str | int, ...]) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).lstrip(".")


def display_path(filename: str) -> str:
    """Returns a file's path relative to the working directory if it is inside it, else the path unchanged."""
    path, here = Path(filename), Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else filename

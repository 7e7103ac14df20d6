"""Generates parts of the reference from code, as an mkdocs hook.

The keys of a connection file are taken from the models that read it, the commands from the command line. A page marks the
position with a comment, `<!-- generated: keys -->`, `<!-- generated: commands -->` or `<!-- generated: profiles -->`. Each
profile has a page of its own, which is not a file.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import click
import yaml

from rmm_assets.cli import main
from rmm_assets.config import Connection, profiles
from rmm_assets.config.attributes import Attributes
from rmm_assets.config.profiles import Profile
from rmm_assets.config.resource import Resource, ResourceDefaults
from rmm_assets.orchestration.component import RmmConnection

Schema = Mapping[str, Any]

_MARK = re.compile(r"<!-- generated: (\w+) -->")


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Replaces the marks in a page's source; mkdocs calls it for each page."""
    return _MARK.sub(lambda mark: {"keys": keys, "commands": commands, "profiles": vendors}[mark[1]](), markdown)


def keys() -> str:
    """Returns the reference of a connection file: a section for each mapping, in the order of first use."""
    schema = Connection.model_json_schema()
    models: dict[str, Schema] = {"Connection": schema}
    for model in (queue := ["Connection"]):
        for name in _named_below(models[model].get("properties", {})):
            if name not in models:
                models[name] = schema["$defs"][name]
                queue.append(name)
    return "\n".join(line for name, model in models.items() for line in _section(name, model, models))


def _named_below(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        if isinstance(reference := value.get("$ref"), str):
            yield _model_of(reference)
        for key, inner in value.items():
            if key != "default":
                yield from _named_below(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _named_below(inner)


def _section(name: str, model: Schema, models: Mapping[str, Schema]) -> Iterator[str]:
    yield f"\n### {_title(name)} {{ #{_anchor(name)} }}\n"
    yield _first_part(inspect.getdoc(RmmConnection) or "" if name == "Connection" else model.get("description", ""))
    if name == "Resource":
        yield f"\nEvery key of [ResourceDefaults](#{_anchor('ResourceDefaults')}), and:"
    if not model.get("properties"):
        return
    yield "\n| key | type | default | description |\n|---|---|---|---|"
    required = model.get("required", [])
    for key, value in model["properties"].items():
        if name == "Resource" and key in ResourceDefaults.model_fields:
            continue
        default = "**required**" if key in required else _default(value)
        yield f"| `{key}` | {_type(value)} | {default} | {_description(value, models)} |"


def _description(value: Schema, models: Mapping[str, Schema]) -> str:
    text = value.get("description")
    if text is None and "$ref" in value:  # pydantic omits it if it equals the model's own
        text = _first_part(models[_model_of(value["$ref"])]["description"])
    if text is None and "const" in value:
        text = "Selects this kind."
    return " ".join((text or "").split()).replace("|", "\\|")


def _title(name: str) -> str:
    return "The file's `attributes`" if name == "Connection" else name


def _anchor(name: str) -> str:
    return name.lower()


def _model_of(reference: str) -> str:
    return reference.rpartition("/")[2]


def _first_part(docstring: str) -> str:
    """Returns a docstring without the sections for programmers."""
    return re.split(r"\n\s*(?:Raises|Attributes|Args):", docstring)[0].strip()


def _default(value: Schema) -> str:
    if "const" in value:
        return "**required**"
    default = value.get("default")
    # The defaults of a mapping are in its own section.
    return f"`{json.dumps(default)}`" if default not in (None, [], "") and not isinstance(default, dict) else "–"


def _type(value: Schema) -> str:
    if "$ref" in value:
        name = _model_of(value["$ref"])
        return f"[{name}](#{_anchor(name)})"
    if "const" in value:
        return f"`{value['const']}`"
    if "enum" in value:
        return " or ".join(f"`{word}`" for word in value["enum"])
    for union in ("anyOf", "oneOf", "allOf"):
        if union in value:
            kinds = [_type(inner) for inner in value[union] if inner.get("type") != "null"]
            return " or ".join(dict.fromkeys(kinds))
    kind = value.get("type")
    if kind == "array":
        return f"list of {_type(value['items'])}" if value.get("items") else "list"
    if kind == "object":
        inner = value.get("additionalProperties")
        return f"mapping to {_type(inner)}" if isinstance(inner, Mapping) and inner else "mapping"
    return {"string": "text", "boolean": "true or false", None: "any value"}.get(kind, str(kind))


def commands() -> str:
    """Returns the output of `rmm --help`, and of `--help` of each command."""
    parts = [f"```text\n{_help(main, 'rmm')}\n```"]
    for name, command in sorted(main.commands.items()):
        parts.append(f"## `rmm {name}`\n\n```text\n{_help(command, f'rmm {name}')}\n```")
    return "\n\n".join(parts)


def _help(command: click.Command, name: str) -> str:
    return command.get_help(click.Context(command, info_name=name, max_content_width=100))


def on_files(files: Any, config: Any) -> Any:
    """Adds a page for each profile to the site and its navigation; mkdocs calls it with the files of `docs/`."""
    from mkdocs.structure.files import File

    pages = {profile.vendor: (_page_of(name), vendor(name, profile)) for name, profile in _vendors().items()}
    for path, text in pages.values():
        files.append(File.generated(config, path, content=text))
    for part in config.nav:
        for title, entries in part.items():
            if title == "Reference":
                at = entries.index({"Profiles": "reference/profiles.md"})
                nav = [{"All vendors": "reference/profiles.md"}, *({title: path} for title, (path, _) in pages.items())]
                entries[at] = {"Profiles": nav}
    return files


def _vendors() -> dict[str, Profile]:
    known = {name: profiles.profile_named(name) for name in profiles.names()}
    return {name: profile for name, profile in known.items() if profile.vendor}


def _page_of(name: str) -> str:
    return f"reference/profiles/{name}.md"


def vendors() -> str:
    """Returns a table of all profiles, with links to their pages."""
    table = ["| vendor | profile | settings | resources | how sure |", "|---|---|---|---|---|"]
    for name, profile in _vendors().items():
        lists = f"{_code(profile.settings)} | {_code(profile.resources)}"
        table.append(f"| [{profile.vendor}](profiles/{name}.md) | `{name}` | {lists} | {profile.confidence} |")
    table.append(f"\n{'; '.join(f'`{word}`: written from {meaning}' for word, meaning in _SURE.items())}.")
    return "\n".join(table)


def vendor(name: str, profile: Profile) -> str:
    """Returns the page of a profile."""
    return "\n".join(_vendor(name, profile))


def example(name: str, profile: Profile) -> str:
    """Returns a connection file with a profile and made-up settings."""
    attributes: dict[str, Any] = {"name": "acme", "profile": name}
    needed = {key: setting for key, setting in profile.settings.items() if setting.default is None}
    if needed:
        attributes["settings"] = {key: next(iter(setting.values or ("...",))) for key, setting in needed.items()}
    return yaml.safe_dump({"type": "rmm_assets.RmmConnection", "attributes": attributes}, sort_keys=False)


def _vendor(name: str, profile: Profile) -> Iterator[str]:
    yield f"# {profile.vendor}\n"
    sure = _SURE[profile.confidence or "low"]
    yield f"`profile: {name}`, written from {sure}. [The vendor's documentation]({profile.docs})."
    yield f"[How to use a profile](../../how-to/profiles.md).\n\n```bash\nrmm init {name} acme\n```\n"
    yield f"writes this file, and asks for what is missing:\n\n```yaml\n{example(name, profile)}```"
    yield "\n## Sign in\n\n| secret | what | where to get it |\n|---|---|---|"
    for secret in profile.secrets.values():
        yield f"| `ACME_{secret.variable}` | {secret.description} | {secret.where} |"
    if profile.settings:
        yield "\n## Settings\n\n| setting | what | values |\n|---|---|---|"
    for key, setting in profile.settings.items():
        allowed = _code(setting.values) if setting.values else "any"
        default = f", `{setting.default}` by default" if setting.default else ""
        yield f"| `{key}` | {setting.description} | {allowed}{default} |"
    yield "\n## Resources\n\n| resource | what | primary key | reads |\n|---|---|---|---|"
    for resource in _resources(profile):
        key = _code(resource.keys) if resource.keys else "none: replaced by every run"
        yield f"| `{resource.name}` | {resource.description} | {key} | {_reads(resource)} |"
    if sensitive := list(_sensitive(profile)):
        yield f"\nMarked as sensitive, and so masked in previews: {', '.join(sensitive)}."
    yield "\n## Not verified\n"
    yield from (f"- {sentence}" for sentence in profile.not_verified)
    yield "\n## Sources\n"
    yield from (f"- {source}" for source in profile.sources)


_SURE = {
    "high": "the vendor's own description or source code",
    "medium": "maintained programs of others that use the API",
    "low": "single reports",
}


def _sensitive(profile: Profile) -> Iterator[str]:
    for resource in profile.resources.values():
        for column, hints in resource.get("columns", {}).items():
            if hints.get("sensitive"):
                yield f"`{resource['name']}.{column}`"


def _resources(profile: Profile) -> tuple[Resource, ...]:
    """Returns a profile's resources, with its defaults merged in; settings are not filled in, so that columns are left out."""
    resources = [
        {key: value for key, value in resource.items() if key != "columns"} if isinstance(resource, dict) else resource
        for resource in profile.attributes["resources"]
    ]
    attributes = {"name": "any", **profile.attributes, "resources": resources}
    return Attributes.model_validate(
        {key: attributes[key] for key in ("name", "client", "resource_defaults", "resources")}
    ).resources


def _reads(resource: Resource) -> str:
    incremental = resource.endpoint.incremental
    if incremental is None:
        return "everything"
    often = f", everything every {incremental.full_every}" if incremental.full_every else ""
    return f"what changed, by `{incremental.cursor_path}`{often}"


def _code(words: Iterable[str]) -> str:
    return ", ".join(f"`{word}`" for word in words)

"""`rmm init`: writes a connection file, from a vendor's profile or from one answer of an API."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import parse_qsl, urlsplit

import click

from rmm_assets.cli.check import doing
from rmm_assets.cli.instance import leave

if TYPE_CHECKING:
    from rmm_assets.config.profiles import Profile, Setting
    from rmm_assets.http.transport import Reply

_AUTHS = "bearer, header:NAME, query:NAME, basic:USER or none"


@click.command()
@click.argument("vendor", required=False)
@click.argument("name", required=False)
@click.option(
    "--set", "settings", multiple=True, metavar="NAME=VALUE", help="A setting of the profile; may be repeated."
)
@click.option("--url", help="Without a vendor: URL of one list of the API, with its query parameters.")
@click.option("--auth", help=f"Without a vendor: how the key is sent: {_AUTHS}.")
@click.option("--yes", is_flag=True, help="Accept what is proposed instead of asking.")
@click.option(
    "--folder", type=click.Path(path_type=Path), help="Folder of connection folders; by default the first one."
)
@click.option("--json", "as_json", is_flag=True, help="Print what was written, and what to set, as JSON.")
def init(
    vendor: str | None, name: str | None, settings: tuple[str, ...], url: str | None, auth: str | None, yes: bool,
    folder: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Write a connection file for VENDOR, named NAME, and say which variables to set.

    `rmm profiles` lists the vendors. Asks for the settings that `--set` does not give. Without a vendor, asks for the URL of
    a list, requests it once, and proposes a data selector and a paginator, each with its reason: `rmm init --url URL NAME`.
    """
    if url is not None:
        if name is not None:
            raise click.UsageError("write a vendor or --url, not both")
        vendor, name = None, vendor
    if vendor is None:
        _from_answer(name, url, auth, folder, yes=yes, as_json=as_json)
    from rmm_assets.config.profiles import names, profile_named
    from rmm_assets.settings import did_you_mean

    if vendor not in names():
        raise click.UsageError(f"there is no profile {vendor}; {did_you_mean(str(vendor), names())}")
    profile = profile_named(vendor)
    name = name or click.prompt("Name of the connection", default=vendor, err=True)
    attributes = {"name": name, "profile": vendor, "settings": _settings(profile, settings)}
    if not attributes["settings"]:
        del attributes["settings"]
    _refuse_faults(attributes)
    variables = [
        {"name": f"{name.upper()}_{secret.variable}", "description": secret.description, "where": secret.where}
        for secret in profile.secrets.values()
    ]
    comment = [
        f"{profile.vendor or vendor}. `rmm show {name}` prints everything that the profile adds.",
        *(f"Set {variable['name']}: {variable['description']}" for variable in variables),
        f"Without `resources`, all are loaded: {', '.join(profile.resources)}.",
    ]
    _write(attributes, folder, comment, variables, list(profile.not_verified), as_json=as_json)


def _settings(profile: Profile, given: Sequence[str]) -> dict[str, str]:
    """Returns the settings of a connection, and asks for those that are missing and have no default."""
    pairs = [pair.partition("=") for pair in given]
    if unclear := [name for name, sign, _ in pairs if not sign]:
        raise click.UsageError(f"write --set {unclear[0]}=VALUE")
    values = {name: value for name, _, value in pairs}
    if unknown := [name for name in values if name not in profile.settings]:
        known = ", ".join(profile.settings) or "none"
        raise click.UsageError(f"the profile has no setting {unknown[0]}; its settings: {known}")
    return {
        name: _allowed(name, setting, values[name]) if name in values else _asked(name, setting)
        for name, setting in profile.settings.items()
        if name in values or setting.default is None
    }


def _allowed(name: str, setting: Setting, value: str) -> str:
    if fault := setting.fault(value):
        raise click.UsageError(f"{name}: {fault}")
    return value


def _asked(name: str, setting: Setting) -> str:
    words = f" ({', '.join(setting.values)})" if setting.values else ""
    while True:
        value: str = click.prompt(f"{setting.description}\n{name}{words}", err=True)
        fault = setting.fault(value)
        if fault is None:
            return value
        click.echo(f"{name}: {fault}", err=True)


def _from_answer(
    name: str | None, url: str | None, auth: str | None, folder: Path | None, *, yes: bool, as_json: bool
) -> NoReturn:
    """Writes a file for an API that has no profile."""
    from rmm_assets.errors import BodyError
    from rmm_assets.reading.proposal import propose

    url = url or click.prompt(
        "URL of one list of the API, for example https://rmm.example.com/api/devices?limit=100", err=True
    )
    parts = urlsplit(url)
    default = _plain(parts.hostname or "acme")
    name = name or (default if yes else click.prompt("Name of the connection", default=default, err=True))
    auth = auth or ("bearer" if yes else click.prompt(f"How is the key sent ({_AUTHS})?", default="bearer", err=True))
    above, _, last = parts.path.rstrip("/").rpartition("/")
    resource = _plain(last) or "rows"
    endpoint: dict[str, Any] = {"path": f"/{last}", "params": dict(parse_qsl(parts.query)), "paginator": "single_page"}
    attributes: dict[str, Any] = {
        "name": name,
        "client": {"base_url": f"{parts.scheme}://{parts.netloc}{above}"},
        "resources": [{"name": resource, "endpoint": {key: value for key, value in endpoint.items() if value}}],
    }
    written = _auth(auth)
    variables = []
    if written is not None:
        variable = f"{name.upper()}_API_KEY"
        attributes["client"]["auth"] = written
        attributes["api_key"] = {"env": variable}
        variables = [{"name": variable, "description": "The API's key.", "where": "the vendor's settings"}]
    reply = _reply({**attributes, "resources": [{**attributes["resources"][0], "write_disposition": "replace"}]})
    try:
        found = propose(reply)
    except BodyError as error:
        raise click.ClickException(f"{error}. The URL should be that of a list") from None
    click.echo(f"The response has {found.rows} rows.", err=True)
    paginator = json.dumps(found.paginator.value)
    endpoint["data_selector"] = _accepted("data_selector", found.selector.value, found.selector.reason, yes)
    endpoint["paginator"] = json.loads(_accepted("paginator", paginator, found.paginator.reason, yes))
    size = "limit" if endpoint["paginator"].get("type") == "offset" else None
    endpoint["params"] = {key: value for key, value in endpoint["params"].items() if key not in _positions(size)}
    made: dict[str, Any] = {"name": resource}
    reason = (
        "the first field like an id that is different in each row" if found.key else "no field is different in each row"
    )
    if key := _accepted("primary_key (- for none)", found.key or "-", reason, yes).strip("-"):
        made |= {"primary_key": key, "write_disposition": "merge"}
    else:
        made |= {"write_disposition": "replace"}
    if found.total is not None and found.total[0] == "total_header":
        endpoint["total_header"] = found.total[1]
    elif found.total is not None and found.total[1] != endpoint["paginator"].get("total_path"):
        made["total_path"] = found.total[1]
    attributes["resources"] = [{**made, "endpoint": {key: value for key, value in endpoint.items() if value}}]
    _refuse_faults(attributes)
    notes = [
        f"{what}: {proposal.reason}"
        for what, proposal in (("data_selector", found.selector), ("paginator", found.paginator))
    ]
    _write(attributes, folder, [f"{what.capitalize()}." for what in notes], variables, notes, as_json=as_json)


def _positions(size: str | None) -> set[str]:
    """Returns the query parameters that the paginator sets itself."""
    return {"page", "offset", "cursor", "after"} | ({size} if size else set())


def _auth(word: str) -> dict[str, Any] | None:
    kind, _, name = word.partition(":")
    if kind == "none":
        return None
    if kind == "bearer":
        return {"type": "bearer"}
    if kind in ("header", "query") and name:
        return {"type": "api_key", "name": name, "location": kind}
    if kind == "basic" and name:
        return {"type": "http_basic", "username": name}
    raise click.UsageError(f"unknown auth {kind}; write {_AUTHS}")


def _accepted(what: str, proposal: str, reason: str, yes: bool) -> str:
    """Returns what the person accepts or writes instead."""
    click.echo(f"{what}: {proposal} ({reason})", err=True)
    return (
        proposal
        if yes
        else str(click.prompt(f"Press Enter to accept, or write another {what}", default=proposal, err=True))
    )


def _reply(attributes: Mapping[str, Any]) -> Reply:
    import dagster as dg

    from rmm_assets.errors import RmmError
    from rmm_assets.loading.sample import first_reply
    from rmm_assets.orchestration.resources import api_resource

    connection = _refuse_faults(attributes)
    try:
        with api_resource(connection).session() as (_, secrets), doing(f"requesting {connection.resources[0].name}"):
            return first_reply(connection, connection.resources[0], secrets)
    except dg.Failure as failure:
        raise click.ClickException(str(failure.description)) from None
    except (RmmError, ValueError) as error:
        raise click.ClickException(str(error)) from None
    except KeyboardInterrupt:
        click.echo("\nInterrupted.", err=True)
        leave(130)


def _refuse_faults(attributes: Mapping[str, Any]) -> Any:
    from pydantic import ValidationError

    from rmm_assets.config import Connection
    from rmm_assets.settings import messages

    try:
        return Connection.model_validate(attributes)
    except ValidationError as error:
        found = [f"{'.'.join(map(str, path))}: {message}" for path, message in messages(error)]
        raise click.ClickException("\n".join(found)) from None


def _plain(text: str) -> str:
    """Returns a name that a connection or resource may have."""
    words = re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")
    return words if not words or words[0].isalpha() else f"rmm_{words}"


def _write(
    attributes: Mapping[str, Any], folder: Path | None, comment: Sequence[str], variables: Sequence[Mapping[str, str]],
    notes: Sequence[str], *, as_json: bool,
) -> NoReturn:  # fmt: skip
    import yaml

    from rmm_assets.definitions import configured_folders

    file = (folder or configured_folders()[0]) / attributes["name"] / "defs.yaml"
    content = yaml.safe_dump(
        {"type": "rmm_assets.RmmConnection", "attributes": dict(attributes)}, sort_keys=False, width=120
    )
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        with file.open("x", encoding="utf-8") as opened:
            opened.write("".join(f"# {line}\n" for line in comment) + content)
    except FileExistsError:
        raise click.ClickException(f"{file} exists; give the connection another name, or delete the file") from None
    if as_json:
        click.echo(json.dumps({"file": str(file), "variables": list(variables), "not_verified": list(notes)}, indent=2))
        leave(0)
    click.echo(f"Wrote {file}.")
    for variable in variables:
        click.echo(f"Set {variable['name']}: {variable['description']} Where: {variable['where']}")
    for note in notes:
        click.echo(f"Note: {note}")
    click.echo(f"Then run `rmm check {attributes['name']}`, and `rmm sync {attributes['name']}`.")
    leave(0)

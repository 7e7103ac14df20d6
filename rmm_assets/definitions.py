"""Builds one set of Dagster definitions from all connection folders: the entry point that workspace.yaml names.

Each folder is loaded separately, so that a broken connection file does not affect other connections: it is replaced by
an asset that says what is wrong. See `orchestration` for the definitions of a single connection.
"""

from __future__ import annotations

import gc
import logging
import os
import re
import warnings
from collections.abc import Container, Iterator, Sequence
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import NoReturn

import dagster as dg
import yaml
from pydantic import ValidationError

from rmm_assets.config.names import normalized_table
from rmm_assets.config.templates import LANGUAGE
from rmm_assets.errors import ConnectionFileError, Fault
from rmm_assets.orchestration.component import RmmConnection, display_path
from rmm_assets.orchestration.dagster_internals import documents
from rmm_assets.orchestration.lost_runs import lost_runs
from rmm_assets.orchestration.problems import BROKEN, LOADS
from rmm_assets.orchestration.prune import build_prune_job
from rmm_assets.orchestration.schedules import EXECUTOR
from rmm_assets.orchestration.sensors import build_alert_sensors
from rmm_assets.settings import did_you_mean, messages

logger = logging.getLogger(__name__)

FOLDERS_VARIABLE = "RMM_CONNECTIONS"
OWN_FOLDER = Path(__file__).parent / "defs"

# The top-level keys of a `defs.yaml`, as Dagster defines them.
FILE_KEYS = ["type", "attributes", "template_vars_module", "requirements", "post_processing"]


def build_defs(*, folders: Sequence[Path] | None = None, executor: dg.ExecutorDefinition = EXECUTOR) -> dg.Definitions:
    """Builds fresh definitions of every connection.

    Args:
        folders: Folders that contain one folder per connection, each with its `defs.yaml`. Defaults to those named in
            the environment variable `RMM_CONNECTIONS`, separated like PATH, or else to the package's own.
        executor: The code location's executor, for connections with `executor: location` and for manual materializations.
    """
    loaded: list[dg.Definitions] = []
    known: list[RmmConnection] = []
    names: dict[str, Path] = {}
    datasets: dict[tuple[str, ...], str] = {}
    broken: dict[str, str] = {}
    for folder in _connection_folders(folders if folders is not None else configured_folders()):
        try:
            definitions, found = _load(folder)
            _claim(found, folder, names, datasets)
            loaded.append(definitions)
            known += found
        except Exception as error:  # one broken folder must not keep the others from loading
            label = _label(folder, broken)
            broken[label] = readable(error, folder)
            logger.warning("%s is not loaded: %s", display_path(str(folder)), broken[label])
    job, schedule = build_prune_job(known)
    ours = dg.Definitions(
        jobs=[job],
        schedules=[schedule],
        assets=[_broken(*item) for item in broken.items()],
        asset_checks=[_loads(*item) for item in broken.items()],
        sensors=[*build_alert_sensors(), lost_runs],
        executor=executor,
    )
    return dg.Definitions.merge(*loaded, ours)


def broken_connections(definitions: dg.Definitions) -> dict[str, str]:
    """Returns why connections could not be loaded, by the name of the asset that replaces each."""
    return {
        spec.key.path[0]: str(spec.metadata[BROKEN])
        for spec in definitions.resolve_all_asset_specs()
        if BROKEN in spec.metadata
    }


@dg.definitions
@cache
def defs() -> dg.Definitions:
    """Builds the code location, once in a process: Dagster asks for it five times in the process of a run."""
    # Dagster warns about its own parameter when it loads checks that read two tables.
    warnings.filterwarnings("ignore", "Parameter `execution_type` of function `AssetsDefinition.__init__`")
    definitions = build_defs()
    # A run's process keeps half a million objects of Dagster and dlt alive until it exits. Without `freeze`, the garbage
    # collector scans them repeatedly and again at exit: a tenth of a small run's time (measured).
    gc.freeze()
    return definitions


def configured_folders() -> list[Path]:
    """Returns the folders of connection folders: those of the environment variable, or else the package's own."""
    named = [Path(part) for part in os.environ.get(FOLDERS_VARIABLE, "").split(os.pathsep) if part]
    return named or [OWN_FOLDER]


def _connection_folders(folders: Sequence[Path]) -> Iterator[Path]:
    """Yields every folder that contains a connection file, or that seems meant to contain one."""
    for root in dict.fromkeys(folder.absolute() for folder in folders):
        if not root.is_dir() or (root / "defs.yaml").exists():
            yield root
            continue
        for folder in sorted(path for path in root.iterdir() if path.is_dir() and path.name[0] not in "._"):
            inside = sorted({file.parent for file in folder.rglob("defs.yaml")})
            if inside or any(folder.rglob("*.y*ml")):
                yield from inside or [folder]


def connections() -> dict[str, RmmConnection]:
    """Returns every connection that can be loaded, by name; logs a warning for each that cannot."""
    found, broken = loaded_and_broken()
    for name, problem in broken.items():
        logger.warning("%s is not loaded: %s", name, problem)
    return found


def loaded_and_broken() -> tuple[dict[str, RmmConnection], dict[str, str]]:
    """Returns every connection that can be loaded, by name, and why others cannot, by the name of their folder."""
    found: dict[str, RmmConnection] = {}
    broken: dict[str, str] = {}
    for folder in _connection_folders(configured_folders()):
        try:
            found |= {connection.name: connection for connection in load_connections(folder)}
        except ValueError as error:
            broken[_label(folder, broken)] = str(error)
    return found, broken


def _label(folder: Path, taken: Container[str]) -> str:
    """Returns the name under which a folder that cannot be loaded is shown."""
    return _free_name(re.sub(r"\W", "_", folder.name) or "connection", taken)


def load_connections(folder: Path) -> list[RmmConnection]:
    """Loads the connections of one folder, without building their definitions.

    Raises:
        ValueError: The folder's connection file cannot be loaded; the message says why and names file and line.
    """
    try:
        return _tree(folder.absolute()).get_all_components(RmmConnection)
    except Exception as error:  # Dagster wraps errors of every type
        raise ValueError(readable(error, folder)) from None


def _load(folder: Path) -> tuple[dg.Definitions, list[RmmConnection]]:
    """Loads a folder, and returns its definitions and the connections that they were built from."""
    tree = _tree(folder)
    connections = tree.get_all_components(RmmConnection)
    with warnings.catch_warnings():
        # Assets link to their line in the file, which is a beta feature of Dagster.
        warnings.simplefilter("ignore", dg.BetaWarning)
        return tree.build_defs_at_path(folder), connections


def _tree(folder: Path) -> dg.ComponentTree:
    if not folder.is_dir():
        raise FileNotFoundError(f"the folder {display_path(str(folder))}, named in {FOLDERS_VARIABLE}, does not exist")
    if not (folder / "defs.yaml").exists():
        raise FileNotFoundError(f"{display_path(str(folder))} has no defs.yaml; give the connection file that name")
    _refuse_repeated_keys(folder / "defs.yaml")
    # One component tree per folder: Dagster reads every file of a tree before it loads any, so one bad file would
    # break them all.
    module = ModuleType(_module_name(folder))
    module.__file__, module.__path__ = None, [str(folder)]
    tree = dg.ComponentTree.from_module(defs_module=module, project_root=folder)
    for component, document in documents(tree):
        # Other components render templates with all of Jinja, and a `template_vars_module` is executed.
        if not issubclass(component, RmmConnection):
            _refuse_key(folder, "type", f"`{document.type}` is not a connection; write rmm_assets.RmmConnection")
        if document.template_vars_module is not None:
            _refuse_key(folder, "template_vars_module", f"{LANGUAGE}; leave it out")
    return tree


def _refuse_key(folder: Path, key: str, message: str) -> NoReturn:
    raise ConnectionFileError([Fault(f"{display_path(str(folder / 'defs.yaml'))}: {key}", message)])


def _module_name(folder: Path) -> str:
    below = folder.relative_to(OWN_FOLDER.parent).parts if folder.is_relative_to(OWN_FOLDER) else (folder.name,)
    return ".".join([__package__ or "rmm_assets", *below])


def _refuse_repeated_keys(file: Path) -> None:
    """Refuses duplicate keys, of which PyYAML silently keeps the last.

    Raises:
        yaml.MarkedYAMLError: A mapping contains the same key twice.
    """
    nodes = list(yaml.compose_all(file.read_text(encoding="utf-8"), Loader=yaml.SafeLoader))
    visited: set[int] = set()  # an alias may refer to a node that contains it
    while nodes:
        node = nodes.pop()
        if id(node) in visited:
            continue
        visited.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            nodes += node.value
        elif isinstance(node, yaml.MappingNode):
            seen: set[str] = set()
            for key, value in node.value:
                if isinstance(key, yaml.ScalarNode) and key.value in seen:
                    problem = f"duplicate key `{key.value}`; write it once"
                    raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
                seen.add(str(key.value))
                nodes.append(value)


def _claim(
    connections: Sequence[RmmConnection],
    folder: Path,
    names: dict[str, Path],
    datasets: dict[tuple[str, ...], str],
) -> None:
    """Records the names and datasets of a folder's connections.

    Raises:
        ValueError: Another connection has the same name or dataset; nothing is recorded.
    """
    new_names, new_datasets = dict(names), dict(datasets)
    for connection in connections:
        if connection.name in new_names:
            other = display_path(str(new_names[connection.name]))
            raise ValueError(
                f"the connection name `{connection.name}` is already used in {other}; give this one another name"
            )
        new_names[connection.name] = folder
        store = connection.destination
        # As dlt names it: `AcmeNorth` and `acme_north` are one dataset.
        name = normalized_table(connection.dataset_name)
        dataset = (store.type, repr(store.resolved_credentials()), repr(store.options), name)
        if dataset in new_datasets:
            raise ValueError(
                f"`{connection.name}` and `{new_datasets[dataset]}` would both load into the dataset {name}; give one of "
                "them another `dataset`"
            )
        new_datasets[dataset] = connection.name
    names |= new_names
    datasets |= new_datasets


def _free_name(name: str, taken: Container[str]) -> str:
    candidates = (name, *(f"{name}_{number}" for number in range(2, 1000)))
    return next(candidate for candidate in candidates if candidate not in taken)


def readable(error: BaseException, folder: Path) -> str:
    """Returns what is wrong with a connection folder, from an error raised by Dagster's component loader.

    Dagster adds lines of the file to an error, and they may contain a secret, so only the message of the innermost
    error is used.
    """
    innermost = error
    while (cause := _cause(innermost)) is not None:
        innermost = cause
    file = display_path(str(folder / "defs.yaml"))
    if isinstance(innermost, (ConnectionFileError, FileNotFoundError)):
        return str(innermost)
    if isinstance(innermost, ValidationError):
        return "\n".join(_of_the_file(path, message, file) for path, message in messages(innermost))
    if isinstance(innermost, yaml.MarkedYAMLError):
        mark = innermost.problem_mark or innermost.context_mark
        # Quoted text comes from the file, except YAML's own terms, which are in angle brackets.
        problem = re.sub(r"'(?!<)[^']{4,}'", "...", innermost.problem or "this is not valid YAML")
        return f"{file}:{mark.line + 1}: {problem}" if mark else f"{file}: {problem}"
    return f"{file}: {innermost or type(innermost).__name__}"


def _cause(error: BaseException) -> BaseException | None:
    return error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _of_the_file(path: tuple[str | int, ...], message: str, file: str) -> str:
    # Dagster appends the position to the path: `attribute at /folder/defs.yaml:3`.
    key, _, place = ".".join(str(part) for part in path).partition(" at ")
    line = place.rpartition(":")[2]
    if key.split(".")[0] not in FILE_KEYS:
        message = f"unknown key `{key}`; {did_you_mean(key, FILE_KEYS)}"
    return f"{file}:{line}: {key}: {message}" if line else f"{file}: {key}: {message}"


def _broken(name: str, problem: str) -> dg.AssetsDefinition:
    """Builds the asset that replaces a connection that cannot be loaded; it shows the reason and fails with it."""

    @dg.asset(
        key=[name, "broken_connection"],
        group_name=name,
        description="\n\n".join(["This connection is not loaded:", *(f"> {line}" for line in problem.splitlines())]),
        tags={BROKEN: "true"},
        kinds={"broken"},
        metadata={BROKEN: problem},
    )
    def broken_connection() -> None:
        raise dg.Failure(description=problem, allow_retries=False)

    return broken_connection


def _loads(name: str, problem: str) -> dg.AssetChecksDefinition:
    """Builds the check of a connection that cannot be loaded; the sensor `broken_files` reports it as failed."""

    @dg.asset_check(asset=[name, "broken_connection"], name=LOADS, description="The connection file can be loaded.")
    def loads() -> dg.AssetCheckResult:
        return dg.AssetCheckResult(passed=False, description=problem)

    return loads

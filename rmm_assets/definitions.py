"""Every connection folder to one set of Dagster definitions: the entry point that workspace.yaml names.

Each folder is loaded by itself, so that a broken connection file takes down nothing but itself: in its place
stands an asset that says what is wrong. What a connection's definitions are is `orchestration`'s business.
"""

from __future__ import annotations

import gc
import logging
import os
import re
import warnings
from collections.abc import Container, Iterator, Sequence
from pathlib import Path
from types import ModuleType

import dagster as dg
import yaml
from pydantic import ValidationError

from rmm_assets.config.names import normalized_table
from rmm_assets.errors import ConnectionFileError
from rmm_assets.orchestration.component import RmmConnection, shown
from rmm_assets.orchestration.schedules import EXECUTOR
from rmm_assets.orchestration.sensors import build_alert_sensors
from rmm_assets.settings import did_you_mean, messages

logger = logging.getLogger(__name__)

FOLDERS_VARIABLE = "RMM_CONNECTIONS"
OWN_FOLDER = Path(__file__).parent / "defs"

# The keys beside `attributes`, which are Dagster's.
FILE_KEYS = ["type", "attributes", "template_vars_module", "requirements", "post_processing"]


def build_defs(*, folders: Sequence[Path] | None = None) -> dg.Definitions:
    """Fresh definitions of every connection.

    Args:
        folders: Folders that hold one folder a connection, each with its `defs.yaml`. By default those that
            the variable `RMM_CONNECTIONS` names, separated like PATH; without it the package's own.
    """
    loaded: list[dg.Definitions] = []
    names: dict[str, Path] = {}
    datasets: dict[tuple[str, ...], str] = {}
    broken: dict[str, str] = {}
    for folder in _connection_folders(folders if folders is not None else _configured_folders()):
        try:
            definitions, connections = _load(folder)
            _claim(connections, folder, names, datasets)
            loaded.append(definitions)
        except Exception as error:  # whatever is wrong with one folder, the others stand
            label = _free_name(re.sub(r"\W", "_", folder.name) or "connection", broken)
            broken[label] = readable(error, folder)
            logger.warning("%s is not loaded: %s", shown(str(folder)), broken[label])
    ours = dg.Definitions(
        assets=[_broken(*item) for item in broken.items()], sensors=build_alert_sensors(), executor=EXECUTOR
    )
    return dg.Definitions.merge(*loaded, ours)


@dg.definitions
def defs() -> dg.Definitions:
    """The code location, built when Dagster asks for it."""
    found = build_defs()
    # A run's process holds half a million objects of Dagster and dlt for good. Left to the collector, it goes through all
    # of them again and again, and once more at the end: a tenth of a small run's time (measured).
    gc.freeze()
    return found


def _configured_folders() -> list[Path]:
    named = [Path(part) for part in os.environ.get(FOLDERS_VARIABLE, "").split(os.pathsep) if part]
    return named or [OWN_FOLDER]


def _connection_folders(folders: Sequence[Path]) -> Iterator[Path]:
    """Every folder below that holds a connection file, or that seems meant to hold one."""
    for root in dict.fromkeys(folder.absolute() for folder in folders):
        if not root.is_dir() or (root / "defs.yaml").exists():
            yield root
            continue
        for folder in sorted(path for path in root.iterdir() if path.is_dir() and path.name[0] not in "._"):
            inside = sorted({file.parent for file in folder.rglob("defs.yaml")})
            if inside or any(folder.rglob("*.y*ml")):
                yield from inside or [folder]


def load_connections(folder: Path) -> list[RmmConnection]:
    """The connections of one folder, without their definitions.

    Raises:
        ValueError: the folder's connection file cannot be loaded; the message is one for people.
    """
    try:
        return _tree(folder.absolute()).get_all_components(RmmConnection)
    except Exception as error:  # the machinery wraps whatever went wrong
        raise ValueError(readable(error, folder)) from None


def _load(folder: Path) -> tuple[dg.Definitions, list[RmmConnection]]:
    """A folder's definitions and the connections that they come from."""
    tree = _tree(folder)
    connections = tree.get_all_components(RmmConnection)
    with warnings.catch_warnings():
        # The machinery links each asset to its line of the file, with means that Dagster calls beta.
        warnings.simplefilter("ignore", dg.BetaWarning)
        return tree.build_defs_at_path(folder), connections


def _tree(folder: Path) -> dg.ComponentTree:
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {shown(str(folder))}; {FOLDERS_VARIABLE} names it")
    if not (folder / "defs.yaml").exists():
        raise FileNotFoundError(f"{shown(str(folder))} has no defs.yaml; give the connection file that name")
    _refuse_repeated_keys(folder / "defs.yaml")
    # A tree of its own: Dagster reads every file of a tree before it loads any, and one bad file ends all.
    module = ModuleType(_module_name(folder))
    module.__file__, module.__path__ = None, [str(folder)]
    return dg.ComponentTree.from_module(defs_module=module, project_root=folder)


def _module_name(folder: Path) -> str:
    below = folder.relative_to(OWN_FOLDER.parent).parts if folder.is_relative_to(OWN_FOLDER) else (folder.name,)
    return ".".join([__package__ or "rmm_assets", *below])


def _refuse_repeated_keys(file: Path) -> None:
    """YAML's reader keeps the last of two equal keys and forgets the first without a word."""
    nodes = list(yaml.compose_all(file.read_text(encoding="utf-8"), Loader=yaml.SafeLoader))
    visited: set[int] = set()  # an alias may lead back to where it stands
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
                    problem = f"the key `{key.value}` stands here for the second time; write it once"
                    raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
                seen.add(str(key.value))
                nodes.append(value)


def _claim(
    connections: Sequence[RmmConnection],
    folder: Path,
    names: dict[str, Path],
    datasets: dict[tuple[str, ...], str],
) -> None:
    """Notes a folder's names and datasets.

    Raises:
        ValueError: another connection has the name or the dataset; nothing of the folder is noted then.
    """
    new_names, new_datasets = dict(names), dict(datasets)
    for connection in connections:
        if connection.name in new_names:
            other = shown(str(new_names[connection.name]))
            raise ValueError(
                f"there is a connection `{connection.name}` already, in {other}; give this one another name"
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
    """What is wrong with a connection folder, from an error of Dagster's component machinery.

    The machinery wraps an error in trees and lines of the file, where a secret may stand; only the innermost
    error is told, and only its own sentence.
    """
    innermost = error
    while (cause := _cause(innermost)) is not None:
        innermost = cause
    file = shown(str(folder / "defs.yaml"))
    if isinstance(innermost, (ConnectionFileError, FileNotFoundError)):
        return str(innermost)
    if isinstance(innermost, ValidationError):
        return "\n".join(_of_the_file(path, message, file) for path, message in messages(innermost))
    if isinstance(innermost, yaml.MarkedYAMLError):
        mark = innermost.problem_mark or innermost.context_mark
        # What stands between quotes is of the file, and YAML's own words are in angle brackets.
        problem = re.sub(r"'(?!<)[^']{4,}'", "...", innermost.problem or "this is no YAML")
        return f"{file}:{mark.line + 1}: {problem}" if mark else f"{file}: {problem}"
    return f"{file}: {innermost or type(innermost).__name__}"


def _cause(error: BaseException) -> BaseException | None:
    return error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _of_the_file(path: tuple[str | int, ...], message: str, file: str) -> str:
    # Dagster writes the place into the path: `attribute at /folder/defs.yaml:3`.
    key, _, place = ".".join(str(part) for part in path).partition(" at ")
    line = place.rpartition(":")[2]
    if key.split(".")[0] not in FILE_KEYS:
        message = f"unknown key `{key}`; {did_you_mean(key, FILE_KEYS)}"
    return f"{file}:{line}: {key}: {message}" if line else f"{file}: {key}: {message}"


def _broken(name: str, problem: str) -> dg.AssetsDefinition:
    """An asset in the place of a connection that cannot be loaded: it says why, and fails with that."""

    @dg.asset(
        key=[name, "broken_connection"],
        group_name=name,
        description="\n\n".join(["This connection is not loaded:", *(f"> {line}" for line in problem.splitlines())]),
        tags={"rmm_assets/broken": "true"},
        kinds={"broken"},
    )
    def broken_connection() -> None:
        raise dg.Failure(description=problem, allow_retries=False)

    return broken_connection

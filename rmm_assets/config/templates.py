"""Fills environment variables into a connection file: `{{ env('NAME') }}` and `{{ env('NAME', 'default') }}`.

Dagster renders a component's file as Jinja, whose expressions can run any Python. Here, a template can only read an
environment variable, so loading a file never executes it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic_core import InitErrorDetails

from rmm_assets.config.secrets import is_secret_name
from rmm_assets.settings import line_error

Path = tuple[str | int, ...]

_TEMPLATE = re.compile(
    r"""\{\{\s*env\(\s*(['"])(?P<name>[A-Za-z_]\w*)\1\s*(,\s*(['"])(?P<default>[^'"{}]*)\4\s*)?\)\s*\}\}""", re.ASCII
)
# Also matches names such as PGPASSWORD; a false positive is better than a secret in a file.
_SECRET = re.compile("passw|secret|token|credential|apikey", re.IGNORECASE)
_DOTTED = re.compile(r"\{\{\s*env\.(?P<name>[A-Za-z_]\w*)\s*\}\}", re.ASCII)
LANGUAGE = "the only templates are `{{ env('NAME') }}` and `{{ env('NAME', 'default') }}`"


def filled(attributes: Mapping[str, Any]) -> tuple[dict[str, Any], list[InitErrorDetails]]:
    """Fills in the templates in a connection's attributes; also returns what is wrong with the templates.

    The value of a template is text. Variables that contain a secret are not read.
    """
    errors: list[InitErrorDetails] = []
    references = {key: attributes.get(key) for key in ("api_key", "secrets")}
    own = set(_variables(_filled(references, (), frozenset(), [])))
    return _filled(attributes, (), own, errors), errors


def refused(value: Any, path: Path, message: str) -> Iterator[InitErrorDetails]:
    """Yields an error for each template in a value that must not contain any."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from refused(inner, (*path, str(key)), message)
    elif isinstance(value, (list, tuple)):
        for index, inner in enumerate(value):
            yield from refused(inner, (*path, index), message)
    elif _is_template(value):
        yield line_error(path, message)


def _variables(references: Mapping[str, Any]) -> Iterator[str]:
    """Yields the variables in which the file's secrets are looked up."""
    named = references["secrets"] if isinstance(references["secrets"], Mapping) else {}
    for reference in (references["api_key"], *named.values()):
        if isinstance(reference, Mapping):
            yield str(reference.get("env"))
            yield str(reference.get("dlt_secret")).upper().replace(".", "__")


def _filled(value: Any, path: Path, own: set[str] | frozenset[str], errors: list[InitErrorDetails]) -> Any:
    if isinstance(value, Mapping):
        errors += [
            line_error(path, "a template cannot be a key; write it as a value") for key in value if _is_template(key)
        ]
        return {key: _filled(inner, (*path, key), own, errors) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_filled(inner, (*path, index), own, errors) for index, inner in enumerate(value)]
    if not _is_template(value):
        return value

    def variable(template: re.Match[str]) -> str:
        name: str = template["name"]
        if name in own or is_secret_name(name, chosen=True) or _SECRET.search(name):
            errors.append(
                line_error(
                    path, f"`{name}` names a secret, which must not come from a template; refer to it in `api_key`"
                )
            )
            return ""
        default: str | None = template["default"]
        text = os.environ.get(name) if default is None else os.environ.get(name, default)
        if text is None:
            errors.append(
                line_error(
                    path,
                    f"the environment variable {name} is not set; set it, or write `{{{{ env('{name}', 'default') }}}}`",
                )
            )
        return text or ""

    if _is_template(_TEMPLATE.sub("", value)):
        dotted = _DOTTED.search(value)
        advice = f"; write `{{{{ env('{dotted['name']}') }}}}`" if dotted else ""
        errors.append(line_error(path, f"{LANGUAGE}{advice}"))
        return value
    return _TEMPLATE.sub(variable, value)


def _is_template(value: Any) -> bool:
    return isinstance(value, str) and ("{{" in value or "{%" in value)

"""Defines a connection: the attributes of a connection file, and the rules between them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from pydantic import model_validator
from pydantic_core import InitErrorDetails

from rmm_assets.config import rules
from rmm_assets.config.attributes import Attributes
from rmm_assets.config.profiles import merged
from rmm_assets.config.secrets import secrets, with_marks
from rmm_assets.settings import refuse


class Connection(Attributes):
    """A whole connection, as its file describes it.

    Raises:
        pydantic.ValidationError: It lists all faults, each with the path of its key, and never repeats a secret.
    """

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
    def _rules(self) -> Self:
        refuse(self.faults())
        return self

    def faults(self) -> list[InitErrorDetails]:
        """Returns violations of the rules between keys."""
        return rules.faults(self)

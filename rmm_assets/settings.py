"""Reads parts of a connection file into frozen models, and reports errors by path, never by value."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import Any, ClassVar, Self
from zoneinfo import ZoneInfo

from pydantic import BaseModel, ConfigDict, ModelWrapValidatorHandler, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError


def line_error(path: tuple[str | int, ...], message: str) -> InitErrorDetails:
    """Returns an error at a path, in the form that pydantic nests into the path of the enclosing model.

    It does not carry the input, because any value in a connection file may be a secret.
    """
    # pydantic formats the template with braces, so the text is passed as a value.
    return InitErrorDetails(
        type=PydanticCustomError("connection_file", "{message}", {"message": message}), loc=path, input=None
    )


def refuse(errors: list[InitErrorDetails]) -> None:
    """Raises a `pydantic.ValidationError` with these errors; does nothing if there are none."""
    if errors:
        raise ValidationError.from_exception_data("connection file", errors, hide_input=True)


def messages(error: ValidationError) -> list[tuple[tuple[str | int, ...], str]]:
    """Returns the path and message of each error, without the values at fault."""
    return [
        (line["loc"], "missing" if line["type"] == "missing" else line["msg"])
        for line in error.errors(include_input=False, include_url=False, include_context=False)
    ]


def leaves(value: Any) -> Iterator[Any]:
    """Yields what is neither a mapping nor a list, however deep it is in a value of a connection file."""
    if isinstance(value, Mapping):
        value = value.values()
    elif not isinstance(value, (list, tuple)):
        yield value
        return
    for inner in value:
        yield from leaves(inner)


def did_you_mean(word: str, known: list[str]) -> str:
    """Returns a suggestion: the closest known word, or all known words if none is close."""
    lowered = {name.lower(): name for name in known}
    near = get_close_matches(word.lower(), lowered, n=1, cutoff=0.6)
    return f"did you mean `{lowered[near[0]]}`?" if near else f"known are: {', '.join(sorted(known))}"


def time_zone_fault(name: str) -> str | None:
    """Returns why a name is not a time zone's; None if it is."""
    try:
        ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        return f"unknown time zone `{name}`; write an IANA name, for example Europe/Vienna"
    return None


class Settings(BaseModel):
    """The base class of every mapping in a connection file: frozen, and strict about unknown keys.

    Raises:
        pydantic.ValidationError: A key is wrong, or unknown, in which case the closest known key is suggested; the
            message never contains a value from the file.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        coerce_numbers_to_str=True,
        hide_input_in_errors=True,
        populate_by_name=True,
        allow_inf_nan=False,
    )

    elsewhere: ClassVar[dict[str, str]] = {}
    """Keys that are often written here by mistake, and what to write instead."""

    @model_validator(mode="wrap")
    @classmethod
    def _known_keys(cls, data: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        if not isinstance(data, dict):
            return handler(data)
        known = [field.alias or name for name, field in cls.model_fields.items()]
        accepted = {*known, *cls.model_fields}
        errors = [
            line_error(
                (str(key),),
                f"unknown key `{key}`; {cls.elsewhere.get(str(key)) or did_you_mean(str(key), known)}",
            )
            for key in data
            if key not in accepted
        ]
        if not errors:
            return handler(data)
        try:
            value = handler({key: inner for key, inner in data.items() if key in accepted})
        except ValidationError as error:
            errors += [line_error(path, message) for path, message in messages(error)]
        refuse(errors)
        return value


class Tagged(Settings):
    """One of several kinds, distinguished by `type`, which is therefore always dumped."""

    type: str

    @model_validator(mode="after")
    def _mark_type_as_set(self) -> Self:
        self.__pydantic_fields_set__.add("type")
        return self

    @classmethod
    def kinds(cls) -> dict[str, Any]:
        """Returns every kind by the `type` that selects it in a connection file."""
        return {str(kind.model_fields["type"].default): kind for kind in cls.__subclasses__()}

"""Turns an XML body into JSON of a plain shape, with the rows as a list.

An element without attributes and elements is its text, or null if it is empty; any other is an object of its elements, of its
attributes, named with a leading underscore, and of the text between them, `_text`. An element that is repeated anywhere in the
body is a list everywhere. Names lose their namespace. All values are text.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from xml.etree.ElementTree import Element, ParseError

from defusedxml.common import DefusedXmlException
from defusedxml.ElementTree import fromstring

from rmm_assets.errors import BodyError
from rmm_assets.rows.json_text import json_text

_TEXT = "_text"
Path = tuple[str, ...]


def xml_as_json(body: bytes, rows: Sequence[str]) -> bytes:
    """Returns an XML body as JSON, with the rows as a list.

    Args:
        body: The body.
        rows: The names of the elements that lead to the rows, from the root; a last `*` means all elements there.

    Raises:
        BodyError: The body is not XML, defines entities or a document type, or has two values of one name.
    """
    try:
        root = fromstring(body, forbid_dtd=True)
    except DefusedXmlException:
        raise BodyError("not_xml", "the body is XML with a document type or entities, which are refused") from None
    except (ParseError, ValueError, LookupError):
        raise BodyError("not_xml", "the body is not XML") from None
    repeated = set[Path]()
    try:
        _note_repeated(root, (_name(root.tag),), repeated)
        lists = {tuple(rows)} | repeated
        value = _value(root, (_name(root.tag),), lists, tuple(rows))
    except RecursionError:
        raise BodyError("not_xml", "the body is XML that is nested too deeply") from None
    return json_text({_name(root.tag): value}).encode()


def _note_repeated(element: Element, path: Path, repeated: set[Path]) -> None:
    names = set[str]()
    for child in element:
        name = _name(child.tag)
        if name in names:
            repeated.add((*path, name))
        names.add(name)
        _note_repeated(child, (*path, name), repeated)


def _value(element: Element, path: Path, lists: set[Path], rows: Path) -> Any:
    if (*path, "*") == rows:
        return [_value(child, (*path, _name(child.tag)), lists, rows) for child in element]
    lone = path == rows[:-1]
    texts = [element.text, *(child.tail for child in element)]
    if not len(element) and not element.attrib and not lone:
        return element.text
    found: dict[str, Any] = {rows[-1]: []} if lone else {}
    for name, text in element.attrib.items():
        _put(found, f"_{_name(name)}", text)
    if text := "".join(filter(None, texts)).strip():
        _put(found, _TEXT, text)
    for child in element:
        name = _name(child.tag)
        value = _value(child, (*path, name), lists, rows)
        if (*path, name) in lists:
            items = found.setdefault(name, [])
            if not isinstance(items, list):
                raise BodyError("not_xml", f"an element and an attribute are both called `{name}`")
            items.append(value)
        else:
            _put(found, name, value)
    return found


def _put(found: dict[str, Any], name: str, value: Any) -> None:
    if name in found:
        raise BodyError("not_xml", f"an element has two values of the name `{name}`")
    found[name] = value


def _name(tag: str) -> str:
    return tag.rpartition("}")[2]

"""Fuzzes the decoders in separate processes: no body crashes the process or is decoded in two ways."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from rmm_assets.errors import BodyError
from rmm_assets.rows.decode import read_page, read_pages
from rmm_assets.rows.page import Page
from rmm_assets.rows.type_memory import TypeMemory
from rmm_assets_tests.examples import examples

# More with RMM_FUZZ_BODIES=200000.
BODIES = int(os.environ.get("RMM_FUZZ_BODIES", examples(2_500, 20_000)))
PROCESSES = examples(1, 4)

ROWS: list[Any] = [
    {"id": 1, "name": "a", "at": "2024-01-01T00:00:00Z", "org": {"id": 1, "n": None}, "tags": ["x"], "f": 0.5},
    {"id": 2, "name": None, "at": None, "org": None, "tags": [], "f": 1},
    {"id": 2**60, "name": 'q"\\', "org": {"id": [1, {"a": 2}]}, "tags": [None, "y"], "f": -0.0},
]
DOCUMENTS: list[tuple[str | None, bytes]] = [
    ("data", json.dumps({"data": ROWS, "total": 3, "next": None}).encode()),
    ("data", json.dumps({"at": "2024-01-01", "data": ROWS[:1]}, indent=1).encode()),
    ("data", b'{"data":[]}'),
    ("r.items", json.dumps({"r": {"items": ROWS, "n": 1}, "l": [{"a": 1}, {"b": 2}]}).encode()),
    (None, json.dumps(ROWS).encode()),
    ("$", json.dumps(ROWS[0]).encode()),
]
TOKENS = [b"null", b"{", b"}", b"[", b"]", b",", b":", b'"', b"\\", b" ", b"\n", b"0", b"-1", b"1e999", b"true", b'"x"']
TOKENS += [b"{}", b"[]", b'{"data":null}', b"[null]", b'[null,"x"]', b"[" * 40, b'{"a":' * 40, b"\0", b"\xff", b"NaN"]
TOKENS += [b'"data":', b'"id":', b"\xef\xbb\xbf", b"}\n{", b"]\n[", b"}null", b"\n\nnull\n", b"2024-01-01", b"[[[[]]]]"]


def mutants(seed: int, count: int) -> Iterator[tuple[str | None, bytes]]:
    """Yields bodies that were cut, doubled, patched and reordered; the same ones for the same seed."""
    chance = random.Random(seed)
    for _ in range(count):
        selector, body = chance.choice(DOCUMENTS)
        for _ in range(chance.choice([1, 1, 1, 2, 3])):
            at, end = sorted(chance.randrange(len(body) + 1) for _ in range(2))
            token = chance.choice(TOKENS)
            body = chance.choice(
                [
                    body[:at],
                    body[at:],
                    body[:at] + body[end:],
                    body[:at] + token + body[at:],
                    body[:at] + token + body[end:],
                    body[:at] + body[at:end] * 2 + body[end:],
                    token + body,
                    body + token,
                    token,
                    token + token,
                ]
            )
        yield selector, body


def outcome(read: Callable[..., Page], *args: Any, **options: Any) -> str:
    """Returns a decoder's result in a comparable form, in which -0.0 differs from 0 and 1 from true."""
    try:
        return shown(read(*args, **options))
    except BodyError as error:
        return error.reason


def shown(page: Page) -> str:
    return repr((page.rows, page.objects(), page.envelope, page.selected_type))


def compare(seed: int, count: int) -> None:
    """Decodes each body with every decoder; fails if they do not agree."""
    memories: dict[str | None, TypeMemory] = {}
    for number, (selector, body) in enumerate(mutants(seed, count)):
        expected = outcome(read_page, body, selector, exact=True)
        if number % 50 == 0:
            memories.clear()
        memory = memories.setdefault(selector, TypeMemory())
        whole = next(document for place, document in DOCUMENTS if place == selector)
        for name, mine in (("new", TypeMemory()), ("used", memory)):
            assert outcome(read_page, body, selector, mine) == expected, (name, selector, body)
            pages = read_pages([whole, body, whole], selector, mine)
            assert pages is None or shown(pages[1]) == expected, (name, selector, body)


def ended(code: str) -> None:
    """Runs code in a separate process; fails with its last output if the process fails."""
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", code], capture_output=True, text=True, timeout=6000, check=False
    )
    assert done.returncode == 0, f"ended with {done.returncode} at: {done.stdout[-300:]}\n{done.stderr[-3000:]}"


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(PROCESSES))
def test_no_mutated_body_crashes_the_process_and_both_decoders_agree(seed: int) -> None:
    ended(f"from {__name__} import compare; print('seed {seed}', flush=True); compare({seed}, {BODIES // PROCESSES})")


NOT_ROWS = [
    b"null",
    b" null ",
    b"\xef\xbb\xbfnull",
    b'null\n{"data":[]}',
    b"[null]",
    b'[null, "x"]',
    b"1",
    b'"x"',
    b"true",
]
NOT_ROWS += [
    b'{"data":[]}null',
    b'{"data":[]}\nnull\n{"data":[]}',
    b"[]null[]",
    b'[]} null {"_":[]',
    b"",
    b"[1]",
    b"{}null",
]


def refuse(bodies: list[bytes]) -> None:
    """Decodes bodies without rows with every decoder, before and after a valid one."""
    for selector, healthy in (("data", b'{"data":[{"id":1}]}'), ("$", b'[{"id":1}]'), (None, b'[{"id":1}]')):
        used = TypeMemory()
        read_page(healthy, selector, used)
        for body in bodies:
            print(selector, body, flush=True)
            expected = outcome(read_page, body, selector, exact=True)
            assert expected in ("not_json", "not_rows", "no_selector")
            for memory in (TypeMemory(), used):
                assert read_pages([body] * 3, selector, memory) is None
                assert read_pages([healthy, body], selector, memory) is None
                assert outcome(read_page, body, selector, memory) == expected


@pytest.mark.slow
def test_a_body_without_rows_is_refused_without_crashing_the_process() -> None:
    ended(f"from {__name__} import NOT_ROWS, refuse; refuse(NOT_ROWS)")

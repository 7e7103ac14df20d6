"""Tests that hashes equal SipHash's, whatever a string's neighbours."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rmm_assets.rows.siphash import PROCESS_KEY, Key, hash_records, hash_strings

_M = 2**64 - 1


def reference(data: bytes, key: Key) -> bytes:
    """Computes SipHash-128 as in its paper, one string at a time."""
    v = [0x736F6D6570736575, 0x646F72616E646F6D ^ 0xEE, 0x6C7967656E657261, 0x7465646279746573]
    v = [v[0] ^ key.low, v[1] ^ key.high, v[2] ^ key.low, v[3] ^ key.high]

    def turn(x: int, bits: int) -> int:
        return ((x << bits) | (x >> (64 - bits))) & _M

    def mix(rounds: int) -> None:
        for _ in range(rounds):
            v[0] = (v[0] + v[1]) & _M
            v[1] = turn(v[1], 13) ^ v[0]
            v[0] = turn(v[0], 32)
            v[2] = (v[2] + v[3]) & _M
            v[3] = turn(v[3], 16) ^ v[2]
            v[0] = (v[0] + v[3]) & _M
            v[3] = turn(v[3], 21) ^ v[0]
            v[2] = (v[2] + v[1]) & _M
            v[1] = turn(v[1], 17) ^ v[2]
            v[2] = turn(v[2], 32)

    padded = data + b"\0" * (7 - len(data) % 8) + bytes([len(data) % 256])
    for start in range(0, len(padded), 8):
        word = int.from_bytes(padded[start : start + 8], "little")
        v[3] ^= word
        mix(key.rounds)
        v[0] ^= word
    found = b""
    for part, mark in ((2, 0xEE), (1, 0xDD)):
        v[part] ^= mark
        mix(key.last_rounds)
        found += (v[0] ^ v[1] ^ v[2] ^ v[3]).to_bytes(8, "little")
    return found


def test_published_vectors() -> None:
    key = Key(0x0706050403020100, 0x0F0E0D0C0B0A0908, 2, 4)
    found = hash_strings(pa.array([b"", b"\0", bytes(range(7)), bytes(range(8))]), key)
    texts = [row.tobytes().hex() for row in found]
    assert texts[:2] == ["a3817f04ba25a8e66df67214c7550293", "da87c1d86b99af44347659119b22fc45"]
    assert texts == [reference(data, key).hex() for data in (b"", b"\0", bytes(range(7)), bytes(range(8)))]


@settings(deadline=None)
@given(st.lists(st.binary(max_size=300), max_size=20))
def test_a_string_s_hash_does_not_depend_on_its_neighbours(strings: list[bytes]) -> None:
    array = pa.array([b"before", *strings, None], pa.binary()).slice(1)
    found = hash_strings(array)[: len(strings)]
    assert [row.tobytes() for row in found] == [reference(data, PROCESS_KEY) for data in strings]


def test_records_are_hashed_word_by_word() -> None:
    parts = [np.array([1, 2, 3], np.uint64), np.array([[4, 5], [6, 7], [8, 2**64 - 1]], np.uint64)]
    expected = [reference(np.array(row, "<u8").tobytes(), PROCESS_KEY) for row in ([1, 4, 5], [2, 6, 7], [3, 8, _M])]
    assert [row.tobytes() for row in hash_records(parts)] == expected


@pytest.mark.slow
def test_every_process_has_its_own_key() -> None:
    code = "from rmm_assets.rows.siphash import PROCESS_KEY; print(PROCESS_KEY)"
    keys = {subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout for _ in range(2)}
    assert len(keys) == 2

"""Hashes columns of byte strings to 128 bits with SipHash-1-3, all strings of a column at a time.

SipHash is a keyed hash: without the key nobody can choose strings that collide. Each process draws a new key, as hashes are
compared only within one read. The chance that two different strings collide is 2**-128; that any of a billion do, one in
10**20. Source: https://www.aumasson.jp/siphash; the 128-bit variant is the reference code's, and 1-3 rounds are those of
CPython and Rust.
"""

from __future__ import annotations

import secrets
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

# For each string, the two halves of its hash.
Hashes = np.ndarray[Any, np.dtype[np.uint64]]
_Words = np.ndarray[Any, np.dtype[np.uint64]]


class Key(NamedTuple):
    """Holds the secret key and the numbers of rounds per word and at the end."""

    low: int
    high: int
    rounds: int = 1
    last_rounds: int = 3


PROCESS_KEY = Key(secrets.randbits(64), secrets.randbits(64))

_START = (0x736F6D6570736575, 0x646F72616E646F6D, 0x6C7967656E657261, 0x7465646279746573)
_PADDING = np.zeros(8, np.uint8)
_ALL = np.uint64(0xFFFFFFFFFFFFFFFF)


def hash_strings(array: pa.Array, key: Key = PROCESS_KEY) -> Hashes:
    """Hashes each string or binary value of an array; the hash of a null is undefined."""
    _, offsets, data = array.buffers()
    width: Any = np.int64 if pa.types.is_large_binary(array.type) or pa.types.is_large_string(array.type) else np.int32
    ends = np.frombuffer(offsets, width)[array.offset : array.offset + len(array) + 1].astype(np.int64)
    raw = np.frombuffer(data, np.uint8) if data is not None else np.zeros(0, np.uint8)
    return _hash(raw[ends[0] : ends[-1]], ends[:-1] - ends[0], np.diff(ends), key)


def hash_records(parts: list[_Words], key: Key = PROCESS_KEY) -> Hashes:
    """Hashes records of several words each.

    Args:
        parts: Arrays with one row per record, each row of one or more words.
        key: The hash key.
    """
    words = np.column_stack(parts).astype("<u8", copy=False)
    count, size = words.shape[0], 8 * words.shape[1]
    starts = np.arange(count, dtype=np.int64) * size
    return _hash(np.ascontiguousarray(words).view(np.uint8).reshape(-1), starts, np.full(count, size, np.int64), key)


def _hash(data: np.ndarray[Any, Any], starts: np.ndarray[Any, Any], lengths: np.ndarray[Any, Any], key: Key) -> Hashes:
    """Hashes byte strings stored in one array, taking the next eight bytes of all of them in each step."""
    count = len(lengths)
    if not count:
        return np.zeros((0, 2), np.uint64)
    blocks = lengths >> 3
    # Longest first, so that those with a next word are at the front.
    order = None if blocks.min() == blocks.max() else np.argsort(-blocks, kind="stable")
    if order is not None:
        starts, lengths, blocks = starts[order], lengths[order], blocks[order]
    padded = np.concatenate([data, _PADDING])
    # The eight bytes at each offset of the data.
    words = np.ndarray((len(data) + 1,), np.dtype("<u8"), padded.data, strides=(1,))
    halves = (key.low, key.high, key.low, key.high)
    state = [np.full(count, start ^ half, np.uint64) for start, half in zip(_START, halves)]
    state[1] ^= np.uint64(0xEE)
    spare = np.empty(count, np.uint64)
    has_word = np.searchsorted(-blocks, -np.arange(int(blocks[0]) + 1), "right")
    for index, active in enumerate(has_word.tolist()):
        now = [part[:active] for part in state]
        word = words[starts[:active] + 8 * index]
        # The last word holds the rest of the string and its length.
        ended = int(has_word[index + 1]) if index + 1 < len(has_word) else 0
        left = (lengths[ended:active] & 7).astype(np.uint64)
        mask = np.where(left > 0, _ALL >> ((np.uint64(64) - np.uint64(8) * left) & np.uint64(63)), np.uint64(0))
        word[ended:] = (word[ended:] & mask) | (lengths[ended:active].astype(np.uint64) << np.uint64(56))
        now[3] ^= word
        _mix(now, key.rounds, spare[:active])
        now[0] ^= word
    hashes = np.empty((count, 2), np.uint64)
    for half, mark in enumerate((0xEE, 0xDD)):
        state[2 - half] ^= np.uint64(mark)
        _mix(state, key.last_rounds, spare)
        hashes[:, half] = state[0] ^ state[1] ^ state[2] ^ state[3]
    if order is None:
        return hashes
    restored = np.empty_like(hashes)
    restored[order] = hashes
    return restored


def _mix(state: list[_Words], rounds: int, spare: _Words) -> None:
    """Applies rounds of SipHash in place."""
    a, b, c, d = state
    for _ in range(rounds):
        a += b
        c += d
        _turn(b, 13, spare)
        _turn(d, 16, spare)
        b ^= a
        d ^= c
        _turn(a, 32, spare)
        c += b
        a += d
        _turn(b, 17, spare)
        _turn(d, 21, spare)
        b ^= c
        d ^= a
        _turn(c, 32, spare)


def _turn(words: _Words, bits: int, spare: _Words) -> None:
    """Rotates each word to the left in place."""
    np.right_shift(words, np.uint64(64 - bits), out=spare)
    np.left_shift(words, np.uint64(bits), out=words)
    np.bitwise_or(words, spare, out=words)

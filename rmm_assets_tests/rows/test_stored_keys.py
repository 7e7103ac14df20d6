"""Tests that what is counted and found by key does not depend on the size of the parts that fit into memory."""

from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from rmm_assets.rows import stored_keys
from rmm_assets.rows.conflicts import repeated
from rmm_assets.rows.keys import KEY_TYPE, NO_KEY, Keys
from rmm_assets.rows.stored_keys import StoredKeys, parts_of
from rmm_assets.rows.tally import Tally, last_of_each

PARTS = pytest.mark.parametrize("rows", [7, 64, 1 << 17])


@pytest.fixture
def keys() -> Keys:
    """500 keys, of which 5 are missing and some occur two or three times."""
    random = np.random.default_rng(5)
    some = random.bytes(16 * 400)
    made = np.frombuffer(some, KEY_TYPE)[random.integers(0, 400, 500)]
    made[[3, 77, 78, 410, 499]] = NO_KEY
    return made


@PARTS
def test_each_key_is_in_one_part_and_parts_are_small(
    rows: int, keys: Keys, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(stored_keys, "PART_ROWS", rows)
    store = StoredKeys(tmp_path, [("number", "i8")])
    for start in range(0, 500, 9):
        store.add(keys[start : start + 9], number=np.arange(start, min(start + 9, 500)))
    parts = list(store.parts())
    assert len(parts) == parts_of(store) == -(-500 // rows)
    assert all(list(part["number"]) == list(places) for places, part in parts)
    assert all(list(part["key"]) == list(keys[places]) for places, part in parts)
    assert max(len(part) for _, part in parts) < 4 * rows
    seen = [set(part["key"].tolist()) for _, part in parts]
    assert sum(map(len, seen)) == len(set().union(*seen))
    found = np.sort(np.concatenate([places for places, _ in parts]))
    assert list(found) == [place for place in range(500) if keys[place] != NO_KEY]


@PARTS
def test_counts_masks_and_digests_are_those_of_all_keys(
    rows: int, keys: Keys, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(stored_keys, "PART_ROWS", rows)
    tally, other, store = Tally(tmp_path), Tally(), StoredKeys(tmp_path)
    for start in range(0, 500, 50):
        tally.add(keys[start : start + 50])
        assert tally.distinct == len({*keys[: start + 50].tolist()} - {b""})
        store.add(keys[start : start + 50])
    other.add(np.sort(keys)[::-1])
    times = Counter(keys.tolist())
    assert tally.keyless == times.pop(b"") == 5
    assert tally.distinct == len(times)
    assert tally.fingerprint() == other.fingerprint()
    assert tally.sequence() == hashlib.sha256(keys.tobytes()).hexdigest() != other.sequence()
    last, again = last_of_each(store), repeated(store)
    assert last is not None and again is not None
    listed = keys.tolist()
    assert last.tolist() == [key not in listed[place + 1 :] or not key for place, key in enumerate(listed)]
    assert again.tolist() == [times[key] > 1 for key in listed]
    assert store.taken(again).tolist() == [key for key in listed if times[key] > 1]


def test_a_large_read_is_kept_on_disk(keys: Keys, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(stored_keys, "PART_ROWS", 100)
    monkeypatch.setattr("tempfile.TemporaryFile", lambda **options: (tmp_path / "kept").open("w+b"))
    store = StoredKeys(tmp_path)
    store.add(keys[:100])
    assert not (tmp_path / "kept").exists()
    store.add(keys[100:])
    list(store.batches())
    assert (tmp_path / "kept").stat().st_size == 500 * 16

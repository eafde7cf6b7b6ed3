"""Compiled programs in a folder that several processes share."""

import os
import threading
from pathlib import Path

import jax
import pytest
from jax._src import lru_cache

from fedjax_med.execution import program_cache


@pytest.fixture
def cache(tmp_path):
    return lru_cache.LRUCache(str(tmp_path), max_size=-1)


def test_an_entry_comes_to_its_place_whole(tmp_path, cache, monkeypatch):
    replace, seen = os.replace, []

    def look(source, target):
        seen.append((list(tmp_path.glob("*-cache")), Path(source).read_bytes()))
        replace(source, target)

    monkeypatch.setattr(os, "replace", look)
    cache.put("key", b"program")
    assert seen == [([], b"program")]
    assert [one.name for one in tmp_path.iterdir()] == ["key-cache"]
    assert cache.get("key") == b"program"


def test_a_write_that_fails_leaves_nothing(tmp_path, cache, monkeypatch):
    def full(source, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space"):
        cache.put("key", b"program")
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_has_left_of_an_entry_is_replaced(tmp_path, cache):
    (tmp_path / "key-cache").write_bytes(b"prog")
    cache.put("key", b"program")
    assert cache.get("key") == b"program"


def test_who_reads_while_another_one_writes_gets_all_or_nothing(cache):
    program = os.urandom(2**22)
    writer = threading.Thread(target=cache.put, args=("key", program))
    writer.start()
    got = [cache.get("key")]
    while writer.is_alive():
        got.append(cache.get("key"))
    writer.join()
    assert {one for one in got if one is not None} <= {program}
    assert cache.get("key") == program


def test_with_a_limit_of_size_jax_writes_under_its_lock(tmp_path, monkeypatch):
    called = []
    monkeypatch.setattr(program_cache, "_put", lambda *arguments: called.append(arguments[1:]))
    cache = lru_cache.LRUCache(str(tmp_path), max_size=-1)
    cache.eviction_enabled = True
    cache.put("key", b"program")
    assert called == [("key", b"program")]


def test_commands_write_whole_entries(tmp_path, monkeypatch):
    monkeypatch.setattr(lru_cache.LRUCache, "put", program_cache._put)
    monkeypatch.setattr(jax.config, "update", lambda name, value: None)
    program_cache.cache_programs(str(tmp_path))
    assert lru_cache.LRUCache.put is program_cache._put_whole

import contextlib
import errno
import os
import socket
import stat

import pytest

from fedjax_med import files
from fedjax_med.errors import UserError


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_on_the_disk_before_it_takes_its_name_and_the_name_before_it_counts(
    tmp_path, file_calls
):
    file = tmp_path / "new" / "deep" / "file"
    with files.replacing(file) as temporary:
        temporary.write_text("whole")
        assert not file.exists()
    assert file.read_text() == "whole"
    assert file_calls == [
        ("sync", str(tmp_path)),  # "new" is in it
        ("sync", str(tmp_path / "new")),
        ("sync", str(temporary)),
        ("rename", str(file)),
        ("sync", str(file.parent)),
    ]
    assert names(file.parent) == ["file"]


def test_what_fails_leaves_the_old_file_and_nothing_beside_it(tmp_path):
    file = tmp_path / "file"
    file.write_text("old")
    with contextlib.suppress(ZeroDivisionError), files.replacing(file) as temporary:
        temporary.write_text("half")
        raise ZeroDivisionError
    assert file.read_text() == "old"
    assert names(tmp_path) == ["file"]


def test_a_disk_that_fails_when_it_is_synced_keeps_the_old_file(tmp_path, monkeypatch):
    file = tmp_path / "file"
    file.write_text("old")

    def broken(descriptor):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", broken)
    with (
        pytest.raises(UserError, match="Input/output error"),
        files.replacing(file) as temporary,
    ):
        temporary.write_text("new")
    assert file.read_text() == "old"


def test_a_secret_is_never_readable_by_others(tmp_path):
    file = tmp_path / "secret"
    before = os.umask(0)
    try:
        with files.replacing(file, mode=0o600) as temporary:
            assert stat.S_IMODE(temporary.stat().st_mode) == 0o600
            temporary.write_text("secret")
    finally:
        os.umask(before)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


@pytest.mark.parametrize("links", [True, False], ids=["links", "no links"])
def test_of_two_that_write_a_new_file_the_first_one_wins_if_it_is_to_stay(
    tmp_path, monkeypatch, links
):
    """Where the file system has no links, a new file is written all the same."""

    def refused(*_, **__):
        raise PermissionError(1, "Operation not permitted")

    if not links:
        monkeypatch.setattr(os, "link", refused)
    file = tmp_path / "file"
    with files.replacing(file, stays=True) as temporary:
        temporary.write_text("first")
    assert file.read_text() == "first"
    with files.replacing(file, stays=links) as temporary:
        temporary.write_text("second")
    assert file.read_text() == ("first" if links else "second")
    assert names(tmp_path) == ["file"]
    assert file.stat().st_nlink == 1


def test_what_killed_processes_left_is_removed_and_what_is_being_written_stays(tmp_path):
    left = tmp_path / "deep" / ".evaluation.json.4711.0123abcd.tmp"
    others = [tmp_path / ".hidden.tmp", tmp_path / "evaluation.json.4711.0123abcd.tmp"]
    for file in (left, *others):
        file.parent.mkdir(exist_ok=True)
        file.write_text("half")
    with files.replacing(tmp_path / "file") as temporary:
        temporary.write_text("whole")
        files.clear_temporary(tmp_path)
        assert temporary.exists()
    assert not left.exists()
    assert all(file.exists() for file in others)
    assert (tmp_path / "file").read_text() == "whole"


def test_who_writes_a_file_removes_what_killed_processes_left_of_it(tmp_path):
    left = tmp_path / ".a[1].json.4711.0123abcd.tmp"
    others = [tmp_path / ".b.json.4711.0123abcd.tmp", tmp_path / ".a[1].json.tmp"]
    for file in (left, *others):
        file.touch()
    with files.replacing(tmp_path / "a[1].json") as first:
        assert not left.exists()
        with files.replacing(tmp_path / "a[1].json") as second:
            second.write_text("second")
        first.write_text("first")
    assert names(tmp_path) == sorted(["a[1].json", *(other.name for other in others)])
    assert (tmp_path / "a[1].json").read_text() == "first"


@pytest.mark.parametrize("locked", [True, False])
def test_a_file_that_another_process_took_for_abandoned_is_written_all_the_same(
    tmp_path, monkeypatch, locked
):
    """It did so before the file was locked."""
    lock, taken = files.try_lock, []

    def late(descriptor):
        if taken:
            return lock(descriptor)
        taken.extend(tmp_path.iterdir())
        if locked:
            taken[0].unlink()  # as it was about to do where it still holds the lock
        return locked

    monkeypatch.setattr(files, "try_lock", late)
    with files.replacing(tmp_path / "file") as temporary:
        assert temporary not in taken
        temporary.write_text("whole")
    assert names(tmp_path) == ["file"]


def test_without_locks_what_killed_processes_left_goes_after_a_day(tmp_path, monkeypatch):
    def fail(descriptor, how):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(files.fcntl, "flock", fail)
    old, new = (tmp_path / f".file.4711.0123456{digit}.tmp" for digit in "89")
    for file in (old, new):
        file.touch()
    os.utime(old, (0, 0))
    files.clear_temporary(tmp_path)
    assert names(tmp_path) == [new.name]
    with files.replacing(tmp_path / "file") as temporary:
        temporary.write_text("whole")


def test_a_tree_is_synced_from_its_leaves_to_its_name(tmp_path, file_calls):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "file").write_text("x")
    files.sync_tree(tmp_path / "a")
    places = ["a/b/file", "a/b", "a", "."]
    assert file_calls == [("sync", str(tmp_path / place)) for place in places]


def test_regular_files_are_read_and_links_followed(tmp_path):
    file, link = tmp_path / "file", tmp_path / "link"
    file.write_bytes(b"12345")
    link.symlink_to(file)
    assert files.read_regular(link, 5) == b"12345"
    with pytest.raises(OSError, match="expected at most") as error:
        files.read_regular(link, 4)
    assert "MB" in error.value.strerror


def test_nothing_else_is_opened_for_long_or_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    for name, kind in {
        "pipe": "a named pipe",
        "link": "a named pipe",
        "zero": "a device",
        ".": "a folder",
    }.items():
        with pytest.raises(OSError, match=f"expected a regular file, got {kind}"):
            files.read_regular(tmp_path / name, 10)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
        with pytest.raises(OSError, match=r"socket|No such device"):
            files.read_regular(tmp_path / "socket", 10)


def test_no_more_memory_is_asked_for_than_a_file_has(tmp_path, monkeypatch):
    (tmp_path / "file").write_bytes(b"12345")
    asked, some = [], files._some

    def counted(stream, count, path):
        asked.append(count)
        return some(stream, count, path)

    monkeypatch.setattr(files, "_some", counted)
    assert files.read_regular(tmp_path / "file", 2**60) == b"12345"
    assert max(asked) < 100


def test_a_file_of_the_system_that_has_nothing_to_read_yet_is_not_waited_for(monkeypatch, tmp_path):
    """Such as /proc/kmsg: regular by its kind, and read without blocking it gives None."""
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    (tmp_path / "file").touch()
    monkeypatch.setattr(os, "open", lambda path, flags: reading)
    monkeypatch.setattr(files, "_check_regular", lambda *arguments: None)
    with pytest.raises(OSError, match="one to wait for"):
        files.read_regular(tmp_path / "file", 10)
    os.close(writing)


def test_two_that_replace_a_file_do_not_write_into_each_others(tmp_path):
    """Processes of the same number, in two containers that share a folder."""
    with files.replacing(tmp_path / "file") as one, files.replacing(tmp_path / "file") as other:
        one.write_text("one")
        other.write_text("other")
    assert (tmp_path / "file").read_text() == "one"
    assert names(tmp_path) == ["file"]


def test_a_file_that_claims_to_be_empty_is_read_within_the_limit():
    """Those of /proc say that they hold nothing, and some never end."""
    with pytest.raises(OSError, match="expected at most"):
        files.read_regular("/proc/self/maps", 10)

"""Connections by which processes notice the end of one another, between threads of this process."""

import contextlib
import queue
import socket
from types import SimpleNamespace

import pytest

from fedjax_med.execution import watch
from fedjax_med.execution.watch import Watch


class Processes:
    """Three processes that have met; `ended` gets (who notices, who has ended)."""

    def __init__(self):
        self.ended = queue.Queue()
        self.all = [Watch(me, lambda lost, me=me: self.ended.put((me, lost))) for me in range(3)]
        self.where = self.all[0].listen()
        for one in self.all[1:]:
            one.connect("localhost", self.where)
        while len(self.all[0]._open) < 2:  # another thread greets them
            pass

    def kill(self, me):
        """Close all connections of a process, as its system does."""
        self.all[me]._over = True  # its threads end with it
        for one in self.all[me]._open:
            with contextlib.suppress(OSError):  # closed already
                one.shutdown(socket.SHUT_RDWR)

    def notices(self):
        """What the two that are left say, once each."""
        found = {self.ended.get(timeout=10) for _ in range(2)}
        assert self.ended.empty()
        return found


def test_all_notice_that_one_is_killed_and_which():
    processes = Processes()
    processes.kill(2)
    assert processes.notices() == {(0, 2), (1, 2)}


def test_all_notice_that_the_first_one_is_killed():
    processes = Processes()
    processes.kill(0)
    assert processes.notices() == {(1, 0), (2, 0)}


def test_who_ends_as_all_do_is_not_missed():
    processes = Processes()
    for one in processes.all:
        one.bye()
    processes.kill(1)
    processes.kill(0)
    with pytest.raises(queue.Empty):
        processes.ended.get(timeout=0.3)


@pytest.mark.parametrize("said", [b"", b"nonsense\n", b"token 1\n", b"\xff\xfe 1\n", b"x" * 300])
def test_a_stranger_who_connects_and_goes_is_not_missed(said):
    processes = Processes()
    port = int(processes.where.split()[0])
    with socket.create_connection(("localhost", port)) as one:
        one.sendall(said)
    with pytest.raises(queue.Empty):
        processes.ended.get(timeout=0.1)
    assert len(processes.all[0]._open) == 2


def test_a_first_process_that_cannot_be_reached_is_told_in_one_line(capfd):
    with socket.create_server(("localhost", 0)) as server:
        port = server.getsockname()[1]  # from here on nobody listens
    store = SimpleNamespace(blocking_key_value_get=lambda name, time: f"{port} token")
    watch.begin(store, 1, "localhost:1234")
    err = capfd.readouterr().err
    assert err.startswith("fedjax-med (process 1): process 0 cannot be reached at localhost")
    assert err.count("\n") == 1


def test_the_end_of_another_process_is_told_in_one_line(monkeypatch, capfd):
    codes = []
    monkeypatch.setattr(watch.os, "_exit", codes.append)
    watch.end(1, 0)
    assert codes == [2]
    err = capfd.readouterr().err
    assert err.startswith("fedjax-med (process 1): process 0 has ended (killed, ")
    assert err.count("\n") == 1

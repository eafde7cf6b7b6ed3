"""Notices the end of another process of a run by a connection that its system closes.

JAX's own service notices it after its heartbeat's time limit, a minute or more, and ends the
process in C++. Here every process holds a TCP connection to the first one. The system closes it
when a process ends, however it ends, and probes it every few seconds in case a machine or the
network is lost; so neither a busy nor a paused process is taken for a dead one.
"""

import contextlib
import functools
import os
import secrets
import socket
import threading
from collections.abc import Callable
from typing import Any

_BYE = b"bye\n"  # said before an end that all processes know of
_PATIENCE = 30  # seconds to connect, and to hear who connects
# Seconds until an idle connection is probed, and between the probes; the number of probes.
_PROBES = {"TCP_KEEPIDLE": 3, "TCP_KEEPINTVL": 1, "TCP_KEEPCNT": 4}


class Watch:
    """The connections of one process.

    Args:
        me: the index of this process.
        lost: called with the index of a process that has ended, from another thread.
    """

    def __init__(self, me: int, lost: Callable[[int], None]) -> None:
        self._me, self._lost = me, lost
        self._open: list[socket.socket] = []
        self._lock = threading.Lock()
        self._over = False  # whether this process ends

    def listen(self) -> str:
        """Wait for the other processes, in the first one; return "PORT TOKEN" for `connect`."""
        token = secrets.token_hex(16)
        server = socket.create_server(("", 0))
        self._start(self._accept, server, token)
        return f"{server.getsockname()[1]} {token}"

    def connect(self, host: str, where: str) -> None:
        """Connect to the first process.

        Args:
            host: its address.
            where: what its `listen` returned.

        Raises:
            OSError: It cannot be reached.
        """
        port, token = where.split()
        one = socket.create_connection((host, int(port)), _PATIENCE)
        one.sendall(f"{token} {self._me}\n".encode())
        self._hold(one, 0)

    def bye(self) -> None:
        """Tell the others that this process ends, as all of them do."""
        with self._lock:
            self._over = True
            for one in self._open:
                with contextlib.suppress(OSError):
                    one.sendall(_BYE)

    def _accept(self, server: socket.socket, token: str) -> None:
        while True:
            one, _ = server.accept()
            self._start(self._greet, one, token)

    def _greet(self, one: socket.socket, token: str) -> None:
        """Hold the connection if it is from a process of this run."""
        with contextlib.suppress(OSError, ValueError):
            one.settimeout(_PATIENCE)
            said, process = _line(one).split()
            if secrets.compare_digest(said.encode(), token.encode()):
                self._hold(one, int(process))
                return
        one.close()

    def _hold(self, one: socket.socket, process: int) -> None:
        one.settimeout(None)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in _PROBES.items():
            if hasattr(socket, name):
                one.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
        with self._lock:
            self._open.append(one)
        self._start(self._follow, one, process)

    def _follow(self, one: socket.socket, process: int) -> None:
        """Wait for the end of a process, or for the news that the first one has of another."""
        said = ""
        with contextlib.suppress(OSError), one:
            said = _line(one)
        if f"{said}\n".encode() == _BYE:
            return
        ended = int(said) if said.isdigit() else process
        with self._lock:
            if self._over:
                return
            self._over = True
            for other in self._open:
                with contextlib.suppress(OSError):
                    other.sendall(f"{ended}\n".encode())
        self._lost(ended)

    @staticmethod
    def _start(target: Callable[..., None], *arguments: object) -> None:
        threading.Thread(target=target, args=arguments, daemon=True).start()


def _line(one: socket.socket) -> str:
    """Read a short line; "" if the connection ends before one."""
    text = b""
    while not text.endswith(b"\n") and len(text) < 200:
        if not (more := one.recv(1)):
            return ""
        text += more
    return text.decode("ascii", "replace").strip()


_watching: list[Watch] = []  # this process's, once it has joined the others


def begin(client: Any, me: int, coordinator: str) -> bool:
    """Connect the first process and each other one; if one ends, so does this process.

    Args:
        client: of JAX's key-value store, by which the first process says where it listens.
        me: the index of this process.
        coordinator: host and port of the first process.

    Returns:
        Whether this process is connected.
    """
    watch = Watch(me, functools.partial(end, me))
    if me == 0:
        client.key_value_set("watch", watch.listen())
        _watching.append(watch)
        return True
    where = str(client.blocking_key_value_get("watch", 2000 * _PATIENCE))
    host = coordinator.rpartition(":")[0].strip("[]")
    try:
        watch.connect(host, where)
    except OSError as error:
        _tell(
            me,
            f"process 0 cannot be reached at {host}, port {where.split()[0]} "
            f"({error.strerror or error}): if a process is killed, this one notices it after a "
            "minute or more.",
        )
        return False
    _watching.append(watch)
    return True


def say_bye() -> None:
    """Say to the other processes that this one ends as they do."""
    for watch in _watching:
        watch.bye()


def end(me: int, process: int) -> None:
    """End this process with one line, since `process` has ended."""
    _tell(
        me,
        f"process {process} has ended (killed, or for the reason that it gives), so this one ends, "
        "too. What was saved is intact: give the same command again in every process.",
    )
    os._exit(2)


def _tell(me: int, line: str) -> None:
    with contextlib.suppress(OSError):  # nobody reads it
        os.write(2, f"fedjax-med (process {me}): {line}\n".encode())

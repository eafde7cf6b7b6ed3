"""Passes on what a process and JAX's coordination service say, and keeps its end from the process.

JAX's client ends its process in C++, in a paragraph and a core dump, as soon as the connection to
the service is closed: when the first process is killed. It would come before `watch`, which needs
Python's lock. So the client is connected to this relay, in its own process, which stays open.
"""

import contextlib
import socket
import threading


class Relay:
    """A port of this machine that stands for the coordinator's, from connection to connection.

    Until `hold`, the end of the service is passed on, too, so that JAX tries to connect again.

    Args:
        coordinator: host and port of the service.
    """

    def __init__(self, coordinator: str) -> None:
        host, _, port = coordinator.rpartition(":")
        self._service = host.strip("[]"), int(port)
        self._holding = False
        self._open: list[socket.socket] = []  # kept from the garbage collector, which closes them
        server = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{server.getsockname()[1]}"
        threading.Thread(target=self._accept, args=(server,), daemon=True).start()

    def hold(self) -> None:
        """Stay open from now on when the service ends."""
        self._holding = True

    def _accept(self, server: socket.socket) -> None:
        while True:
            client, _ = server.accept()
            try:
                service = socket.create_connection(self._service)
            except OSError:  # not there yet
                client.close()
                continue
            self._open += [client, service]
            for one in (client, service):
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for pair in ((client, service), (service, client)):
                threading.Thread(target=self._pass_on, args=pair, daemon=True).start()

    def _pass_on(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while some := source.recv(2**16):
                sink.sendall(some)
        if self._holding:
            return
        for one in (source, sink):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

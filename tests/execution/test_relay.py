"""The relay between a process and JAX's service, between threads of this process."""

import contextlib
import socket

import pytest

from fedjax_med.execution.relay import Relay


class Service:
    """A service, the relay to it, and a client whose connection has gone through the relay."""

    def __init__(self):
        self.server = socket.create_server(("localhost", 0))
        self.relay = Relay(f"localhost:{self.server.getsockname()[1]}")
        self.client = self.connect()
        self.accepted, _ = self.server.accept()
        for one in (self.client, self.accepted):
            one.settimeout(10)

    def connect(self):
        host, port = self.relay.address.split(":")
        return socket.create_connection((host, int(port)))

    def end(self):
        """Close everything, as the system does when the process is killed."""
        self.server.close()
        self.accepted.close()


@pytest.fixture
def service():
    one = Service()
    yield one
    one.end()
    one.client.close()


def receive(one, length):
    got = b""
    while len(got) < length and (more := one.recv(2**16)):
        got += more
    return got


def test_bytes_go_both_ways_whole(service):
    many = bytes(range(256)) * 1000
    service.client.sendall(many)
    assert receive(service.accepted, len(many)) == many
    service.accepted.sendall(many[::-1])
    assert receive(service.client, len(many)) == many[::-1]


def test_while_the_processes_meet_the_end_of_the_service_is_seen_and_it_may_come_back(service):
    service.end()
    assert service.client.recv(1) == b""
    with contextlib.closing(service.connect()) as again:  # nobody listens
        again.settimeout(10)
        with contextlib.suppress(ConnectionResetError):
            assert again.recv(1) == b""


def test_after_hold_the_end_of_the_service_is_kept_from_the_client(service):
    service.relay.hold()
    service.end()
    service.client.settimeout(0.3)
    with pytest.raises(TimeoutError):
        service.client.recv(1)


def test_the_end_of_the_client_is_seen_by_the_service(service):
    service.client.close()
    assert service.accepted.recv(1) == b""

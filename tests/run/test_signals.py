import os
import signal

import pytest

from fedjax_med.run import signals
from fedjax_med.run.signals import stop_requests

REQUESTS = [number for name in signals._REQUESTS if (number := getattr(signal, name, None))]


@pytest.fixture
def ended(monkeypatch):
    """The exit codes with which the process would have ended at once."""
    codes = []
    monkeypatch.setattr(os, "_exit", codes.append)
    return codes


@pytest.fixture(autouse=True)
def not_ignored():
    """A shell starts commands in the background with some signals ignored."""
    ignored = [number for number in REQUESTS if signal.getsignal(number) is signal.SIG_IGN]
    for number in ignored:
        signal.signal(number, signal.SIG_DFL)
    yield
    for number in ignored:
        signal.signal(number, signal.SIG_IGN)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, *REQUESTS])
def test_every_signal_that_asks_for_an_end_requests_a_stop(number, capfd):
    before = signal.getsignal(number)
    with stop_requests() as received:
        assert not received
        signal.raise_signal(number)
        assert received == [number]
    assert signal.getsignal(number) == before
    assert capfd.readouterr().out.startswith("Stopping after this round")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_only_who_asks_by_hand_may_ask_twice(number, ended):
    """Terminals send SIGHUP more than once, and schedulers SIGTERM after SIGUSR1."""
    with stop_requests() as received:
        for request in (signal.SIGHUP, signal.SIGHUP, signal.SIGUSR1, number):
            signal.raise_signal(request)
        assert not ended
        signal.raise_signal(number)
    assert received[0] == signal.SIGHUP
    assert ended == [128 + number]


def test_what_nohup_ignores_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stop_requests() as received:
            signal.raise_signal(signal.SIGHUP)
        assert not received
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_signal_is_recorded_where_nobody_reads_the_output_any_more():
    reading, writing = os.pipe()
    os.close(reading)
    kept = os.dup(1)
    os.dup2(writing, 1)
    try:
        with stop_requests() as received:
            signal.raise_signal(signal.SIGTERM)
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(writing)
    assert received == [signal.SIGTERM]

"""What drives the peers of `make bench`, without any of them."""

import json
import subprocess
import sys
import time
from pathlib import Path

import as_markdown
import jax
import machine
import pytest
import rounds
from contender import Contender, TooSlowError, environment, versions

BENCHMARKS = Path(rounds.__file__).parent


def contender(folder, monkeypatch, seconds, limit):
    """A process that answers as a peer does; each of its rounds takes `seconds`."""
    (folder / "peers").mkdir()
    (folder / "peers" / "run_peer.py").write_text(
        f"import sys, time\nsys.path.insert(0, {str(BENCHMARKS)!r})\n"
        "from channel import Channel\nchannel = Channel()\nprint('chatter')\n"
        f"while channel.next():\n    time.sleep({seconds})\n"
        "    channel.done(lambda: time.sleep(0.5) or 0.5)\n"
    )
    monkeypatch.setattr("contender.HERE", folder)
    return Contender(sys.executable, "peer", folder / "work.npz", limit)


def test_contender_trains_when_told_and_says_how_long_it_took(tmp_path, monkeypatch):
    began = time.perf_counter()
    peer = contender(tmp_path, monkeypatch, 0.05, 60)
    assert peer.first <= time.perf_counter() - began - 0.5  # the loss is not in it
    assert peer.loss == 0.5
    assert peer.device == "cpu"
    assert 0.05 <= peer.turn(3) < peer.first + 1
    assert peer.quit() > 1


PEAKS = """
import subprocess, sys
from channel import peak_megabytes
print(peak_megabytes())
hold = "data = bytearray(300 * 2**20); print('held', flush=True); input()"
child = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {hold!r}])"
with subprocess.Popen([sys.executable, "-c", child], stdin=-1, stdout=-1) as running:
    running.stdout.readline()
    print(peak_megabytes())
    running.communicate(b"end")
print(peak_megabytes())
"""


def test_peak_memory_is_that_of_the_largest_process_while_it_runs_and_later():
    command = [sys.executable, "-c", PEAKS]
    answer = subprocess.run(command, cwd=BENCHMARKS, check=True, stdout=subprocess.PIPE, text=True)
    before, during, after = map(float, answer.stdout.split())
    assert 5 < before < 100
    assert 300 < during < 400
    assert 300 < after < 400


def test_contender_over_the_limit_is_ended(tmp_path, monkeypatch):
    with pytest.raises(TooSlowError, match="peer: no round within 1 s"):
        contender(tmp_path, monkeypatch, 60, 1)


def test_table_says_who_was_too_slow_and_what_was_reached():
    result = {
        "workload": "cnn",
        "device": "a card",
        "flops": 3e9,
        "matrix_peak": 6e10,
        "fraction_of_peak": 0.25,
        "peers": [
            {
                "peer": "one",
                "seconds": [0.5, 0.2],
                "ratio": 2.5,
                "ratios": [2.4, 2.5, 2.6],
                "seconds_to_first_round": [3.0, 4.0],
                "peak_megabytes": [100.0, 200.0],
                "devices": ["cpu", "a card"],
            },
            {"peer": "two", "over_seconds": 300.0},
            {"peer": "three", "not_on": "gpu"},
        ],
    }
    text = as_markdown.rounds(result)
    assert "| one on cpu | 0.5 / 0.2 | 2.50 (2.40 to 2.60) | 3 / 4 s | 100 / 200 MB |" in text
    assert "| two | no round within 300 s | | > 300 s | |" in text
    assert "| three | not compared on a gpu |" in text
    assert "On a card. A round is 3 GFLOP" in text
    assert text.endswith("reach 60 GFLOP/s. Our round reaches 25.0% of that.")
    assert len({line.count("|") for line in text.splitlines() if "|" in line}) == 1


class Scripted:
    """A contender with the seconds of its turns, one after the other, and a loss."""

    first, device = 3.0, "cpu"

    def __init__(self, seconds, loss):
        self.seconds, self.loss, self.ended = iter(seconds), loss, ""

    def turn(self, rounds):
        assert rounds == 10
        return next(self.seconds)

    def quit(self):
        self.ended = "quit"
        return 100.0

    def kill(self):
        self.ended = "killed"


ABOUT = {"platform": "cpu", "rounds_in_a_turn": 10, "flops": 3e9, "matrix_peak": 6e9, "device": "x"}


@pytest.fixture
def sides(monkeypatch, tmp_path):
    """A peer and our side, whose rounds are scripted."""
    pair = {"peer": Scripted([4, 9, 8], 0.5), "ours": Scripted([2, 3, 4], 0.5005)}
    name = lambda python, name, *_: pair["ours" if name == "ours" else "peer"]  # noqa: E731
    monkeypatch.setattr(rounds, "Contender", name)
    monkeypatch.setattr(rounds, "environment", lambda peer, folder: sys.executable)
    monkeypatch.setattr(rounds, "versions", lambda python: {"torch": "1"})
    monkeypatch.setattr(rounds, "write", lambda name, file: ABOUT)
    rounds.FLAGS(["rounds.py", "--pairs=3", "--peers=pfl", "--workload=linear"])
    return pair


def test_a_comparison_is_the_median_over_pairs_of_the_same_turns(sides, tmp_path):
    one = rounds.compare("pfl", tmp_path / "work", ABOUT, tmp_path)
    assert one["ratios"] == [2, 3, 2]
    assert one["ratio"] == 2
    assert one["seconds"] == [8, 3]
    assert one["peak_megabytes"] == [100.0, 100.0]
    assert {side.ended for side in sides.values()} == {"quit"}


@pytest.mark.parametrize("loss", [0.5021, float("nan")])
def test_who_did_other_work_ends_the_benchmark(sides, tmp_path, loss):
    sides["peer"].loss = loss
    with pytest.raises(SystemExit, match="pfl did other work"):
        rounds.compare("pfl", tmp_path / "work", ABOUT, tmp_path)
    assert {side.ended for side in sides.values()} == {"killed"}


def test_the_figures_are_printed_and_written(sides, tmp_path, capsys):
    rounds.FLAGS.json = str(tmp_path / "figures.json")
    rounds.main()
    found = json.loads((tmp_path / "figures.json").read_text())
    assert found["cores"] >= 1
    assert found["versions"]["python"].count(".") == 2
    assert found["machine"]
    (linear,) = found["workloads"]
    assert linear["workload"] == "linear"
    assert linear["fraction_of_peak"] == pytest.approx(3e9 / 3 / 6e9)
    assert as_markdown.rounds(linear) in capsys.readouterr().out


def test_who_is_too_slow_is_told_and_the_others_go_on(sides, tmp_path, monkeypatch):
    def slow(*_):
        raise TooSlowError

    monkeypatch.setattr(rounds, "Contender", slow)
    found = rounds.measure("linear", tmp_path)
    assert found["peers"] == [{"peer": "pfl", "over_seconds": 300.0}]
    assert found["fraction_of_peak"] is None


def test_an_environment_is_made_once_and_again_for_other_requirements(tmp_path, monkeypatch):
    (tmp_path / "peers").mkdir()
    wanted = tmp_path / "peers" / "peer.txt"
    wanted.write_text("one==1\n")
    called = []
    monkeypatch.setattr("contender.HERE", tmp_path)
    monkeypatch.setattr("contender.subprocess.run", lambda command, check: make(command, called))
    for text, commands in (("one==1\n", 2), ("one==1\n", 2), ("one==2\n", 4)):
        wanted.write_text(text)
        python = environment("peer", tmp_path / "all")
        assert python == str(tmp_path / "all" / "peer" / "bin" / "python")
        assert len(called) == commands
    assert called[1][1:] == ["-m", "pip", "install", "--quiet", "-r", str(wanted)]


def make(command, called):
    called.append(command)
    if "venv" in command:
        Path(command[-1]).mkdir(parents=True, exist_ok=True)


def test_versions_are_those_of_the_environment_that_is_asked():
    found = versions(sys.executable)
    assert found == machine.versions()
    assert found["jax"] == jax.__version__
    assert "fedjax" not in found


def test_on_an_accelerator_only_who_trains_there_is_compared(tmp_path):
    for device, peer in (("gpu", "flower"), ("gpu", "pfl"), ("tpu", "pytorch")):
        answer = rounds.compare(peer, tmp_path / "none", {"platform": device}, tmp_path)
        assert answer == {"peer": peer, "not_on": device}


def test_published_tables_are_those_of_the_last_figures():
    text = (BENCHMARKS / "README.md").read_text() + (BENCHMARKS.parent / "README.md").read_text()
    assert f"| {as_markdown.PEERS['pfl']} |" in text
    # As committed, not as the last `make bench` left it.
    command = ["git", "-C", str(BENCHMARKS), "show", "HEAD:./latest.json"]
    committed = subprocess.run(command, capture_output=True, text=True)
    if committed.returncode == 0:
        for table in as_markdown.published(json.loads(committed.stdout)):
            assert table in text


def test_ratios_are_told_beside_the_targets():
    peers = [{"peer": "pfl", "ratio": 1.234}, {"peer": "flower", "over_seconds": 3.0}]
    results = [{"workload": "cnn", "peers": peers}, {"workload": "linear", "peers": []}]
    plain, aims = as_markdown.ratios(results), as_markdown.ratios(results, targets=True)
    assert "| beside | `cnn` | `linear` |\n|---|---|---|\n" in plain
    assert "| pfl 0.6.0 | 1.23 | - |" in plain
    assert "| pfl 0.6.0 | 1.23 (1.3) | - (5) |" in aims
    assert "| Flower 1.42, simulation | - (3) | - (50) |" in aims

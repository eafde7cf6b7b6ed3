import gzip
import json
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest
import tiny

from fedjax_med.cli import main as cli
from fedjax_med.errors import UserError
from fedjax_med.run.profiling import Profile, parse_rounds


def test_rounds_are_one_or_a_range():
    assert list(parse_rounds("")) == []
    assert list(parse_rounds("3")) == [3]
    assert list(parse_rounds("3-5")) == [3, 4, 5]
    for wrong in ("x", "0", "5-3", "3:5", "-2"):
        with pytest.raises(UserError, match="such as 3-5"):
            parse_rounds(wrong)


def test_profiled_rounds_are_traced_and_told(tmp_path, capsys):
    profile = Profile(tmp_path, range(2, 4))
    for number in range(1, 6):
        profile.begin(number)
        with profile.part("training"):
            jax.jit(jnp.sin)(jnp.ones(3)).block_until_ready()
        with profile.part("checkpoint"):
            pass
        profile.end(number)
    profile.close()
    out = capsys.readouterr().out
    assert [line.split(":")[0] for line in out.splitlines()[:2]] == ["round 2", "round 3"]
    assert "training 0." in out
    assert "checkpoint 0.000 s" in out
    (trace,) = (tmp_path / "profile").rglob("perfetto_trace.json.gz")
    events = json.loads(gzip.decompress(trace.read_bytes()))["traceEvents"]
    assert sum(event.get("name") == "training" for event in events) == 2
    assert list((tmp_path / "profile").rglob("*.xplane.pb"))


@pytest.mark.slow
def test_training_tells_of_the_rounds_that_it_was_asked_to_profile(tmp_path, capsys):
    flags = [
        f"--config={tiny.__file__}",
        f"--workdir={tmp_path}",
        "--config.rounds=4",
        "--profile_rounds=2-3",
    ]
    assert cli.main(["train", *flags]) == 0
    out = capsys.readouterr().out
    told = re.findall(r"^round (\d): (.*)$", out, re.MULTILINE)
    assert [number for number, _ in told] == ["2", "3"]
    for _, parts in told:
        assert re.sub(r" \d+\.\d{3} s", "", parts) == "data, training, validation, checkpoint"
    assert f"The trace is in {tmp_path / 'profile'}." in out
    assert len(list((tmp_path / "profile").rglob("perfetto_trace.json.gz"))) == 1
    assert len(list((tmp_path / "profile").rglob("*.xplane.pb"))) == 1


def test_rounds_that_will_not_run_are_told(tmp_path, capsys):
    for rounds, first, left in (
        (range(41, 42), 1, "--profile_rounds=41-41: nothing is profiled, since rounds 1 to 40 are"),
        (range(3, 6), 6, "--profile_rounds=3-5: nothing is profiled, since rounds 6 to 40 are"),
        (range(3, 6), 41, "since no round is left"),
    ):
        Profile(tmp_path, rounds).check(first, 40)
        assert left in capsys.readouterr().out
    for rounds, first in ((range(0), 1), (range(40, 50), 1), (range(3, 6), 5)):
        Profile(tmp_path, rounds).check(first, 40)
        assert capsys.readouterr().out == ""


def test_peak_memory_is_that_of_this_process():
    script = (
        "from fedjax_med.run.profiling import peak_memory\nprint(peak_memory())\n"
        "held = bytearray(2**30)\ndel held\nprint(peak_memory())"
    )
    answer = subprocess.run(
        [sys.executable, "-c", script], check=True, stdout=subprocess.PIPE, text=True
    )
    before, after = answer.stdout.splitlines()
    assert before.endswith(" GiB at most")
    assert 1 <= float(after.split()[0]) <= float(before.split()[0]) + 1.02


def test_without_rounds_nothing_is_written(tmp_path, capsys):
    profile = Profile(tmp_path, range(0))
    profile.begin(1)
    profile.end(1)
    profile.close()
    assert capsys.readouterr().out == ""
    assert not (tmp_path / "profile").exists()

"""Where the noise of private runs comes from, and that no two runs share it."""

import itertools
import multiprocessing
import os
import threading
from pathlib import Path

import numpy as np
import pytest

from fedjax_med.core.client_map import ClientMap
from fedjax_med.errors import UserError
from fedjax_med.experiment import config, resolve
from fedjax_med.experiment.config import Checkpoint, Client, Experiment, Privacy, Spec
from fedjax_med.models.pretrained import weights
from fedjax_med.run import noise_key, provenance

# --- what makes two runs the same one ------------------------------------------------------------


def tag(data="data", noise=2.0, **changes):
    changes = {"privacy": Privacy("client"), **changes}
    values = config.to_dict(resolve.complete(Experiment(**changes)))
    made = provenance.identity(values, data, ClientMap(sequential=False))
    return made | {"privacy": {"noise_multiplier": noise}}


def constant(rounds):
    return {"client": Client(schedule="constant"), "rounds": rounds}


OTHERS = {
    "the learning rate": {"client": Client(optimizer=Spec("adamw", {"learning_rate": 0.01}))},
    "the seed": {"seed": 1},
    "the data": {"data": "other data"},
    "the noise": {"noise": 2.0000000000000004},
    "the clip": {"privacy": Privacy("client", 0.5)},
    "the unit": {"privacy": Privacy("example")},
    "the algorithm": {"algorithm": Spec("fed_prox")},
    "an option in a list": {"transforms": [Spec("top_k", {"share": 0.25})]},
    "the rounds of a cosine": {"rounds": 41},
    "one of the hospitals": {"setting": "local"},
    "a text beyond ASCII": {"pretrained": "gewichte-ä.pth"},
    "the same text otherwise": {"pretrained": "gewichte-a\u0308.pth"},
}
SAME = {
    "the name": {"name": "another"},
    "the way to map": {"map_clients": "sequential"},
    "where the images are": {"image_storage": "disk"},
    "how often is validated": {"validate_every": 3},
    "the views": {"tta_views": 4},
    "the calibration": {"calibrate": True},
    "the operating points": {"operating": config.Operating("a", 0.8, 0.1)},
    "what is kept": {"checkpoint": Checkpoint(every=1, keep_last=9, tested="last")},
    "the budget": {"privacy": Privacy("client", budget=9.0)},
    "an integer for a float": {"privacy": Privacy("client", clip_norm=1)},
    "a default that is given": {"algorithm": Spec("fed_avg", {"keep_optimizer": False})},
}


@pytest.mark.parametrize("name", OTHERS)
def test_another_run_is_refused_and_has_another_digest(name):
    assert provenance.differences(tag(), tag(**OTHERS[name]))
    assert provenance.run_digest(tag()) != provenance.run_digest(tag(**OTHERS[name]))


def test_no_two_of_the_others_have_one_digest():
    assert len({provenance.run_digest(tag(**changes)) for changes in OTHERS.values()}) == len(
        OTHERS
    )


@pytest.mark.parametrize("name", SAME)
def test_the_same_run_may_go_on_and_has_the_same_digest(name):
    assert provenance.differences(tag(), tag(**SAME[name])) == []
    assert provenance.run_digest(tag()) == provenance.run_digest(tag(**SAME[name]))


def test_version_with_other_random_streams_has_other_noise(monkeypatch):
    """Cohorts and local training may differ: the same noise twice would show by how much."""
    before = provenance.run_digest(tag())
    monkeypatch.setattr(provenance, "STREAMS", provenance.STREAMS + 1)
    assert provenance.run_digest(tag()) != before


def test_more_rounds_are_the_same_run_where_the_schedule_does_not_depend_on_them():
    few, many = tag(**constant(4)), tag(**constant(9))
    assert provenance.run_digest(few) == provenance.run_digest(many)
    assert provenance.run_digest(few) != provenance.run_digest(tag(**constant(9), noise=2.5))


def test_where_a_table_lies_is_no_matter():
    here, there = (
        tag(partition=Spec("by_column", {"path": path})) for path in ("/here.csv", "/there.csv")
    )
    assert provenance.run_digest(here) == provenance.run_digest(there)


def test_what_computes_is_no_matter(monkeypatch):
    before = provenance.run_digest(tag())
    monkeypatch.setattr(provenance, "code_version", lambda: "9.9.9+another")
    assert tag()["computed by"]["the code"] == "9.9.9+another"
    assert provenance.run_digest(tag()) == before


VALUES = [0, -0.0, 1, 1.0, True, 0.1, 0.1 + 1e-17, 2**53, 2.0**53, 2**53 + 1, 1e300, -1, "1", "ä"]
VALUES += [
    "a\u0308",
    "\ud800",
    [1, [2.0]],
    [1.0, [2]],
    [],
    "",
    {"a": 1, "b": 2},
    {"b": 2.0, "a": 1},
]
VALUES += [float("inf"), "Infinity", float("-inf"), None]


def test_values_that_are_equal_and_no_others_read_the_same():
    for one, other in itertools.combinations(VALUES, 2):
        assert (provenance._text(one) == provenance._text(other)) == (one == other), (one, other)


def test_nan_is_one_value():
    assert (
        provenance._text(float("nan"))
        == provenance._text([np.nan])[1:-1]
        != provenance._text("NaN")
    )


# --- from the file to the key of a run -----------------------------------------------------------


def test_secrets_of_runs_and_of_workdirs_have_nothing_in_common():
    given = itertools.product(("ab" * 32, "cd" * 32), ("one", "other"))
    made = [noise_key.derive(*each) for each in given]
    assert len({*made, "ab" * 32, "cd" * 32}) == 6
    assert all(len(bytes.fromhex(one)) == 32 for one in made)
    assert noise_key.derive("ab" * 32, "one") == made[0]


def test_a_run_that_goes_on_keeps_the_digest_that_it_began_with(tmp_path):
    begun = noise_key.of_run(tmp_path, {}, tag())
    later = tag() | {"experiment": tag()["experiment"] | {"a field of a later version": 1}}
    assert noise_key.of_run(tmp_path, {"noise": begun[1]}, later) == begun
    assert noise_key.of_run(tmp_path, {}, later)[1] != begun[1]
    assert noise_key.of_run(tmp_path, {"a checkpoint": "of before"}, tag()) == begun


def test_other_first_weights_under_the_same_name_are_another_run(tmp_path, monkeypatch):
    tensors = {"w": np.ones(3, np.float32), "b": np.zeros(2, np.float32)}
    monkeypatch.setattr(weights, "read", lambda source: tensors)
    given = tag(pretrained="weights.safetensors")
    before = noise_key.of_run(tmp_path, {}, given)
    tensors = dict(reversed(tensors.items()))
    assert noise_key.of_run(tmp_path, {}, given) == before
    for other in (
        {**tensors, "b": np.full(2, 1e-6, np.float32)},
        {**tensors, "w": np.ones((3, 1), np.float32)},
        {"w": tensors["w"], "c": tensors["b"]},
    ):
        tensors = other
        changed = noise_key.of_run(tmp_path, {}, given)
        assert changed[0] != before[0]
        assert changed[1] != before[1]
    # Who goes on has the weights in the checkpoint, and the file may be gone.
    monkeypatch.setattr(weights, "read", lambda source: pytest.fail("read again"))
    assert noise_key.of_run(tmp_path, {"noise": before[1]}, given) == before


@pytest.mark.parametrize("place", [0, 31, 63])
def test_a_secret_with_another_digit_is_refused_by_the_checkpoint(tmp_path, place):
    text, run = noise_key.of_run(tmp_path, {}, tag())
    saved = {"noise": run, noise_key.CHECK: noise_key.check(text)}
    assert noise_key.of_run(tmp_path, saved, tag()) == (text, run)
    file = tmp_path / noise_key.NAME
    digits = list(file.read_text())
    digits[place] = "1" if digits[place] == "0" else "0"
    file.write_text("".join(digits))
    with pytest.raises(UserError, match=r"is not the secret .* came from") as told:
        noise_key.of_run(tmp_path, saved, tag())
    assert "\n" not in str(told.value)
    # The checkpoint of an earlier version has no check.
    assert noise_key.of_run(tmp_path, {"noise": run}, tag())[0] != text


def test_the_check_of_a_secret_says_nothing_of_it():
    secrets = [noise_key.derive("ab" * 32, run) for run in ("one", "other")]
    checks = [noise_key.check(one) for one in secrets]
    assert checks[0] != checks[1]
    assert len(checks[0]) == 16
    assert not any(check in one for check, one in itertools.product(checks, secrets))


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o620, 0o601])
def test_a_secret_that_others_can_read_is_refused(tmp_path, mode):
    text = noise_key.secret(tmp_path, started=False)
    file = tmp_path / noise_key.NAME
    file.chmod(mode)
    for started in (False, True):
        with pytest.raises(UserError, match=rf"the mode {mode:o}.*chmod 600 {file}.*anew") as told:
            noise_key.secret(tmp_path, started)
        assert "\n" not in str(told.value)
    assert file.read_text().strip() == text
    file.chmod(0o600)
    assert noise_key.secret(tmp_path, started=True) == text
    assert [path.name for path in tmp_path.iterdir()] == [noise_key.NAME]


def test_where_no_file_can_be_for_its_owner_alone_none_is_refused(tmp_path, monkeypatch):
    """As on FAT, where every file seems to have the same mode."""
    text = noise_key.secret(tmp_path, started=False)
    fstat = os.fstat

    def open_to_all(descriptor):
        found = fstat(descriptor)
        return os.stat_result((found.st_mode | 0o077, *found[1:]))

    monkeypatch.setattr(os, "fstat", open_to_all)
    assert noise_key.secret(tmp_path, started=True) == text


def make_pipe(file):
    os.mkfifo(file, 0o600)


def link_to_nothing(file):
    file.symlink_to(file.parent / "nothing")


def link_to_zeros(file):
    file.symlink_to("/dev/zero")


def fill(file):
    file.touch(0o600)
    file.write_bytes(b"a" * 10_000_000)


KINDS = {
    "a named pipe": (make_pipe, "a named pipe"),
    "a folder": (Path.mkdir, "a folder"),
    "a device": (link_to_zeros, "a device"),
    "a huge file": (fill, "10.0 MB, expected at most"),
    "a link to nothing": (link_to_nothing, "No such file"),
}


@pytest.mark.parametrize("name", KINDS)
def test_what_is_no_file_of_a_secret_is_told_at_once_and_left_alone(tmp_path, name):
    make, said = KINDS[name]
    make(tmp_path / noise_key.NAME)
    before = (tmp_path / noise_key.NAME).lstat()
    errors = []

    def ask():
        with pytest.raises(UserError, match=said) as told:
            noise_key.secret(tmp_path, started=False)
        errors.append(str(told.value))

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(20)
    assert len(errors) == 1
    assert "\n" not in errors[0]
    assert (tmp_path / noise_key.NAME).lstat() == before
    assert len(list(tmp_path.iterdir())) == 1


def test_a_new_secret_is_on_the_disk_before_it_is_used(tmp_path, monkeypatch):
    synced, fsync = [], os.fsync

    def note(descriptor):
        synced.append(Path(f"/proc/self/fd/{descriptor}").readlink())
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", note)
    noise_key.secret(tmp_path, started=False)
    assert len(synced) == 2
    assert synced[0].parent == synced[1] == tmp_path


def ask_at_once(workdir, start, answers):
    start.wait()
    answers.put(noise_key.secret(Path(workdir), started=False))


def test_processes_that_begin_at_once_have_the_same_secret(tmp_path):
    spawned = multiprocessing.get_context("spawn")
    start, answers = spawned.Barrier(3), spawned.Queue()
    processes = [
        spawned.Process(target=ask_at_once, args=(str(tmp_path), start, answers)) for _ in range(3)
    ]
    for process in processes:
        process.start()
    texts = {answers.get(timeout=120) for _ in processes}
    for process in processes:
        process.join()
    assert texts == {(tmp_path / noise_key.NAME).read_text().strip()}


def test_who_comes_second_takes_the_secret_that_is_there(tmp_path, monkeypatch):
    read, asked = noise_key._read, []

    def late(file):
        if not asked:  # between this look and the write another process makes it
            asked.append(file)
            file.touch(0o600)
            file.write_text("ab" * 32 + "\n")
            raise FileNotFoundError
        return read(file)

    monkeypatch.setattr(noise_key, "_read", late)
    assert noise_key.secret(tmp_path, started=False) == "ab" * 32
    assert [path.name for path in tmp_path.iterdir()] == [noise_key.NAME]

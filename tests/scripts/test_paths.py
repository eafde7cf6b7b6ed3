"""A path of scripts and benchmarks that cannot be is told in one line, before anything is done."""

import sys
from pathlib import Path

import growth
import limits
import paths
import pytest
import rounds
import startup
from absl import flags

from fedjax_med.errors import UserError

sys.path.insert(0, str(Path(__file__).parent.parent.parent / "scripts"))

import fetch_isic9
import methods
import results
import search_recipe
import variants

NOBODY = "~no-such-user-of-this-machine/x"


@pytest.mark.parametrize(
    ("main", "given", "flag"),
    [
        *((methods.parse, ["--data_dir=x"], flag) for flag in ("data_dir", "cache_dir", "workdir")),
        *((results.main, ["--data_dir=x"], flag) for flag in ("data_dir", "cache_dir", "workdir")),
        (search_recipe.main, ["rates"], "workdir"),  # the others are those of a command
        (variants.main, [], "workdir"),
    ],
)
def test_scripts_tell_of_a_user_who_is_not_there(capsys, main, given, flag):
    with pytest.raises(SystemExit, match="2"):
        main([*given, f"--{flag}={NOBODY}"])
    *_, line = capsys.readouterr().err.splitlines()
    assert f"--{flag}: {NOBODY}: HOME is not set, or there is no such user" in line


def test_scripts_know_the_home_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    given = methods.parse(["--data_dir=~/data", "--workdir=~/runs"])
    assert (given.data_dir, given.workdir) == (tmp_path / "data", tmp_path / "runs")
    assert given.cache_dir.is_relative_to(tmp_path) or "~" not in str(given.cache_dir)


def test_fetching_tells_of_a_path_before_it_downloads(monkeypatch):
    monkeypatch.setattr(fetch_isic9, "_OUT", type("Flag", (), {"value": NOBODY}))
    with pytest.raises(SystemExit, match=r"fetch_isic9: .*no such user"):
        fetch_isic9.main(["fetch_isic9"])


@pytest.mark.parametrize(
    ("benchmark", "flag"),
    [
        *((benchmark, "json") for benchmark in (growth, limits, rounds, startup)),
        *((growth, "plot"), (limits, "rounds")),
    ],
)
def test_benchmarks_tell_of_a_path_before_they_measure(tmp_path, monkeypatch, benchmark, flag):
    parser = benchmark.FLAGS[flag].parser
    with pytest.raises(ValueError, match="no such user"):
        parser.parse(NOBODY)
    with pytest.raises(ValueError, match=r"there is no folder .*missing"):
        parser.parse(str(tmp_path / "missing" / "x"))
    monkeypatch.setenv("HOME", str(tmp_path))
    assert parser.parse("~/x") == str(tmp_path / "x")
    assert parser.parse("") == ""


def test_a_flag_for_a_file_is_told_as_any_other(tmp_path):
    found = flags.FlagValues()
    paths.define_file("json", "", "where", flag_values=found)
    with pytest.raises(flags.IllegalFlagValueError, match=r"flag --json=~no.*no such user"):
        found(["x", f"--json={NOBODY}"])
    with pytest.raises(UserError, match="x cannot be read: No such file"):
        paths.read_text(str(tmp_path / "x"))

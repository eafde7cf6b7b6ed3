import json
import time

import pytest

from fedjax_med.cli import main as cli
from fedjax_med.data.partitions import by_column
from fedjax_med.errors import UserError, check_name, printable, some
from fedjax_med.experiment import config, resolve
from fedjax_med.run import provenance


def refused(name, names):
    with pytest.raises(UserError) as told:
        check_name(name, names, "the columns")
    return str(told.value)


def test_few_names_are_all_named_and_the_nearest_is_proposed():
    told = refused("fed_avq", ["moon", "fed_avg", "apfl"])
    assert told == (
        "There is no 'fed_avq' in the columns. Did you mean 'fed_avg'? There are: apfl, fed_avg, "
        "moon."
    )
    assert refused("x", []).endswith("There are: none.")


def test_of_many_names_the_nearest_are_named():
    names = [f"a{i}" for i in range(1000)] + ["z_site", "z_sites"]
    told = refused("z_sit", names)
    assert "There are: z_site, z_sites, a0, a1, a10," in told
    assert told.endswith(" and 982 more.")


def test_many_long_names_take_no_time_and_no_room():
    names = [f"{'s' * 99}{i}" for i in range(300_000)] + ["site" * 2**18]
    before = time.perf_counter()
    told = refused("site", names) + refused("s" * 2**18, names[:1000])
    assert time.perf_counter() - before < 30
    assert len(told) < 6000


def test_what_does_not_print_is_escaped():
    told = refused("\x1b[2Ja\n", ["\x1b]0;title\x07", "\u202eevil", "\udcff", "é"])
    assert told.isprintable()
    assert "\\x1b]0;title\\x07, é, \\u202eevil, \\udcff." in told
    assert printable("a\tb\\é") == "a\\tb\\é"


def test_what_is_long_is_cut_in_its_middle():
    assert printable("a" * 500 + "b" * 500, 8) == "aaaaaa [...] bb"
    assert some(["x"] * 20) == ", ".join(["x"] * 20)
    assert some(["x"] * 21).endswith("x and 1 more")


def test_every_message_is_one_line_of_bounded_length_that_leaves_the_terminal_alone():
    told = str(UserError(f"a\nb \x1b[2J {'x' * 10**6} set --flag."))
    assert told.startswith("a b \\x1b[2J x")
    assert told.endswith("x set --flag.")
    assert len(told) < 2100


@pytest.mark.parametrize("flag", ["--resume", "--resume=True", "--resume_from=x", "--continue"])
def test_who_wants_to_resume_is_told_how(capsys, flag):
    assert cli.main(["train", "--config.rounds=3", flag]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "give the same command again" in line
    assert "Did you mean" not in line


def test_advice_of_a_flag_that_the_command_lacks_says_whose_it_is(tmp_path, capsys):
    experiment = {"rounds": -1}
    saved = {"experiment": experiment, "data_dir": "", "data": ""}
    (tmp_path / "experiment.json").write_text(json.dumps(saved))
    assert cli.main(["evaluate", f"--workdir={tmp_path}"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "expected --config.rounds >= 1, got -1." in line
    assert line.endswith(
        "--config is a flag of audit, compare, crossvalidate, partition, train, not of evaluate."
    )
    assert cli.main(["train", "--config.rounds=-1", f"--workdir={tmp_path}"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("got -1.")


def test_another_experiment_is_told_in_a_whole_sentence(tmp_path):
    saved = {"experiment": config.to_dict(config.Experiment()), "data": "y"}
    wanted = resolve.complete(config.Experiment(seed=1))
    given = {"experiment": config.to_dict(wanted), "data": "x"}
    with pytest.raises(UserError) as told:
        provenance.refuse_other(tmp_path, saved, given)
    assert str(told.value) == (
        f"{tmp_path} holds another experiment (seed: the checkpoint has 0, this run 1; the train "
        "images, their labels or their division over the clients differ): choose another "
        "--workdir, or give the command that the run there was started with."
    )


TABLES = {
    "columns": ",".join(f"\x1b[2Jcolumn {i}" for i in range(300_000)),
    "long column": "\x1b" * 100_000,
    "long image": "image,site\n" + ("\x1b[2J" * 30_000 + ",\n"),
}


@pytest.mark.parametrize("table", TABLES)
def test_a_hostile_table_is_told_in_one_short_line(tmp_path, table):
    (tmp_path / "sites.csv").write_text(TABLES[table])
    with pytest.raises(UserError) as told:
        by_column.count_clients([], path=str(tmp_path / "sites.csv"))
    assert "sites.csv" in str(told.value)
    assert str(told.value).isprintable()
    assert len(str(told.value)) < 3000

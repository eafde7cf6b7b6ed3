import pytest

from fedjax_med.cli import main as cli
from fedjax_med.errors import UserError, expand
from fedjax_med.run import workdir


@pytest.fixture
def nobody(monkeypatch):
    """A user without HOME and without an entry, as in many containers."""
    pwd = pytest.importorskip("pwd")

    def unknown(uid):
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    monkeypatch.delenv("HOME")
    monkeypatch.setattr(pwd, "getpwuid", unknown)


@pytest.mark.parametrize("command", ["audit", "train", "partition"])
def test_without_a_home_folder_the_commands_say_what_to_give(tmp_path, nobody, capsys, command):
    (tmp_path / "data" / "Train" / "a").mkdir(parents=True)
    (tmp_path / "data" / "Train" / "a" / "a.png").touch()
    given = [f"--data_dir={tmp_path / 'data'}"] + [f"--out={tmp_path / 'o'}"] * (
        command == "partition"
    )
    given += [f"--workdir={tmp_path / 'run'}"] * (command == "train")
    assert cli.main([command, *given]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "HOME is not set" in line
    assert "--cache_dir=FOLDER" in line


def test_whole_paths_need_no_home_folder(tmp_path, nobody):
    assert expand(tmp_path) == tmp_path
    with pytest.raises(UserError, match="HOME is not set"):
        expand("~/x")


@pytest.mark.parametrize(
    "name", ["x" * 5_000, "a\0b", "~nobody_has_this_name/x"], ids=["long", "null", "nobody"]
)
@pytest.mark.parametrize(
    "flag", ["workdir", "data_dir", "config", "config.pretrained", "cache_dir", "flagfile"]
)
def test_what_no_file_can_be_called_is_told_in_one_line(tmp_path, capsys, flag, name):
    (tmp_path / "Train" / "a").mkdir(parents=True)
    (tmp_path / "Train" / "a" / "a.png").touch()
    given = {"data_dir": tmp_path, "workdir": tmp_path / "run", flag: name}
    assert cli.main(["train", *(f"--{key}={value}" for key, value in given.items())]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.isprintable()
    assert len(line) < 2500


def test_the_workdirs_to_evaluate_are_told_likewise(capsys):
    assert cli.main(["evaluate", "--workdir=~nobody_has_this_name/x"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "there is no such user" in line


@pytest.mark.parametrize(
    ("given", "expected"),
    [("/x/y", "/x/y/fedjax_med"), ("x", "~/.cache/fedjax_med"), ("", "~/.cache/fedjax_med")],
)
def test_the_cache_is_where_the_desktop_specification_says(monkeypatch, given, expected):
    monkeypatch.setenv("XDG_CACHE_HOME", given)
    assert workdir._cache_dir() == expected

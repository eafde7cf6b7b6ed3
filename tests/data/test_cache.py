"""The command `cache` lists what runs have kept, and removes what no run uses."""

import pytest

from fedjax_med.cli import main as cli
from fedjax_med.data.images import holding

KEPT = (
    "image_folder/aa_64px/0123456789abcdef/class_folders/1/x.array_record",
    "image_folder/aa_64px/fedcba9876543210/class_folders/1/x.array_record",
    "lesions/0123/lesions/1/x.array_record",
    "features/0123.npy",
    "compiled/jit_round-0123-cache",
)


@pytest.fixture
def folder(tmp_path):
    for name in (*KEPT, "mine.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x" * 1000)
    return tmp_path


def test_the_cache_is_listed_with_its_sizes(folder, capsys):
    assert cli.main(["cache", f"--cache_dir={folder}"]) == 0
    *rows, last = capsys.readouterr().out.splitlines()
    assert len(rows) == len(KEPT)
    assert all(row.startswith("    1 kB") for row in rows)
    assert "5 kB  in " in last
    assert all((folder / name).exists() for name in KEPT)


def test_the_cache_is_cleared_but_for_what_runs_use(folder, capsys):
    used = folder / "image_folder" / "aa_64px" / "0123456789abcdef"
    with holding.held(used):
        assert cli.main(["cache", "--clear", f"--cache_dir={folder}"]) == 0
    assert "stays: a run uses it" in capsys.readouterr().out
    assert [(folder / name).exists() for name in KEPT] == [True, *[False] * 4]
    assert (folder / "mine.txt").exists()
    assert cli.main(["cache", "--clear", f"--cache_dir={folder}"]) == 0
    assert not used.exists()


def test_an_empty_cache_and_one_that_is_not_there(tmp_path, capsys):
    assert cli.main(["cache", f"--cache_dir={tmp_path / 'none'}"]) == 0
    assert "0 B  in " in capsys.readouterr().out
    assert not (tmp_path / "none").exists()

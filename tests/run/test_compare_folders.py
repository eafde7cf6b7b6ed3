"""The folders of a comparison's runs."""

from fedjax_med.run import compare
from fedjax_med.run.compare import Comparison


def test_a_comparison_of_an_earlier_version_resumes_in_its_folders(tmp_path):
    one, folds = Comparison(tmp_path, {}, [0], 0), Comparison(tmp_path, {}, [0], 2)
    assert one.folders("centralized", 0) == [tmp_path / "seed_0" / "centralized"]
    before = tmp_path / "seed_0" / "pooled"
    before.mkdir(parents=True)
    assert one.folders("centralized", 0) == [before]
    assert folds.folders("centralized", 0) == [before / "fold_0", before / "fold_1"]
    assert one.folders("federated", 0) == [tmp_path / "seed_0" / "federated"]
    (tmp_path / "seed_0" / "centralized").mkdir()
    assert one.folders("centralized", 0) == [tmp_path / "seed_0" / "centralized"]


def test_name_of_a_hospital_adds_no_column_to_a_table():
    assert compare._escaped("0 (St|Mary)") == r"0 (St\|Mary)"

"""The folders of a comparison's runs."""

import re

from fedjax_med.evaluation import comparison
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
    difference = comparison.Difference(None, [None, None], [None])._asdict()
    scores = dict.fromkeys(compare.SHOWN, 0.5)
    settings = ("local", "federated", "centralized")
    minus = {"centralized": difference, "local": difference, "local_0": difference}
    result = {
        "seeds": [0],
        "names": ["St|Mary"],
        "absent_classes": [],
        "folds": 0,
        "test_images": 1,
        "steps": dict.fromkeys(settings, 1.0),
        "scores": {name: [scores] for name in settings},
        "hospitals": {"local_0": [scores]},
        "federated_minus": dict.fromkeys(compare.SHOWN, minus),
    }
    row = compare.markdown(result).splitlines()[-1]
    assert row.startswith(r"| 0 (St\|Mary) | ")
    assert len(re.split(r"(?<!\\)\|", row)) == 5

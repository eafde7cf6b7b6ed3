"""Where the data of a saved run is looked for."""

import json

import pytest

from fedjax_med.errors import UserError
from fedjax_med.experiment import config, load_data, resolve
from fedjax_med.experiment.config import Experiment
from fedjax_med.run.load import load_run, read_run
from fedjax_med.run.workdir import CACHE_DIR


@pytest.mark.parametrize(
    ("saved", "given", "expected"),
    [
        ({"cache_dir": "/kept"}, "", "/kept"),
        ({"cache_dir": "/kept"}, "/given", "/given"),
        ({}, "", CACHE_DIR),  # a run of a version that did not save it
        ({}, "/given", "/given"),
    ],
)
def test_prepared_data_is_where_it_was_or_where_it_is_said_to_be(
    saved, given, expected, tmp_path, monkeypatch
):
    experiment = config.to_dict(resolve.complete(Experiment()))
    content = {"experiment": experiment, "data_dir": "/images", "data": "x", **saved}
    (tmp_path / "experiment.json").write_text(json.dumps(content))

    def asked(experiment, *places):
        raise UserError(f"asked for {places}")

    monkeypatch.setattr(load_data, "load", asked)
    with pytest.raises(UserError) as said:
        load_run(read_run(tmp_path), cache_dir=given)
    assert str(said.value) == f"asked for {('/images', expected)}"

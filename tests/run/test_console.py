"""What a run says before its first round."""

import pytest
import toy

from fedjax_med.experiment import resolve
from fedjax_med.experiment.config import Experiment, Participation, Privacy, Spec
from fedjax_med.run import console


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, ""),
        ({"aggregator": Spec("median")}, "Aggregator median is robust: "),
        ({"aggregator": Spec("trimmed_mean", {"share": 0.0})}, ""),
        ({"privacy": Privacy(unit="client")}, "The run is private: "),
        (
            {"aggregator": Spec("median"), "participation": Participation(on_invalid="skip")},
            "",  # as asked
        ),
    ],
)
def test_run_says_that_it_skips_updates_where_nobody_asked_it_to(changes, expected, capsys):
    plan = toy.planned(resolve.complete(Experiment(**changes)))
    skipped = "updates that are not finite are skipped, as with "
    console._say_skipping(plan)
    line = f"{expected}{skipped}--config.participation.on_invalid=skip.\n"
    assert capsys.readouterr().out == (line if expected else "")

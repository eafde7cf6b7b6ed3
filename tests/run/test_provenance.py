"""Which checkpoints a run goes on from: not those that were drawn from other random streams."""

from pathlib import Path

import pytest

from fedjax_med.core.client_map import ClientMap
from fedjax_med.core.random import STREAMS
from fedjax_med.errors import UserError
from fedjax_med.experiment import config, resolve
from fedjax_med.experiment.config import Experiment, Participation, Spec
from fedjax_med.run import provenance

DRAWING = {
    "cohort": {"cohort": Spec("uniform", {"size": 2})},
    "absent": {"participation": Participation(participation_rate=0.5)},
    "late": {"participation": Participation(straggler_rate=0.1)},
    "attack": {"attacks": [Spec("sign_flip")]},
    "fed_rep": {"algorithm": Spec("fed_rep")},
    "ifca": {"algorithm": Spec("ifca")},
    "q_fair": {"aggregator": Spec("q_fair")},
}
EPOCHS_ALONE = {
    "the default": {},
    "scaffold": {"algorithm": Spec("scaffold")},
    "random_k": {"transforms": [Spec("random_k")]},
    "centralized": {**DRAWING["absent"], "setting": "centralized"},
}


def identity(changes, **others):
    values = config.to_dict(resolve.complete(Experiment(**changes)))
    return provenance.identity(values, "data", ClientMap(sequential=False)) | others


def of_earlier_version(changes):
    saved = identity(changes)
    del saved["streams"]
    return saved


@pytest.mark.parametrize("name", DRAWING)
def test_run_that_draws_goes_on_only_with_the_streams_that_it_began_with(name):
    given = identity(DRAWING[name])
    assert given["streams"] == STREAMS
    provenance.refuse_other(Path("runs/one"), given, given)
    for saved in (of_earlier_version(DRAWING[name]), identity(DRAWING[name], streams=STREAMS + 1)):
        with pytest.raises(UserError, match="runs/one are of a version with other random streams"):
            provenance.refuse_other(Path("runs/one"), saved, given)
    # No checkpoint, but the experiment alone: nothing was drawn yet.
    asked = {"experiment": given["experiment"], "data": "data"}
    provenance.refuse_other(Path("runs/one"), asked, given)


@pytest.mark.parametrize("name", EPOCHS_ALONE)
def test_run_that_draws_by_epochs_alone_goes_on_from_an_earlier_version(name):
    given = identity(EPOCHS_ALONE[name])
    provenance.refuse_other(Path("runs/one"), of_earlier_version(EPOCHS_ALONE[name]), given)

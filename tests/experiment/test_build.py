"""What an experiment's process is made of, and which parts refuse each other."""

import optax
import pytest
import toy

from fedjax_med.client.local_training import LocalTrainer
from fedjax_med.core import faults
from fedjax_med.errors import UserError
from fedjax_med.experiment import resolve
from fedjax_med.experiment.build import build_process
from fedjax_med.experiment.config import Experiment, Participation, Spec


def build(**fields):
    experiment = resolve.complete(Experiment(**{"num_clients": 5} | fields))
    training = LocalTrainer(toy.grad_fn(), optax.sgd(0.1), features=toy.features())
    return build_process(experiment, training, toy.CLASSES)


def test_participation_and_attacks_become_faults():
    process = build(
        participation=Participation(
            participation_rate=0.5, straggler_rate=0.25, on_invalid="skip", max_update_norm=9.0
        ),
        attacks=[Spec("sign_flip", {"clients": (1, 4)})],
    )
    assert process.faults.participation == faults.Participation(0.5, 0.25, 0.0, True, 9.0)
    assert [attack.clients for attack in process.faults.attacks] == [(1, 4)]


def test_without_faults_nothing_goes_wrong():
    assert build().faults.none


@pytest.mark.parametrize("client", [5, -1])
def test_hostile_client_that_does_not_exist_is_refused(client):
    with pytest.raises(UserError, match=f"client {client} is hostile, but there are 5 clients"):
        build(attacks=[Spec("sign_flip", {"clients": (0, client)})])


def test_too_few_clients_for_an_aggregator_are_refused():
    process = build(aggregator=Spec("bulyan", {"hostile": 1}))
    with pytest.raises(UserError, match="7"):
        process.aggregator.init(toy.params(), 5, 5)

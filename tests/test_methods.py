"""What an experiment's method is made of, and which parts refuse each other."""

import jax
import optax
import pytest
import toy

from fedjax_med.client.local_training import LocalTraining
from fedjax_med.core import faults
from fedjax_med.errors import UserError
from fedjax_med.experiment import methods, resolve
from fedjax_med.experiment.config import Experiment, Spec, Turnout


def build(**fields):
    experiment = resolve.complete(Experiment(**fields))
    training = LocalTraining(toy.grad_fn(), optax.sgd(0.1), features=toy.features())
    return methods.build(experiment, training, toy.CLASSES, jax.random.key(0))


def test_turnout_and_attacks_become_conditions():
    method = build(
        turnout=Turnout(rate=0.5, late=0.25, bad="skip", largest=9.0),
        attacks=[Spec("sign_flip", {"clients": (1, 4)})],
    )
    assert method.conditions.turnout == faults.Turnout(0.5, 0.25, 0.0, True, 9.0)
    assert [attack.clients for attack in method.conditions.attacks] == [(1, 4)]


def test_without_conditions_everything_is_quiet():
    assert build().conditions.quiet


@pytest.mark.parametrize("client", [5, -1])
def test_hostile_client_that_does_not_exist_is_refused(client):
    with pytest.raises(UserError, match=f"client {client} is hostile, but there are 5 clients"):
        build(attacks=[Spec("sign_flip", {"clients": (0, client)})])


@pytest.mark.parametrize("algorithm", ["ifca", "cfl"])
@pytest.mark.parametrize("reducer", ["q_fair", "agnostic"])
def test_reducer_of_one_global_models_losses_refuses_groups(algorithm, reducer):
    with pytest.raises(UserError, match=f"{reducer} weighs clients by the loss of one global"):
        build(algorithm=Spec(algorithm), reducer=Spec(reducer))


def test_too_few_clients_for_a_reducer_are_refused():
    method = build(reducer=Spec("bulyan", {"hostile": 1}))
    with pytest.raises(UserError, match="7"):
        method.reducer.init(toy.params(), 5, 5)

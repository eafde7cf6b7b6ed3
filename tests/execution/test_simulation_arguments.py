"""What a program gives to the library and is of another kind is refused in one line."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hospitals import KEY

import fedjax_med as fm

MEAN = fm.aggregators.mean.build()
PARAMS = {"a": jnp.ones(2)}
CLIENTS = fm.data.from_arrays(np.ones((4, 2), np.float32), np.ones(4), [0, 0, 1, 1])


def squares(params, inputs, labels, key):
    return (inputs @ params["a"] - labels) ** 2


SGD = optax.sgd(0.1)


def averaging(optimizer=SGD, server=SGD, loss=squares, **options):
    trainer = fm.LocalTrainer(fm.client.mean_gradient(loss), optimizer, **options)
    return fm.algorithms.fed_avg.build(trainer, server)


def start(algorithm=None, aggregator=MEAN, params=PARAMS, clients=CLIENTS, **options):
    simulation = fm.Simulation(fm.Process(algorithm or averaging(), aggregator, **options))
    return simulation, simulation.init(params, clients)


def own(update=lambda messages, info, state, key: (messages, state), init=lambda m, c, s: ()):
    return fm.Aggregator(init, update)


CLIP = fm.transforms.clip.build(norm=1.0)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: start(MEAN, averaging()), "algorithm to be of type FederatedAlgorithm, got a val"),
        (lambda: start(fm.algorithms.fed_avg.build), "got the function build: call it"),
        (lambda: start(fm.algorithms.fed_avg), r"fed_avg: call its function, as in .*\.build\("),
        (
            lambda: start(None, fm.aggregators.trimmed_mean.build),
            "aggregator to be .* function bui",
        ),
        (lambda: start(None, fm.aggregators.mean), "aggregator .* module fedjax_med.aggregators"),
        (lambda: start(faults=fm.Participation()), "faults to be of type Faults, got a value of"),
        (lambda: start(cohort=fm.cohorts.uniform), r"key, sizes\), got the module"),
        (lambda: start(cohort=fm.cohorts.uniform.build), r"a cohort, which build\(num_clients\)"),
        (lambda: fm.chain(CLIP, aggregator=fm.aggregators.mean), "aggregator to be .* module"),
        (lambda: fm.chain(fm.transforms.clip, aggregator=MEAN), "a transform to be .* module"),
        (lambda: fm.Simulation(averaging()), "the process to be of type Process"),
        (lambda: start(averaging(optax.sgd)), r"an optax optimizer, .* got the function sgd: call"),
        (lambda: start(averaging(0.1)), r"an optax optimizer, .* got 0\.1"),
        (lambda: start(averaging(server=optax.sgd)), "an optax optimizer, .* the function sgd"),
        (lambda: start(averaging(server=1.0)), r"an optax optimizer, .* got 1\.0"),
        (lambda: start(averaging(loss=lambda *a: (squares(*a), {}))), "one array, got a tuple"),
        (lambda: start(averaging(batch_size=1.5)), r"^expected local training .*batch_size=1\.5"),
        (lambda: start(averaging(epochs="2")), "^expected local training .*epochs='2'"),
        (lambda: start(params=None), "^expected initial parameters, .* got None"),
        (lambda: start(params={"a": np.ones(2, int)}), "floating-point numbers, got int64 in a"),
        (lambda: start(params={"a": "x"}), "floating-point numbers, got 'x' in a"),
        (lambda: start(params=fm.models.linear.build(2)), "got the function .* in init"),
        (
            lambda: start(clients=(np.ones(4), np.ones(4))),
            r"from_arrays\(.* got a value of type tu",
        ),
        (lambda: start(None, own(lambda m, i: m)), r"update to take \(messages, client_info, stat"),
        (
            lambda: start(None, own(init=lambda m: ())),
            r"init to take \(message, num_clients, num_s",
        ),
        (
            lambda: start(None, fm.chain(CLIP._replace(update=lambda m: m), aggregator=MEAN)),
            "transform's update to take",
        ),
    ],
)
def test_parts_of_another_kind_are_refused_before_the_first_round(make, said):
    with pytest.raises(fm.UserError, match=said) as refused:
        make()
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"key": 1}, r"expected a key, such as jax\.random\.key\(1\), got 1"),
        ({"num_rounds": "3"}, "expected num_rounds to be a whole number, got '3'"),
        ({"num_rounds": 3.0}, r"expected num_rounds to be a whole number, got 3\.0"),
        ({"state": PARAMS}, r"expected a state from Simulation\.init"),
        ({"clients": (1, 2)}, r"data\.from_arrays\("),
    ],
)
def test_arguments_of_rounds_of_another_kind_are_refused(change, said):
    simulation, state = start()
    given = {"state": state, "clients": CLIENTS, "key": KEY, "num_rounds": np.int64(1)} | change
    with pytest.raises(fm.UserError, match=said):
        next(simulation.rounds(**given))


def test_old_keys_and_numpy_numbers_are_fine():
    simulation, state = start(averaging(batch_size=np.int64(2)))
    results = simulation.rounds(state, CLIENTS, jax.random.PRNGKey(0), num_rounds=np.int64(1))
    assert len(list(results)) == 1


def test_an_unknown_field_of_the_client_info_lists_those_that_are():
    update = lambda messages, info, state, key: (info.num_example, state)  # noqa: E731
    simulation, state = start(None, own(update))
    said = r"no 'num_example' in ClientInfo.*mean 'num_examples'\?.* client, cluster, loss, num_ex"
    with pytest.raises(fm.UserError, match=said):
        next(simulation.rounds(state, CLIENTS, KEY, num_rounds=1))


def test_evaluate_wants_the_parameters_and_not_the_state():
    _, state = start()
    model = fm.Model(lambda key, shape: PARAMS, lambda params, images, key: images)
    inputs, same = np.eye(2, dtype=np.float32), lambda inputs, key: inputs
    with pytest.raises(fm.UserError, match=r"got a FederatedState: give state\.server\.params"):
        fm.evaluate(model, state, inputs, [0, 1], prepare=same)
    with pytest.raises(fm.UserError, match="the model to be of type Model, got the module"):
        fm.evaluate(fm.models.cnn, PARAMS, inputs, [0, 1], prepare=same)


def test_unknown_fields_of_an_experiment_get_the_nearest_one():
    with pytest.raises(fm.UserError, match=r"no 'roundz' in the fields of Exp.* 'rounds'\?"):
        fm.Experiment(roundz=3)
    experiment = fm.Experiment(rounds=3)
    with pytest.raises(fm.UserError, match="no 'num_client' in the fields"):
        experiment.num_client = 3
    with pytest.raises(fm.UserError, match=r"no 'epoch' in the fields of Client.* 'epochs'\?"):
        experiment.client.epoch = 3
    experiment.client.epochs = 3
    assert experiment.client.epochs == 3

"""The simulation of a federation: its rounds, its states, and what does not go together."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import toy
from hospitals import CLASSES, IMAGES, KEY, arrays, averaging, cnn, trained

import fedjax_med as fm
from fedjax_med.data.client_data import stack


def test_every_state_stays_usable_and_goes_on_as_if_never_stopped():
    images, labels, hospital = arrays()
    model, clients = cnn(), fm.data.from_arrays(images, labels, hospital)
    process = fm.Process(averaging(model), fm.aggregators.mean.build())
    results = trained(process, model, clients, num_rounds=4)
    simulation = fm.Simulation(process)
    again = list(simulation.rounds(results[1].state, clients, KEY, num_rounds=4))
    assert [result.round for result in again] == [3, 4]
    toy.assert_same_bits(again[-1].state, results[-1].state)
    assert [int(result.state.round) for result in results] == [1, 2, 3, 4]  # none is donated


@pytest.mark.parametrize(
    "client_map",
    ["sequential", *(pytest.param(name, marks=pytest.mark.slow) for name in ("vmap", "sharded"))],
)
def test_rounds_are_those_of_the_pure_process(client_map):
    images, labels, hospital = arrays()
    model, clients = cnn(), fm.data.from_arrays(images, labels, hospital)
    process = fm.Process(averaging(model), fm.aggregators.mean.build())
    data = jax.tree.map(jnp.asarray, stack(clients.split, clients.indices))
    expected = process.init(model.init(jax.random.key(0), IMAGES), data)
    step = jax.jit(process.round)
    for _ in range(2):
        expected, _ = step(expected, data, KEY)
    simulation = fm.Simulation(process, client_map=client_map, batch_size=8)
    state = simulation.init(model.init(jax.random.key(0), IMAGES), clients)
    *_, last = simulation.rounds(state, clients, KEY, num_rounds=2)
    toy.assert_close(last.state, expected, rtol=1e-3, atol=1e-4)


def own_state(algorithm="scaffold", transforms=()):
    trainer = fm.LocalTrainer(toy.grad_fn(), optax.sgd(0.1), batch_size=4)
    build = getattr(fm.algorithms, algorithm).build
    aggregator = fm.chain(*transforms, aggregator=fm.aggregators.mean.build())
    return fm.Simulation(fm.Process(build(trainer, optax.sgd(1.0)), aggregator))


@pytest.mark.parametrize(
    "simulation",
    [own_state(), own_state("fed_avg", (fm.transforms.top_k.build(share=0.5),))],
    ids=["clients", "aggregator"],
)
def test_a_state_of_other_clients_is_refused(simulation):
    images, labels = np.zeros((12, *toy.IMAGE), np.uint8), np.zeros(12, int)
    four, six = (fm.data.from_arrays(images, labels, np.arange(12) % n) for n in (4, 6))
    state = simulation.init(toy.params(), four)
    with pytest.raises(fm.UserError, match="clients"):
        next(simulation.rounds(state, six, KEY, num_rounds=1))


def test_a_client_that_does_not_exist_has_no_model():
    images, labels = np.zeros((12, *toy.IMAGE), np.uint8), np.zeros(12, int)
    simulation = own_state("ditto")
    state = simulation.init(toy.params(), fm.data.from_arrays(images, labels, np.arange(12) % 4))
    with pytest.raises(fm.UserError, match="expected a client from 0 to 3, got 4"):
        simulation.params_of(state, 4)


def test_images_of_another_size_than_the_models_are_refused_in_one_line():
    images, labels = np.zeros((12, 8, 8, 3), np.uint8), np.zeros(12, int)
    clients, simulation = fm.data.from_arrays(images, labels, labels), own_state("fed_avg")
    trained_on = fm.data.from_arrays(np.zeros((12, *toy.IMAGE), np.uint8), labels, labels)
    state = simulation.init(toy.params(), trained_on)
    with pytest.raises(fm.UserError, match="do not fit the model") as refused:
        next(simulation.rounds(state, clients, KEY, num_rounds=1))
    assert "\n" not in str(refused.value)
    with pytest.raises(fm.UserError, match="do not fit the model"):
        simulation.init(toy.params(), clients)


def test_a_label_beyond_the_classes_is_told_and_not_trained_on_in_silence():
    images, labels, hospital = arrays()
    model, clients = cnn(), fm.data.from_arrays(images, labels + 1, hospital)
    with pytest.raises(fm.UserError, match="are all labels classes from 0 to K - 1"):
        trained(fm.Process(averaging(model), fm.aggregators.mean.build()), model, clients, 1)


def test_fed_nova_asks_what_a_step_weighs():
    images, labels = np.zeros((12, *toy.IMAGE), np.uint8), np.zeros(12, int)
    clients, simulation = fm.data.from_arrays(images, labels, labels), own_state("fed_nova")
    with pytest.raises(fm.UserError, match=r"step_weight=fedjax_med\.client\.sgd_step_weight"):
        simulation.init(toy.params(), clients)


@pytest.mark.parametrize(
    ("update", "said"),
    [
        (lambda messages, info, state, key: (messages, state), "message to have the shapes"),
        (lambda messages, info, state, key: messages, "to return"),
        (
            lambda messages, info, state, key: (
                jax.tree.map(lambda leaf: leaf[0], messages),
                jnp.zeros(2),
            ),
            r"new state to have the shapes and dtypes \(\), got float32\[2\]",
        ),
    ],
)
def test_an_aggregator_that_returns_something_else_is_refused(update, said):
    trainer = fm.LocalTrainer(toy.grad_fn(), optax.sgd(0.1), batch_size=4)
    algorithm = fm.algorithms.fed_avg.build(trainer, optax.sgd(1.0))
    simulation = fm.Simulation(fm.Process(algorithm, fm.Aggregator(lambda m, c, s: (), update)))
    clients = fm.data.from_arrays(np.zeros((6, *toy.IMAGE), np.uint8), [0] * 6, [0, 1] * 3)
    state = simulation.init(toy.params(), clients)
    with pytest.raises(fm.UserError, match=said):
        next(simulation.rounds(state, clients, KEY, num_rounds=1))


def test_an_aggregator_gets_the_losses_that_it_needs_or_says_how():
    images, labels, hospital = arrays()
    model, clients = cnn(), fm.data.from_arrays(images, labels, hospital)
    algorithm, fair = averaging(model), fm.aggregators.agnostic.build()
    with pytest.raises(fm.UserError, match=r"fedjax_med\.algorithms\.report_loss"):
        trained(fm.Process(algorithm, fair), model, clients, 1)
    gradient = fm.client.cross_entropy(model, num_classes=CLASSES)
    trainer = fm.LocalTrainer(gradient, optax.adam(0.01), epochs=2, batch_size=8)
    told = fm.algorithms.report_loss(algorithm, trainer)
    assert len(trained(fm.Process(told, fair), model, clients, 1)) == 1


def test_a_client_may_have_a_model_of_its_own():
    images, labels, hospital = arrays()
    model, clients = cnn(), fm.data.from_arrays(images, labels, hospital)
    gradient = fm.client.cross_entropy(model, num_classes=CLASSES)
    trainer = fm.LocalTrainer(gradient, optax.adam(0.01), batch_size=8)
    own = fm.algorithms.fed_per.build(trainer, optax.sgd(1.0))
    simulation = fm.Simulation(fm.Process(own, fm.aggregators.mean.build()))
    state = simulation.init(model.init(jax.random.key(0), IMAGES), clients)
    *_, last = simulation.rounds(state, clients, KEY, num_rounds=1)
    one, other = (simulation.params_of(last.state, client) for client in (0, 2))
    toy.assert_same_bits(one["block_0"], other["block_0"])
    assert not np.array_equal(one["classifier"]["kernel"], other["classifier"]["kernel"])
    shared = fm.Simulation(fm.Process(averaging(model), fm.aggregators.mean.build()))
    state = shared.init(model.init(jax.random.key(0), IMAGES), clients)
    assert shared.params_of(state, 1) is state.server.params


@pytest.mark.parametrize("weak", ["params", "state"])
def test_weakly_typed_numbers_compile_a_round_once(weak):
    traced = []

    def loss(params, inputs, labels, key):
        traced.append(params)
        return (inputs * params["a"] - labels) ** 2

    trainer = fm.LocalTrainer(fm.client.mean_gradient(loss), optax.sgd(0.1))
    algorithm = fm.algorithms.fed_avg.build(trainer, optax.sgd(1.0))
    mean = fm.aggregators.mean.build()

    def update(messages, info, state, key):  # its new state is a Python number
        return mean.update(messages, info, (), key)[0], 0.0

    own = fm.Aggregator(lambda message, clients, senders: jnp.float32(1.0), update)
    simulation = fm.Simulation(fm.Process(algorithm, own if weak == "state" else mean))
    clients = fm.data.from_arrays(np.ones(4, np.float32), np.ones(4), [0, 0, 1, 1])
    start = {"a": 0.5 if weak == "params" else jnp.float32(0.5)}
    counts = []
    for _ in simulation.rounds(simulation.init(start, clients), clients, KEY, num_rounds=3):
        counts.append(len(traced))
    assert counts[0] == counts[1] == counts[2]

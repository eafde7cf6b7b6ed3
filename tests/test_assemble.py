import jax
import numpy as np
import pytest
import toy

from fedjax_med import assemble, federated
from fedjax_med.config import Client, Experiment, Spec
from fedjax_med.overrides import complete

COMPILED = []
jax.monitoring.register_event_duration_secs_listener(
    lambda event, seconds, **_: COMPILED.append(event) if "backend_compile" in event else None
)


def assembled(strategy, num_clients):
    experiment = complete(
        Experiment(
            num_clients=num_clients,
            map_clients=strategy,
            model=Spec("cnn", {"widths": (4,), "groups": 2}),
            client=Client(batch_size=4),
            server_optimizer=Spec("adam", {"learning_rate": 0.01}),
        )
    )
    assembly = assemble.assemble(experiment, toy.CLASSES, [1] * toy.CLASSES)
    sizes = (5, 3, 6, 2, 4, 1, 7, 2)[:num_clients]
    data = jax.device_put(toy.federation(sizes), assembly.placement.data)
    return assembly, jax.device_put(assembly.init(data), assembly.placement.state), data


@pytest.mark.parametrize("strategy", federated.STRATEGIES)
@pytest.mark.parametrize("num_clients", [5, 8])  # four devices: uneven, even
def test_many_rounds_compile_once_and_stay_in_place(strategy, num_clients):
    assembly, state, data = assembled(strategy, num_clients)
    places = jax.tree.map(lambda leaf: leaf.sharding, state)
    state, _ = assembly.run_round(state, data)
    COMPILED.clear()
    for _ in range(3):
        state, metrics = assembly.run_round(state, data)
        jax.block_until_ready(metrics)
    assert COMPILED == []
    same = jax.tree.map(lambda leaf, old: leaf.sharding == old, state, places)
    assert all(jax.tree.leaves(same))
    assert int(state.round) == 4


def test_sharded_clients_lie_on_their_devices():
    _, _, data = assembled("sharded", 8)
    assert {shard.data.shape[0] for shard in data.image.addressable_shards} == {2}
    _, _, uneven = assembled("sharded", 5)
    assert {shard.data.shape[0] for shard in uneven.image.addressable_shards} == {5}


@pytest.mark.parametrize("strategy", ["sequential", "sharded"])
def test_a_real_network_learns_the_same_under_every_strategy(strategy):
    results = []
    for name in ("vmap", strategy):
        assembly, state, data = assembled(name, 5)
        for _ in range(3):
            state, metrics = assembly.run_round(state, data)
        results.append(jax.tree.map(np.asarray, (state.server.params, metrics["loss"])))
    toy.assert_close(*results, rtol=1e-3, atol=1e-4)

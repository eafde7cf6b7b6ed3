"""The work that every contender does, as one ``.npz`` file: arrays, weights, batches, cohorts.

    python benchmarks/workloads.py WORKLOAD IMAGES TURNS FILE

writes it and prints, as JSON, what the driver wants to know about the work and the machine.
"""

import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp
import machine
import numpy as np

from fedjax_med.client import augmentation, batching
from fedjax_med.core.model import Model
from fedjax_med.core.types import Examples, Params
from fedjax_med.experiment import resolve
from fedjax_med.experiment.config import Augment, Client, Experiment, Spec
from fedjax_med.experiment.plan import Plan, compile_plan, first_state, make_plan

NO_AUGMENTATION = Augment(
    flip=False,
    right_angles=False,
    rotation=0.0,
    min_scale=1.0,
    brightness=0.0,
    contrast=0.0,
    saturation=0.0,
    hue=0.0,
)

CLASSES = 9


class Workload(NamedTuple):
    """One kind of work. Sizes are those of the published tables."""

    model: Spec
    image_size: int
    clients: int
    cohort: int
    images: int  # a client, unless the command says otherwise
    batch_size: int
    learning_rate: float
    rounds: int = 1  # in a turn: many of what takes milliseconds


WORKLOADS = {
    "cnn": Workload(Spec("cnn", {"widths": (32, 64, 128)}), 64, 5, 5, 256, 32, 0.05),
    "efficientnet_lite0": Workload(
        Spec("efficientnet_lite0", {"dropout": 0.0}), 128, 5, 5, 32, 32, 0.02
    ),
    "linear": Workload(Spec("linear"), 16, 1000, 100, 20, 10, 0.05, 10),
}


def experiment(name: str) -> Experiment:
    """Plain SGD, so that every framework can do exactly the same."""
    work = WORKLOADS[name]
    everyone = work.cohort == work.clients
    sgd = Spec("sgd", {"learning_rate": work.learning_rate})
    return resolve.complete(
        Experiment(
            rounds=1,
            num_clients=work.clients,
            image_size=work.image_size,
            model=work.model,
            augment=NO_AUGMENTATION,
            client=Client(batch_size=work.batch_size, optimizer=sgd, schedule="constant"),
            cohort=Spec("everyone") if everyone else Spec("uniform", {"size": work.cohort}),
        )
    )


def examples(clients: int, per_client: int, image_size: int) -> Examples:
    """Noise around the grey of each image's class: [C, N]; half a client's images are of one class.

    No time depends on what is in them, and a wrong batch or cohort shows in the loss.
    """
    rng = np.random.default_rng(0)
    shape = (clients, per_client)
    label = rng.integers(0, CLASSES, shape).astype(np.int32)
    label[:, ::2] = rng.integers(0, CLASSES, (clients, 1))
    image = rng.integers(0, 160, (*shape, image_size, image_size, 3), np.uint8)
    image += (8 * label[..., None, None, None]).astype(np.uint8)
    return Examples(image, label, np.ones(shape, bool))


def _rounds_key(one: Experiment) -> jax.Array:
    return jax.random.split(jax.random.key(one.seed))[1]


def first_order(one: Experiment, per_client: int) -> np.ndarray[Any, Any]:
    """Which examples each step of the first round sees, as `fedjax_med` draws them: [C, S, B]."""
    clients_key, _ = jax.random.split(jax.random.fold_in(_rounds_key(one), 0))

    def batches(client: jax.Array) -> jax.Array:
        key = jax.random.fold_in(clients_key, client)
        mask = jnp.ones(per_client, bool)
        index, _, _ = batching.epoch_batches(mask, one.client.batch_size, one.client.epochs, key)
        return index

    return np.asarray(jax.vmap(batches)(jnp.arange(one.num_clients)))


def plan_of(one: Experiment) -> Plan:
    """The plan of an experiment whose classes have as many examples each."""
    return make_plan(resolve.settle(one), np.ones(CLASSES))


def cohorts(one: Experiment, rounds: int) -> np.ndarray[Any, Any]:
    """Who takes part in each round, as `fedjax_med` draws it: int32 [rounds, S]."""
    plan = plan_of(one)
    choose = compile_plan(plan).choose
    if choose is None:
        return np.tile(np.arange(one.num_clients, dtype=np.int32), (rounds, 1))
    sizes = jnp.ones(one.num_clients, jnp.int32)
    return np.stack([choose(plan.key, jnp.int32(number), sizes) for number in range(rounds)])


def training_flops(model: Model, image_shape: tuple[int, int, int]) -> float:
    """Floating-point operations to train on one image, without the optimizer: value and gradient.

    As XLA counts them in the program before its optimisation: direct convolutions, whatever
    lowering we use, without the products with padding. There is no loop, which it would count once.
    """

    def loss(params: Params, image: jax.Array) -> jax.Array:
        return -jax.nn.log_softmax(model.apply(params, image, None))[0, 0]

    with mock.patch.object(jax, "default_backend", return_value="gpu"):  # XLA's own operations
        params = jax.eval_shape(lambda key: model.init(key, image_shape), jax.random.key(0))
        image = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
        step = jax.jit(jax.value_and_grad(loss)).lower(params, image)
    return float(step.cost_analysis()["flops"])


def matrix_peak(side: int = 2048, repeats: int = 9) -> float:
    """Floating-point operations a second of a large float32 matrix product here: the median."""
    a = jax.random.normal(jax.random.key(0), (side, side))
    product = jax.jit(jnp.dot)
    product(a, a).block_until_ready()
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        product(a, a).block_until_ready()
        seconds.append(time.perf_counter() - began)
    return 2 * side**3 / statistics.median(seconds)


def write(name: str, per_client: int, turns: int, file: Path) -> dict[str, Any]:
    """Write the workload to `file`; what the driver wants to know of it and of the machine."""
    one, work = experiment(name), WORKLOADS[name]
    per_client = per_client or work.images
    data = examples(work.clients, per_client, work.image_size)
    plan = plan_of(one)
    model, params = plan.model, first_state(plan, data).server.params
    leaves = {
        "params/" + "/".join(str(key.key) for key in path): np.asarray(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(params)
    }
    about = {
        "name": name,
        "batch_size": work.batch_size,
        "learning_rate": work.learning_rate,
        "platform": jax.default_backend(),  # where the peers are to train too
    }
    np.savez(
        file,
        about=json.dumps(about),
        pixels=data.image,
        image=np.asarray(augmentation.normalise(jnp.asarray(data.image), model.mean, model.std)),
        label=data.label,
        order=first_order(one, per_client),
        cohorts=cohorts(one, 1 + turns * work.rounds),
        **leaves,
    )
    flops, kind = training_flops(model, data.image.shape[-3:]), jax.devices()[0].device_kind
    return {
        "flops": flops * work.cohort * per_client,
        "matrix_peak": matrix_peak(),
        "platform": jax.default_backend(),
        "device": machine.processor() if kind == "cpu" else kind,
        "rounds_in_a_turn": work.rounds,
    }


if __name__ == "__main__":
    print(json.dumps(write(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))))

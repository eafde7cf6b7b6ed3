"""The work that every contender does: arrays, first weights and batches, as one ``.npz`` file."""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_med import assemble, augment, local, overrides, shelves
from fedjax_med.config import Augment, Client, Experiment, Spec
from fedjax_med.types import Examples

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


def experiment(name: str) -> Experiment:
    """Plain SGD on five clients, so that every framework can do exactly the same."""
    if name != "cnn":
        raise ValueError(f"there is no workload {name!r}: cnn")
    return overrides.complete(
        Experiment(
            rounds=1,
            num_clients=5,
            image_size=64,
            model=Spec("cnn", {"widths": (32, 64, 128)}),
            augment=NO_AUGMENTATION,
            client=Client(
                batch_size=32, optimizer=Spec("sgd", {"learning_rate": 0.05}), schedule="constant"
            ),
        )
    )


def examples(one: Experiment, per_client: int) -> Examples:
    """Drawn images, dealt in turn: [C, N]."""
    options = {"train_size": one.num_clients * per_client, "test_size": CLASSES}
    dataset = shelves.build("datasets", Spec("lesions", options), "", "", one.image_size)
    order = np.random.default_rng(0).permutation(dataset.train.num_examples)
    index = order.reshape(one.num_clients, per_client)
    mask = np.ones(index.shape, bool)
    return Examples(dataset.train.image[index], dataset.train.label[index], mask)


def first_order(one: Experiment, per_client: int) -> np.ndarray[Any, Any]:
    """Which examples each step of the first round sees, as `fedjax_med` draws them: [C, S, B]."""
    _, rounds_key = jax.random.split(jax.random.key(one.seed))
    clients_key, _ = jax.random.split(jax.random.fold_in(rounds_key, 0))

    def batches(client: jax.Array) -> jax.Array:
        key = jax.random.fold_in(clients_key, client)
        mask = jnp.ones(per_client, bool)
        index, _, _ = local._batches(mask, one.client.batch_size, one.client.epochs, key)
        return index

    return np.asarray(jax.vmap(batches)(jnp.arange(one.num_clients)))


def write(name: str, per_client: int, file: Path) -> None:
    """Write the workload to `file`."""
    one = experiment(name)
    data = examples(one, per_client)
    assembly = assemble.assemble(one, CLASSES, np.ones(CLASSES))
    params = assembly.init(data).server.params
    leaves = {
        "params/" + "/".join(str(key.key) for key in path): np.asarray(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(params)
    }
    about = {
        "name": name,
        "batch_size": one.client.batch_size,
        "learning_rate": one.client.optimizer.options["learning_rate"],
    }
    np.savez(
        file,
        about=json.dumps(about),
        pixels=data.image,
        image=np.asarray(augment.normalise(jnp.asarray(data.image))),
        label=data.label,
        order=first_order(one, per_client),
        **leaves,
    )

"""FedJAX (Google): its federated averaging, one jitted call for each batch."""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import jax

jax.tree_map = jax.tree.map  # which fedjax calls, and newer jax no longer has

import fedjax
import jax.numpy as jnp
import numpy as np
from channel import Channel
from fedjax.algorithms.fed_avg import federated_averaging


class Ordered(fedjax.ClientDataset):
    """A client's examples in the order of the first round, in whole batches."""

    def shuffle_repeat_batch(self, hparams, **options):
        return self.batch(batch_size=hparams.batch_size)


def nested(work):
    """The weights as a tree of dictionaries."""
    tree = {}
    for name in work.files:
        if name.startswith("params/"):
            *path, last = name.split("/")[1:]
            node = tree
            for step in path:
                node = node.setdefault(step, {})
            node[last] = jnp.asarray(work[name])
    return tree


def logits(params, images, groups=8):
    """`fedjax_med.models.cnn` with XLA's own convolution."""
    for name in sorted(key for key in params if key.startswith("block_")):
        block = params[name]
        images = jax.lax.conv_general_dilated(
            images,
            block["convolution"]["kernel"],
            (1, 1),
            "SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        batch, height, width, features = images.shape
        images = images.reshape(batch, height // 2, 2, width // 2, 2, features).max((2, 4))
        grouped = images.reshape(batch, -1, groups, features // groups)
        mean = grouped.mean((1, 3), keepdims=True)
        deviation = grouped - mean
        variance = jnp.square(deviation).mean((1, 3), keepdims=True)
        grouped = deviation * jax.lax.rsqrt(variance + 1e-6)
        norm = block["normalisation"]
        images = jax.nn.relu(grouped.reshape(images.shape) * norm["scale"] + norm["bias"])
    return images.mean((1, 2)) @ params["classifier"]["kernel"] + params["classifier"]["bias"]


def mean_loss(params, batch, rng=None):
    """Mean cross-entropy."""
    scores = jax.nn.log_softmax(logits(params, batch["x"]))
    return -jnp.mean(jnp.take_along_axis(scores, batch["y"][:, None], axis=1))


def main(file: str, name: str) -> None:
    channel = Channel()
    work = np.load(file)
    about = json.loads(str(work["about"]))
    algorithm = federated_averaging(
        jax.grad(mean_loss),
        fedjax.optimizers.sgd(about["learning_rate"]),
        fedjax.optimizers.sgd(1.0),
        fedjax.ShuffleRepeatBatchHParams(batch_size=about["batch_size"]),
    )
    clients = [
        (str(client), Ordered({"x": image[order.ravel()], "y": label[order.ravel()]}))
        for client, (image, label, order) in enumerate(
            zip(work["image"], work["label"], work["order"], strict=True)
        )
    ]
    state = algorithm.init(nested(work))
    loss = jax.jit(mean_loss)

    def whole_loss() -> float:
        losses = [
            loss(state.params, {"x": dataset.raw_examples["x"][part], "y": labels[part]})
            for _, dataset in clients
            for labels in [dataset.raw_examples["y"]]
            for part in np.split(np.arange(len(labels)), len(labels) // 32)
        ]
        return float(np.mean(losses))

    while channel.next():
        cohort = [(one, dataset, jax.random.PRNGKey(0)) for one, dataset in clients]
        state, diagnostics = algorithm.apply(state, cohort)
        jax.block_until_ready((state, diagnostics))
        channel.done(whole_loss)


if __name__ == "__main__":
    main(*sys.argv[1:])

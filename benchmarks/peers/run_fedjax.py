"""FedJAX (Google): its federated averaging, one jitted call for each batch."""

import itertools
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
from jax_model import LOGITS


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


def main(file: str, name: str) -> None:
    channel = Channel()
    work = np.load(file)
    about, cohorts = json.loads(str(work["about"])), work["cohorts"].tolist()

    def mean_loss(params, batch, rng=None):
        """Mean cross-entropy."""
        scores = jax.nn.log_softmax(LOGITS[name](params, batch["x"]))
        return -jnp.mean(jnp.take_along_axis(scores, batch["y"][:, None], axis=1))

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
            for part in np.split(np.arange(len(labels)), len(labels) // about["batch_size"])
        ]
        return float(np.mean(losses))

    for number in itertools.count():
        if not channel.next():
            break
        chosen = [clients[one] for one in cohorts[number % len(cohorts)]]
        keys = jax.random.split(jax.random.PRNGKey(number), len(chosen))
        cohort = [(*client, key) for client, key in zip(chosen, keys, strict=True)]
        state, diagnostics = algorithm.apply(state, cohort)
        jax.block_until_ready((state, diagnostics))
        channel.done(whole_loss)


if __name__ == "__main__":
    main(*sys.argv[1:])

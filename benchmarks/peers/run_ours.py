"""fedjax_med itself: what ``fedjax-med train`` runs, round after round."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import jax
import jax.numpy as jnp
import numpy as np
import workloads
from channel import Channel

from fedjax_med import assemble, evaluate
from fedjax_med.types import Examples


def main(file: str, name: str) -> None:
    channel = Channel()
    work = np.load(file)
    experiment = workloads.experiment(name)
    assembly = assemble.assemble(experiment, workloads.CLASSES, np.ones(workloads.CLASSES))
    label = work["label"]
    data = Examples(work["pixels"], label, np.ones(label.shape, bool))
    state = jax.device_put(assembly.init(data), assembly.placement.state)
    data = jax.device_put(data, assembly.placement.data)

    def loss() -> float:
        p = evaluate.probabilities(assembly.model, state.server.params, data.image)
        picked = jnp.take_along_axis(p, data.label[..., None], axis=-1)
        return float(-jnp.mean(jnp.log(picked)))

    while channel.next():
        state, _ = jax.block_until_ready(assembly.run_round(state, data))
        channel.done(loss)


if __name__ == "__main__":
    main(*sys.argv[1:])

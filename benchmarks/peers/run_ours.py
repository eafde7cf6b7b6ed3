"""fedjax_med itself: what ``fedjax-med train`` runs, round after round."""

import contextlib
import dataclasses
import functools
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import jax
import jax.numpy as jnp
import numpy as np
import workloads
from channel import Channel

from fedjax_med.data import client_data
from fedjax_med.data.dataset import Split
from fedjax_med.evaluation import predict
from fedjax_med.execution import backend
from fedjax_med.execution.compilation import fit_to_memory, round_loader
from fedjax_med.experiment.plan import compile_plan, first_state
from fedjax_med.run import metrics_writer


def held(work: Any) -> client_data.ClientData:
    """Who holds what, of a workload file."""
    clients, each = work["label"].shape
    label = work["label"].reshape(-1).astype(np.int32)
    none = np.zeros(label.shape)
    split = Split(work["pixels"].reshape(-1, *work["pixels"].shape[2:]), label, *[none] * 4)
    return client_data.ClientData(split, list(np.arange(clients * each).reshape(clients, each)))


def main(file: str, name: str) -> None:
    channel = Channel()
    backend.repeat_bits()  # as every command does
    channel.device = jax.devices()[0].device_kind
    arrays = np.load(file)  # read one by one: the float images are the peers'
    work = {what: arrays[what] for what in ("pixels", "label", "cohorts")}
    experiment = dataclasses.replace(workloads.experiment(name), rounds=len(work["cohorts"]))
    data = held(work)
    plan = workloads.plan_of(experiment)
    start = functools.partial(first_state, plan, data.shapes())
    compiled = fit_to_memory(compile_plan(plan), start, data, plan.key)
    state = jax.device_put(start(), compiled.placement.state)

    def loss() -> float:
        p = predict.probabilities(plan.model, state.server.params, jnp.asarray(work["pixels"]))
        picked = jnp.take_along_axis(p, jnp.asarray(work["label"])[..., None], axis=-1)
        return float(-jnp.mean(jnp.log(picked)))

    with contextlib.closing(round_loader(compiled, data, plan.key, experiment.rounds)) as feed:
        number = 0
        while channel.next():
            number += 1
            state, result = compiled.run_round(state, feed.get(number), plan.key)
            metrics_writer.check_finite(jax.device_get(result), state, number, 0)
            jax.block_until_ready(state)
            channel.done(loss)


if __name__ == "__main__":
    main(*sys.argv[1:])

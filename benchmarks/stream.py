"""What federating costs the device: five clients' round beside one client with all their images.

    python benchmarks/stream.py [--workload=cnn] [--map_clients=auto] [--pairs=5]

One client that trains on the same examples in one stream of batches is near what the device can do
with this model and batch; on an accelerator the five clients run side by side. Both are rounds of
fedjax_med, in alternation, and the device's name is printed with them.
"""

import contextlib
import dataclasses
import functools
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from absl import app, flags

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE / "peers"), str(HERE.parent)]

import jax
import machine
import numpy as np
import run_ours
import workloads

from fedjax_med.data import client_data
from fedjax_med.execution import backend
from fedjax_med.execution.compilation import fit_to_memory, round_loader
from fedjax_med.experiment.plan import compile_plan, first_state

flags.DEFINE_list("workload", ["cnn", "efficientnet_lite0"], "what to train")
flags.DEFINE_string("map_clients", "auto", "how the five clients are mapped")
flags.DEFINE_integer("pairs", 5, "timed rounds of each, in alternation", lower_bound=1)
flags.DEFINE_integer("images", 0, "images a client; 0: those of the tables", lower_bound=0)
FLAGS = flags.FLAGS


def rounds(name: str, data: client_data.ClientData, **changes: Any) -> Iterator[str]:
    """Train a round whenever the next item is asked for; items say how clients are mapped."""
    experiment = dataclasses.replace(workloads.experiment(name), rounds=10**6, **changes)
    plan = workloads.plan_of(experiment)
    start = functools.partial(first_state, plan, data.shapes())
    compiled = fit_to_memory(compile_plan(plan), start, data, plan.key)
    state = jax.device_put(start(), compiled.placement.state)
    with contextlib.closing(round_loader(compiled, data, plan.key, experiment.rounds)) as feed:
        for number in range(1, experiment.rounds + 1):
            batch = feed.get(number)
            state, _ = jax.block_until_ready(compiled.run_round(state, batch, plan.key))
            yield compiled.backend.name


def compare(name: str, images: int, map_clients: str, pairs: int) -> tuple[str, list[float], float]:
    """How the clients were mapped, each pair's ratio, and the seconds of the clients' round."""
    work = workloads.WORKLOADS[name]
    data = workloads.examples(work.clients, images or work.images, work.image_size)
    held = run_ours.held({"pixels": np.asarray(data.image), "label": np.asarray(data.label)})
    everything = held._replace(indices=(np.concatenate(held.indices),))
    with (
        contextlib.closing(rounds(name, held, map_clients=map_clients)) as clients,
        contextlib.closing(rounds(name, everything, setting="centralized")) as stream,
    ):
        how = next(clients)
        next(stream)  # both are compiled now
        seconds: list[list[float]] = []
        for _ in range(pairs):
            seconds.append([])
            for one in (clients, stream):
                began = time.perf_counter()
                next(one)
                seconds[-1].append(time.perf_counter() - began)
    return how, [a / b for a, b in seconds], statistics.median(a for a, _ in seconds)


def main(arguments: list[str]) -> None:
    """Measure the workloads and print a table."""
    del arguments
    backend.repeat_bits()  # as every command does
    kind = jax.devices()[0].device_kind
    print(f"On {machine.processor() if kind == 'cpu' else kind}:\n")
    print(
        "| workload | clients run | seconds a round | times one stream (lowest to highest pair) |"
    )
    print("|---|---|---|---|")
    for name in FLAGS.workload:
        how, ratios, seconds = compare(name, FLAGS.images, FLAGS.map_clients, FLAGS.pairs)
        ratio = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        print(f"| {name} | {how} | {seconds:.3g} | {ratio} |", flush=True)


if __name__ == "__main__":
    app.run(main)

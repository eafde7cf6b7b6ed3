"""How the cost of a round grows: with the clients, the local epochs, the devices.

    python benchmarks/growth.py [--axes=clients,epochs,devices] [--json=FILE] [--plot=FILE]

Every point is a process of its own, so that its peak memory is its own. The devices are virtual
ones, which share this machine's cores: they show what dealing the clients over devices costs, not
what more hardware brings.
"""

import contextlib
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

from absl import app, flags, logging

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import as_markdown
import machine
import paths

from fedjax_med.execution import backend
from fedjax_med.execution.compilation import round_loader

AXES = ("clients", "epochs", "devices")
IMAGES, SIDE, BATCH = 20, 32, 10  # images a client, pixels, images a step

flags.DEFINE_list("axes", list(AXES), "along which of clients, epochs, devices")
flags.DEFINE_integer("most_clients", 10_000, "the largest federation", lower_bound=1)
flags.DEFINE_integer(
    "rounds", 3, "timed rounds a point, after the first; ten times as many of small points", 1
)
paths.define_file("json", "", "where to write the figures")
paths.define_file("plot", "", "where to draw them, as a picture")
flags.DEFINE_string("point", "", "measure one point, given as JSON, in this process")
FLAGS = flags.FLAGS


class Point(NamedTuple):
    """One measurement: a federation and how it trains."""

    axis: str
    clients: int = 8
    cohort: int = 8
    epochs: int = 1
    devices: int = 1


def points(axes: list[str], most_clients: int) -> list[Point]:
    """All points of the axes, from small to large."""
    sizes = [size for size in (1, 10, 100, 1_000, 10_000) if size <= most_clients]
    every = {
        "clients": [Point("clients", size, size) for size in sizes]
        + [Point("cohort of 100", size, 100) for size in sizes if size > 100],
        "epochs": [Point("epochs", epochs=number) for number in range(1, 6)],
        "devices": [Point("devices", devices=number) for number in (1, 2, 4)],
    }
    return [point for axis in axes for point in every[axis]]


def experiment(point: Point, rounds: int) -> Any:
    """The small network on small images; one client after the other, or dealt over devices."""
    import workloads

    from fedjax_med.experiment import resolve
    from fedjax_med.experiment.config import Client, Experiment, Spec

    sample = Spec("uniform", {"size": point.cohort})
    return resolve.complete(
        Experiment(
            rounds=rounds,
            num_clients=point.clients,
            image_size=SIDE,
            model=Spec("cnn", {"widths": (8, 16)}),
            augment=workloads.NO_AUGMENTATION,
            client=Client(
                epochs=point.epochs,
                batch_size=BATCH,
                optimizer=Spec("sgd", {"learning_rate": 0.05}),
                schedule="constant",
            ),
            cohort=Spec("everyone") if point.cohort == point.clients else sample,
            map_clients="sequential" if point.axis != "devices" else "sharded",
        )
    )


def federation(point: Point, file: Path) -> Any:
    """Who holds what; the images are in `file`, of which a round reads what it trains on."""
    import numpy as np
    import workloads

    from fedjax_med.data import client_data
    from fedjax_med.data.dataset import Split
    from fedjax_med.data.images.lazy import DiskImages

    number, size = point.clients * IMAGES, SIDE * SIDE * 3
    rng = np.random.default_rng(0)
    with file.open("wb") as out:
        for _ in range(point.clients):
            out.write(rng.bytes(IMAGES * size))

    class Reader:
        def __getitems__(self, positions: list[int], /) -> list[dict[str, Any]]:
            with file.open("rb") as images:
                found = [
                    np.fromfile(images, np.uint8, size, offset=at * size - images.tell())
                    for at in positions
                ]
            return [{"image": one.reshape(SIDE, SIDE, 3)} for one in found]

    places = np.arange(number)
    bright = np.full(number, 255, np.uint8)
    image: Any = DiskImages(Reader(), places, bright, (SIDE, SIDE, 3), file)
    label = rng.integers(0, workloads.CLASSES, number).astype(np.int32)
    split = Split(image, label, *[places] * 4)
    return client_data.ClientData(split, list(places.reshape(point.clients, IMAGES)))


def measure(point: Point, rounds: int) -> dict[str, Any]:
    """Train the point's federation here: seconds a round, to the first one, and peak memory."""
    began = time.perf_counter()
    import jax
    import workloads

    from fedjax_med.experiment.plan import compile_plan, first_state

    backend.repeat_bits()  # as every command does
    rounds *= 10 if point.cohort * point.epochs < 100 else 1  # those of milliseconds
    one = experiment(point, rounds + 1)
    plan = workloads.plan_of(one)
    compiled = compile_plan(plan)
    with contextlib.ExitStack() as opened:
        folder = Path(opened.enter_context(tempfile.TemporaryDirectory()))
        held = federation(point, folder / "images")
        loader = round_loader(compiled, held, plan.key, one.rounds)
        feed = opened.enter_context(contextlib.closing(loader))
        state = jax.device_put(first_state(plan, held.shapes()), compiled.placement.state)
        seconds, first = [], 0.0
        for number in range(1, rounds + 2):
            started = time.perf_counter()
            batch = feed.get(number)
            state, _ = jax.block_until_ready(compiled.run_round(state, batch, plan.key))
            seconds.append(time.perf_counter() - started)
            first = first or time.perf_counter() - began
    return {
        **point._asdict(),
        "seconds": statistics.median(seconds[1:]),
        "seconds_to_first_round": first,
        "peak_megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def measure_apart(point: Point, rounds: int) -> dict[str, Any]:
    """`measure` in a process of its own, with as many virtual devices as the point has."""
    flag = f"--xla_force_host_platform_device_count={point.devices}"
    arguments = [f"--point={json.dumps(point._asdict())}", f"--rounds={rounds}"]
    answer = subprocess.run(
        [sys.executable, __file__, *arguments],
        env=os.environ
        | {
            "PYTHONPATH": str(HERE.parent),
            "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {flag}".strip(),
        },
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return dict(json.loads(answer.stdout))


def draw(results: list[dict[str, Any]], file: str) -> None:
    """Seconds a round and peak memory over each axis."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    axes = [axis for axis in AXES if any(one["axis"] == axis for one in results)]
    figure, panels = pyplot.subplots(
        2, len(axes), figsize=(4 * len(axes), 6), layout="constrained", squeeze=False
    )
    rows = (("seconds", "seconds a round"), ("peak_megabytes", "peak memory (MB)"))
    for column, axis in enumerate(axes):
        for panel, (what, label) in zip(panels[:, column], rows, strict=True):
            _lines(panel, results, axis, what)
            panel.set(xlabel=axis, ylabel=label)
            panel.grid(alpha=0.3)
    figure.savefig(file, dpi=120)


def _lines(panel: Any, results: list[dict[str, Any]], axis: str, what: str) -> None:
    """What every point of the axis has of `what`; along the clients, the fixed cohort too."""
    for name in (axis, "cohort of 100") if axis == "clients" else (axis,):
        line = [one for one in results if one["axis"] == name]
        label = "all take part" if name == "clients" else name
        panel.plot([one[axis] for one in line], [one[what] for one in line], "o-", label=label)
    if axis == "clients":
        panel.set_xscale("log")
        panel.legend()
    else:
        panel.set_xticks(sorted({one[axis] for one in results if one["axis"] == axis}))
    if axis == "clients" and what == "seconds":
        panel.set_yscale("log")
    else:
        panel.set_ylim(0, 1.1 * panel.dataLim.ymax)


def main(arguments: list[str]) -> None:
    """Measure every point apart, print the table, draw it; or measure the one that is given."""
    del arguments
    logging.set_verbosity(logging.WARNING)  # JAX tells of every backend that is not there
    if FLAGS.point:
        print(json.dumps(measure(Point(**json.loads(FLAGS.point)), FLAGS.rounds)))
        return
    results = []
    for point in points(FLAGS.axes, FLAGS.most_clients):
        results.append(measure_apart(point, FLAGS.rounds))
        print(f"{point}: {results[-1]['seconds']:.3g} s", file=sys.stderr, flush=True)
    print(as_markdown.growth(results))
    if FLAGS.json:
        text = json.dumps({**machine.describe(), "points": results}, indent=2)
        Path(FLAGS.json).write_text(text + "\n")
    if FLAGS.plot:
        draw(results, FLAGS.plot)


if __name__ == "__main__":
    app.run(main)

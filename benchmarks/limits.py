"""How near a round is to what its own products and its memory allow, and what its parts cost.

    python benchmarks/limits.py [--workload=cnn,linear] [--rounds=benchmarks/latest.json]

Of the round's program, as it is traced: its matrix products alone, at their very shapes; and one
pass over memory between them, in which the result of each is read and the operand of the next is
written. XLA's CPU compiler ends its loops at a product, so that a round of these products hardly
takes less than both. With the figures of `rounds.py` it prints what that allows beside each peer.
"""

import collections
import contextlib
import functools
import json
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

from absl import flags

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE / "peers"), str(HERE.parent)]

import jax
import jax.numpy as jnp
import machine
import numpy as np
import optax
import paths
import run_ours
import stream
import workloads
from as_markdown import TARGETS
from jax.interpreters import partial_eval

from fedjax_med import ops
from fedjax_med.client import augmentation
from fedjax_med.data import client_data
from fedjax_med.errors import UserError
from fedjax_med.execution import backend
from fedjax_med.execution.compilation import round_loader
from fedjax_med.experiment.build import build_model
from fedjax_med.experiment.config import Augment
from fedjax_med.experiment.plan import compile_plan, first_state
from fedjax_med.ops import convolution, patches

FLAGS = flags.FlagValues()  # its own: `stream` has flags of the same names
flags.DEFINE_list("workload", list(workloads.WORKLOADS), "what to train", flag_values=FLAGS)
flags.DEFINE_integer("images", 0, "images a client; 0: those of the tables", 0, flag_values=FLAGS)
flags.DEFINE_integer("repeats", 9, "of each measurement; the median counts", 1, flag_values=FLAGS)
paths.define_file("rounds", "", "what `rounds.py --json` wrote, on this machine", flag_values=FLAGS)
paths.define_file("json", "", "where to write the figures", flag_values=FLAGS)


class Product(NamedTuple):
    """A matrix product of a program."""

    shapes: tuple[Any, Any]  # of both operands
    result: Any
    options: tuple[tuple[str, Any], ...]  # of `dot_general`

    @property
    def passed(self) -> tuple[Any, ...]:
        """What a pass before and one after it write and read: the larger operand and the result.

        Nothing where the result is smaller than both operands, as a kernel's gradient is: they are
        there already, for the product with the kernel and for that with its transpose.
        """
        small, large = sorted(self.shapes, key=lambda one: math.prod(one.shape))
        if math.prod(self.result.shape) < math.prod(small.shape):
            return ()
        return large, self.result


def products(jaxpr: Any, times: int = 1) -> Iterator[tuple[int, Product]]:
    """The products of a program, with how often each is computed."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            shapes = tuple(
                jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in equation.invars
            )
            result = equation.outvars[0].aval
            options = {**equation.params, "out_sharding": None}
            yield times, Product(shapes, result, tuple(sorted(options.items())))
        again = times * equation.params.get("length", 1)  # of a loop
        for value in equation.params.values():
            for inner in value if isinstance(value, tuple | list) else (value,):
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    yield from products(inner, again)


def seconds(function: Callable[..., Any], *arguments: Any) -> float:
    """The median time of a call, compiled as a round is; results go where the last ones were."""

    def again(arguments: Any, results: Any) -> Any:
        del results
        return function(*arguments)

    options = ops.compiler_options()
    run = jax.jit(again, donate_argnums=1, keep_unused=True, compiler_options=options)
    shapes = jax.eval_shape(function, *arguments)
    results = jax.tree.map(lambda one: jnp.zeros(one.shape, one.dtype), shapes)
    taken = []
    for _ in range(FLAGS.repeats + 1):
        began = time.perf_counter()
        results = jax.block_until_ready(run(arguments, results))
        taken.append(time.perf_counter() - began)
    return statistics.median(taken[1:])


def multiply(operands: list[Any], of: list[Product]) -> list[Any]:
    """All products, none of which waits for another."""
    return [
        jax.lax.dot_general(*pair, **dict(one.options))
        for pair, one in zip(operands, of, strict=True)
    ]


def alone(found: list[tuple[int, Product]]) -> tuple[float, float]:
    """Seconds of a round's products alone, and of one pass over memory between them alone."""
    loops: dict[int, list[Product]] = collections.defaultdict(list)
    for times, one in found:
        loops[times].append(one)
    together, passes = 0.0, 0.0
    for times, some in loops.items():
        operands = [[jnp.ones(one.shape, one.dtype) for one in two.shapes] for two in some]
        together += times * seconds(lambda pairs, of=some: multiply(pairs, of), operands)
        moved = [jnp.ones(one.shape, one.dtype) for two in some for one in two.passed]
        if moved:  # a negation reads and writes: half of it is one of both for each
            passes += times * seconds(lambda arrays: [-one for one in arrays], moved) / 2
    return together, passes


def parts(name: str) -> dict[str, float]:
    """Seconds of what else a client's step does: its batch's images, an optimizer's update."""
    work, one = workloads.WORKLOADS[name], workloads.experiment(name)
    model = build_model(one, workloads.CLASSES)
    shape = (work.image_size, work.image_size, 3)
    params = model.init(jax.random.key(0), shape)
    images = jnp.ones((FLAGS.images or work.images, *shape), jnp.uint8)
    index = jnp.arange(work.batch_size)[::-1]
    found = {"the batch's images taken": seconds(lambda all_, at: all_[at], images, index)}
    for said, changes in (("normalised", one.augment), ("augmented as by default", Augment())):
        prepare = augmentation.build(changes, model.mean, model.std)
        found[said] = seconds(prepare, images[index], jax.random.key(0))
    for said, optimizer in (("SGD's update", optax.sgd(0.1)), ("AdamW's update", optax.adamw(0.1))):

        def update(gradient: Any, state: Any, params: Any, of: Any = optimizer) -> Any:
            changes, state = of.update(gradient, state, params)
            return optax.apply_updates(params, changes), state

        found[said] = seconds(update, params, optimizer.init(params), params)
    return found


def timed_rounds(name: str, held: client_data.ClientData) -> float:
    """The median seconds of a round."""
    taken = []
    with contextlib.closing(stream.rounds(name, held)) as rounds:
        next(rounds)
        for _ in range(FLAGS.repeats):
            began = time.perf_counter()
            next(rounds)
            taken.append(time.perf_counter() - began)
    return statistics.median(taken)


def without_windows(name: str, held: client_data.ClientData) -> float | None:
    """Seconds of a round whose depthwise kernels are 1x1; None if the network has none."""
    met = []

    def one_place(image: Any, kernel: Any, strides: tuple[int, int], padding: patches.Pads) -> Any:
        met.append(kernel.shape)
        places = patches.windows(image, kernel.shape[:2], strides, padding)
        middle = kernel[kernel.shape[0] // 2, kernel.shape[1] // 2]
        return places[len(places) // 2] * middle[None, None]

    with mock.patch.object(convolution, "depthwise", one_place):
        taken = timed_rounds(name, held)
    return taken if met else None


def measure(name: str) -> dict[str, Any]:
    """A workload's round, its limits, and the parts of a step."""
    work, one = workloads.WORKLOADS[name], workloads.experiment(name)
    per_client = FLAGS.images or work.images
    data = workloads.examples(work.clients, per_client, work.image_size)
    held = run_ours.held({"pixels": np.asarray(data.image), "label": np.asarray(data.label)})
    with mock.patch.object(ops, "compiler_options", return_value={}):  # no part may have its own
        plan = workloads.plan_of(one)
        compiled = compile_plan(plan)
    with contextlib.closing(round_loader(compiled, held, plan.key, 1)) as loader:
        state = jax.eval_shape(functools.partial(first_state, plan), held.shapes())
        program = jax.make_jaxpr(compiled.run_round)(state, loader.largest(), plan.key).jaxpr
    used, _ = partial_eval.dce_jaxpr(program, [True] * len(program.outvars))
    found = list(products(used))
    together, passes = alone(found)
    flops = workloads.training_flops(plan.model, data.image.shape[-3:])
    return {
        "workload": name,
        "round": timed_rounds(name, held),
        "without_windows": without_windows(name, held),
        "products": together,
        "passes": passes,
        "at_peak": flops * work.cohort * per_client / workloads.matrix_peak(),
        "steps": work.cohort * -(-per_client // work.batch_size),
        "parts": parts(name),
    }


def as_markdown(results: list[dict[str, Any]], measured: dict[str, Any]) -> str:
    """The limits, the targets beside them where the peers were `measured`, the parts of a step."""
    lines = [
        "| workload | seconds a round | with 1x1 depthwise kernels | its products alone | its "
        "passes alone | both | direct convolutions at the products' peak |",
        "|---|---|---|---|---|---|---|",
    ]
    for one in results:
        both = one["products"] + one["passes"]
        figures = (
            *(one["round"], one["without_windows"]),
            *(one["products"], one["passes"], both, one["at_peak"]),
        )
        cells = ("-" if x is None else f"{x:.3g}" for x in figures)
        lines.append(f"| {one['workload']} | " + " | ".join(cells) + " |")
    lines += ["", "| workload | peer | target | reached | limit |", "|---|---|---|---|---|"]
    for one in results:
        slack = one["round"] / (one["products"] + one["passes"])
        for peer, target in TARGETS[one["workload"]].items():
            if ratio := measured.get(one["workload"], {}).get(peer):
                row = f"| {one['workload']} | {peer} | {target} | {ratio:.2f} |"
                lines.append(f"{row} {ratio * slack:.2f} |")
    lines += ["", "| milliseconds | " + " | ".join(one["workload"] for one in results) + " |"]
    lines += ["|---" * (1 + len(results)) + "|"]
    steps = [one["round"] / one["steps"] for one in results]
    for said in ("a client's step", *results[0]["parts"]):
        row = steps if said == "a client's step" else [one["parts"][said] for one in results]
        lines.append(f"| {said} | " + " | ".join(f"{1000 * x:.3g}" for x in row) + " |")
    return "\n".join(lines)


def main() -> None:
    """Measure the workloads, print the tables."""
    backend.repeat_bits()  # as every command does
    results = [measure(name) for name in FLAGS.workload]
    measured = json.loads(paths.read_text(FLAGS.rounds))["workloads"] if FLAGS.rounds else []
    ratios = {
        one["workload"]: {peer["peer"]: peer.get("ratio") for peer in one["peers"]}
        for one in measured
    }
    print(as_markdown(results, ratios))
    if FLAGS.json:
        text = json.dumps({**machine.describe(), "workloads": results}, indent=2)
        Path(FLAGS.json).write_text(text + "\n")


if __name__ == "__main__":
    try:
        FLAGS(sys.argv)
        main()
    except flags.Error as error:
        sys.exit(f"{error}\n{FLAGS.get_help()}")
    except UserError as error:
        sys.exit(str(error))

"""Times a federated round side by side with other frameworks, in alternation, and prints a table.

    python benchmarks/rounds.py [--workload=cnn] [--peers=pytorch,pfl] [--pairs=5] [--json=FILE]

Each peer gets an environment of its own (made here, once); for each, it and fedjax_med run the same
work in turns, so that a noisy machine disturbs both alike. After the first round both must have
reached the same loss to 1e-3: they did the same work.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from absl import flags

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import as_markdown
import machine
import paths
from contender import Contender, TooSlowError, environment, versions

from fedjax_med.errors import UserError, expand

PEERS = ("pytorch", "pfl", "flower", "fedjax")
ON_ACCELERATORS = (("gpu", "pytorch"),)  # elsewhere than on CPUs nobody else is compared
WORKLOADS = ("cnn", "efficientnet_lite0", "linear")

FLAGS = flags.FlagValues()  # its own, as the other benchmarks have flags of the same names
flags.DEFINE_list("peers", list(PEERS), "whom to compare with", flag_values=FLAGS)
flags.DEFINE_enum("workload", "all", (*WORKLOADS, "all"), "what to train", flag_values=FLAGS)
flags.DEFINE_integer(
    "pairs", 5, "timed turns of each, in alternation", lower_bound=1, flag_values=FLAGS
)
flags.DEFINE_integer(
    "images",
    0,
    "images a client, a multiple of the batch size; 0: those of the published tables",
    lower_bound=0,
    flag_values=FLAGS,
)
flags.DEFINE_float(
    "limit", 300.0, "seconds that a round may take, with its compilation", flag_values=FLAGS
)
paths.define_file("json", "", "where to write the figures", flag_values=FLAGS)
flags.DEFINE_string(
    "environments",
    "~/.cache/fedjax_med_benchmarks",
    "where the peers are installed",
    flag_values=FLAGS,
)


def write(name: str, file: Path) -> dict[str, Any]:
    """Write the workload; "flops" of a round, "rounds_in_a_turn", "matrix_peak", the "device".

    In a process of its own, so that this one has neither the arrays nor JAX while others are timed.
    """
    arguments = [name, str(FLAGS.images), str(FLAGS.pairs), str(file)]
    answer = subprocess.run(
        [sys.executable, str(HERE / "workloads.py"), *arguments],
        env=os.environ | {"PYTHONPATH": str(HERE.parent)},
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return dict(json.loads(answer.stdout))


def compare(peer: str, workload: Path, about: dict[str, Any], environments: Path) -> dict[str, Any]:
    """Alternate turns of the peer and of fedjax_med; `about` is what `write` said."""
    if about["platform"] != "cpu" and (about["platform"], peer) not in ON_ACCELERATORS:
        return {"peer": peer, "not_on": about["platform"]}
    rounds = about["rounds_in_a_turn"]
    python = environment(peer, environments)
    try:
        them = Contender(python, peer, workload, FLAGS.limit)
    except TooSlowError:
        return {"peer": peer, "over_seconds": FLAGS.limit}
    us = Contender(sys.executable, "ours", workload, FLAGS.limit)
    if not abs(them.loss - us.loss) <= 1e-3:  # nor if one is not a number
        them.kill()
        us.kill()
        raise SystemExit(f"{peer} did other work: loss {them.loss}, fedjax_med {us.loss}")
    seconds: list[tuple[float, float]] = [
        (them.turn(rounds), us.turn(rounds)) for _ in range(FLAGS.pairs)
    ]
    return {
        "peer": peer,
        "versions": versions(python),
        "devices": [them.device, us.device],
        "loss_after_first_round": [them.loss, us.loss],
        "seconds": [statistics.median(side) for side in zip(*seconds, strict=True)],
        "ratio": statistics.median(one / other for one, other in seconds),
        "ratios": [one / other for one, other in seconds],
        "seconds_to_first_round": [them.first, us.first],
        "peak_megabytes": [them.quit(), us.quit()],
    }


def measure(name: str, environments: Path) -> dict[str, Any]:
    """One workload beside every peer."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"{name}.npz"
        about = write(name, file)
        peers = [compare(peer, file, about, environments) for peer in FLAGS.peers]
    ours = [one["seconds"][1] for one in peers if "seconds" in one]
    rate = about["flops"] / statistics.median(ours) if ours else None
    fraction = None if rate is None else rate / about["matrix_peak"]
    return {"workload": name, **about, "fraction_of_peak": fraction, "peers": peers}


def main() -> None:
    """Measure the workloads, print their tables."""
    environments = expand(FLAGS.environments)
    results = []
    for name in WORKLOADS if FLAGS.workload == "all" else (FLAGS.workload,):
        results.append(measure(name, environments))
        print(as_markdown.rounds(results[-1]) + "\n", flush=True)
        if FLAGS.json:  # after each workload, since all of them take a while
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

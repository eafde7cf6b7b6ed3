"""A run with more room for each client's examples gives the same model, to the last bit."""

import dataclasses
import json

import numpy as np
import pytest
import tiny
import toy

from fedjax_med import ops
from fedjax_med.data import client_data
from fedjax_med.experiment.config import Checkpoint, Spec
from fedjax_med.experiment.resolve import complete
from fedjax_med.run.checkpoint import Checkpoints
from fedjax_med.run.train import TrainJob, train

CAPACITY = 200


def result(workdir):
    """The training losses; the digest of the state, all other metrics, and the evaluation."""
    checkpoints = Checkpoints(workdir, Checkpoint(), read_only=True)
    try:
        digest = checkpoints.read_identity(2)["digest"]
    finally:
        checkpoints.close()
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    metrics = [json.loads(line) | {"seconds": 0} for line in lines]
    losses = [[line.pop("train_loss"), *line["clients"].pop("train_loss")] for line in metrics]
    return losses, (digest, metrics, (workdir / "evaluation.json").read_bytes())


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"map_clients": "vmap", "partition": Spec("quantity", {})},
        {"cohort": Spec("uniform", {"size": 2}), "algorithm": Spec("scaffold", {})},
        {"aggregator": Spec("q_fair", {}), "algorithm": Spec("ditto", {})},
    ],
    ids=["averaging", "side by side", "cohort", "losses"],
)
def test_a_larger_capacity_is_used_and_changes_no_bit_of_the_model(tmp_path, monkeypatch, changes):
    stacked, shapes = client_data.stack, []

    def stack(*arguments):
        given = stacked(*arguments)
        shapes.append(given.label.shape[1])
        return given

    monkeypatch.setattr(client_data, "stack", stack)
    options = ops.compiler_options() | toy.SAME_BITS
    monkeypatch.setattr(ops, "compiler_options", lambda: options)
    experiment = complete(dataclasses.replace(tiny.get_config(), rounds=2, **changes))
    seen = {}
    for capacity in (0, CAPACITY):
        job = TrainJob(experiment, "", str(tmp_path), tmp_path / str(capacity), "last")
        assert train(job._replace(capacity=capacity)) == 0
        seen[capacity] = shapes[:]
        shapes.clear()
    assert max(seen[0]) < CAPACITY
    assert set(seen[CAPACITY]) == {CAPACITY}
    losses, first = result(tmp_path / "0")
    others, second = result(tmp_path / str(CAPACITY))
    assert first == second
    # Sums over more steps are added in another order.
    np.testing.assert_allclose(others, losses, rtol=1e-6)

"""Loads a run's kept updates for the valuation of its clients, and checks that they replay."""

import functools

from fedjax_med.contribution import replay, valuation
from fedjax_med.core.algorithm import message_of
from fedjax_med.errors import UserError
from fedjax_med.evaluation.predict import pool
from fedjax_med.experiment.plan import first_state
from fedjax_med.run import message_log
from fedjax_med.run.load import LoadedRun, restore

_NEAR = 1e-3  # tolerance for rounding, as a share of the model's movement


def load_kept(run: LoadedRun) -> replay.Run:
    """Load the updates kept until the last checkpoint, and check that their replay reaches it.

    Args:
        run: loaded with `from_start`, since the first weights are needed, not a checkpoint's.

    Raises:
        UserError: The run kept no updates, has no validation images, or replays to another model.
    """
    plan, process, data = run.plan, run.plan.process, run.data
    valuation.check_process(process, plan.experiment.algorithm.name)
    validation = pool(data.validation)
    if not len(validation.label):
        raise UserError(
            "the run has no validation images to value a model on: train with "
            "--config.validation_fraction above 0."
        )
    start = first_state(plan, data.train.shapes())
    state, _ = restore(run)
    message = message_of(
        process.algorithm, *process.algorithm.init(start.server.params), data.train.shapes()
    )
    load = functools.partial(message_log.load, run.workdir, message=message)
    kept = replay.Run(process, plan.key, plan.model, start, int(state.round), load, validation)
    apart = replay.distance(replay.replay(kept), state, start)
    if not apart <= _NEAR:
        raise UserError(
            f"the updates in {run.workdir} do not come to the model of its checkpoint (they miss "
            f"it by {apart:.1%} of the way from the first model): they are of another run, or the "
            "code has changed. Train again, into another --workdir."
        )
    return kept

"""Trains and evaluates experiments from a program, as the commands do from the command line."""

from collections.abc import Collection
from pathlib import Path
from typing import Any, NamedTuple

from fedjax_med.errors import expand
from fedjax_med.execution.backend import repeat_bits
from fedjax_med.execution.settings import fix_settings, fixed_settings
from fedjax_med.experiment import config, options, resolve
from fedjax_med.files import clear_temporary, read_object
from fedjax_med.run import train as run_train
from fedjax_med.run.evaluate import evaluate_checkpoint
from fedjax_med.run.load import load_run, read_run
from fedjax_med.run.metrics_file import read_records
from fedjax_med.run.tested_on import check_test_set
from fedjax_med.run.workdir import CACHE_DIR

_LIMIT = 2**30  # bytes of evaluation.json


class Run(NamedTuple):
    """A trained run.

    Attributes:
        workdir: with the checkpoints, metrics and reports.
        records: one for each round, as in metrics.jsonl.
        evaluation: on the test set, as in evaluation.json; None: not evaluated.
    """

    workdir: Path
    records: list[dict[str, Any]]
    evaluation: dict[str, Any] | None


@fixed_settings()
def train(
    experiment: config.Experiment,
    data_dir: str | Path = "",
    workdir: str | Path = "",
    *,
    cache_dir: str | Path = CACHE_DIR,
    evaluate: bool = True,
) -> Run:
    """Train an experiment in its workdir, or resume it where it stopped, as `fedjax-med train`.

    Args:
        experiment: what to train; see `fedjax_med.load_config`.
        data_dir: the folder of the images; empty for data that need none.
        workdir: where the run lives; empty: runs/NAME OF THE EXPERIMENT.
        cache_dir: where prepared images are kept.
        evaluate: whether to evaluate on the test set when training is complete.

    Raises:
        UserError: The experiment, the data or the workdir is not usable.
        KeyboardInterrupt: A signal stopped the run, after a checkpoint; the same call resumes it.
    """
    repeat_bits()
    config.check_types(experiment, config.Experiment(), "the experiment")
    resolve.check_values(experiment)
    experiment = resolve.complete(experiment)
    options.check(experiment)
    fix_settings()  # again: components were imported
    folder = expand(workdir or f"runs/{experiment.name or 'experiment'}")
    which = experiment.checkpoint.tested if evaluate else ""
    if run_train.train(
        run_train.TrainJob(experiment, str(data_dir), str(cache_dir), folder, which)
    ):
        raise KeyboardInterrupt(f"stopped after a checkpoint in {folder}")
    evaluation = read_object(folder / "evaluation.json", _LIMIT) if evaluate else None
    return Run(folder, read_records(folder / "metrics.jsonl", experiment.rounds), evaluation)


@fixed_settings()
def evaluate_run(
    workdir: str | Path,
    *,
    data_dir: str | Path = "",
    cache_dir: str | Path = "",
    checkpoint: str = "",
    allow_components: Collection[str] = (),
) -> dict[str, Any]:
    """Evaluate a trained run on the test set, as `fedjax-med evaluate` does.

    Args:
        workdir: of the run.
        data_dir: the folder of the images, if it has moved.
        cache_dir: where prepared images are kept, if it has moved.
        checkpoint: best (by validation) or last; empty: the experiment's choice.
        allow_components: the components of the run from other packages, as ``MODULE:FUNCTION``,
            whose code may run; a workdir may be somebody else's.

    Returns:
        The content of ``evaluation.json``, which is written into the workdir.

    Raises:
        UserError: There is no run, no sound checkpoint or no test set, the data are others, the
            workdir has an evaluation on other test images, or the run has a component that is not
            allowed.
    """
    folder = expand(workdir)
    saved = read_run(folder, allow_components)
    clear_temporary(folder)
    run = load_run(saved, str(data_dir), str(cache_dir))
    check_test_set(folder, run.data)
    if saved.saved.get("test", run.data.test_digest) != run.data.test_digest:
        print(f"The test images are not those that were there when {folder} was trained.")
    return evaluate_checkpoint(folder, run.plan, run.data, checkpoint)

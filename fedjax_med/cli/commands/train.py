"""trains a federation, or resumes it where it stopped.

Give the same command again to resume after an interruption; a complete run is left unchanged.
"""

import contextlib

from absl import flags as absl_flags

from fedjax_med.cli.flags import define_begin_anew, define_config, define_data, define_processes
from fedjax_med.cli.reporting import reported
from fedjax_med.errors import expand
from fedjax_med.experiment import config
from fedjax_med.run.train import TrainJob, train


def define_flags(flags: absl_flags.FlagValues, arguments: list[str]) -> None:
    """Define the command's flags on `flags`."""
    define_config(flags, arguments)
    define_data(flags)
    absl_flags.DEFINE_string(
        "workdir", "", "where the run lives (default: runs/NAME OF THE CONFIG)", flag_values=flags
    )
    absl_flags.DEFINE_boolean(
        "evaluate", False, "evaluate on the test set when training is complete", flag_values=flags
    )
    absl_flags.DEFINE_string(
        "profile_rounds",
        "",
        "trace these rounds, such as 3-5, into WORKDIR/profile",
        flag_values=flags,
    )
    define_begin_anew(flags)
    define_processes(flags)


def run(flags: absl_flags.FlagValues) -> int:
    """Load the data and train the experiment in its workdir; return the exit code."""
    experiment: config.Experiment = flags.config
    workdir = expand(flags.workdir or f"runs/{experiment.name or 'experiment'}")
    which = experiment.checkpoint.tested if flags.evaluate else ""
    places = flags.data_dir, flags.cache_dir, workdir
    job = TrainJob(experiment, *places, which, flags.profile_rounds, flags.begin_anew)
    with reported(workdir) if flags.evaluate else contextlib.nullcontext():
        return train(job)

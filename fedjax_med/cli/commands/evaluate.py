"""evaluates the global model on the held-out test set, from a checkpoint.

Writes evaluation.json, predictions.csv, confusion_matrix.png and report.html into the workdir and
prints a table; for several workdirs (such as one experiment with several seeds) also the mean and
standard deviation. These must be of one data set, and an evaluation on other test images is not
replaced.

With --model=BUNDLE, --data_dir and --out: evaluates a bundle of `export` on images from outside, in
folders CLASS/FILE or Test/CLASS/FILE, and writes into --out; no run is read or changed.
"""

from absl import flags as absl_flags

from fedjax_med.artifact import bundle, outside
from fedjax_med.cli.flags import (
    define_checkpoint,
    define_components,
    define_data,
    define_model,
    given_cache_dir,
)
from fedjax_med.cli.reporting import reported
from fedjax_med.errors import UserError, check_name, expand
from fedjax_med.evaluation import tables
from fedjax_med.run.evaluate import CHECKPOINTS
from fedjax_med.run.library import evaluate_run
from fedjax_med.run.load import read_run
from fedjax_med.run.output import lasting
from fedjax_med.run.tested_on import check_same_test_set
from fedjax_med.run.workdir import check_writable


def define_flags(flags: absl_flags.FlagValues, arguments: list[str]) -> None:
    """Define the command's flags on `flags`."""
    define_data(flags)
    absl_flags.DEFINE_list(
        "workdir", [], "the workdir of a trained run, or several with commas", flag_values=flags
    )
    define_checkpoint(flags)
    define_components(flags)
    define_model(flags)
    absl_flags.DEFINE_string(
        "out", "", "with --model: the folder that gets the figures", flag_values=flags
    )
    absl_flags.DEFINE_string(
        "map", "", "with --model: FOLDER:CLASS,... of folders of other names", flag_values=flags
    )


def run(flags: absl_flags.FlagValues) -> int:
    """Evaluate the checkpoint of each workdir, or a bundle; return the exit code."""
    if flags.model:
        return _of_bundle(flags)
    if flags.out or flags.map:
        raise UserError("--out and --map go with --model=BUNDLE; a run has its workdir.")
    if not flags.workdir:
        raise UserError("expected --workdir=FOLDER, the workdir of a `fedjax-med train` run.")
    if flags.checkpoint:  # the experiment's own choice is checked when it is read
        check_name(flags.checkpoint, CHECKPOINTS, "the checkpoints to evaluate")
    allowed = flags.allow_components
    saved = [read_run(expand(workdir), allowed) for workdir in flags.workdir]
    for one in saved:
        check_writable(one.workdir)
    if len(saved) > 1:
        check_same_test_set(saved, flags.data_dir, given_cache_dir(flags))
    places = {"data_dir": flags.data_dir, "cache_dir": given_cache_dir(flags)}
    lost: list[int] = []
    with lasting(lost, "every run is evaluated all the same"):
        evaluations = []
        for workdir in flags.workdir:
            with reported(expand(workdir)):
                evaluations.append(
                    evaluate_run(
                        workdir, checkpoint=flags.checkpoint, allow_components=allowed, **places
                    )
                )
        if len(evaluations) > 1:
            print(f"\nAll {len(evaluations)} runs:\n\n{tables.markdown(evaluations)}")
    return 1 if lost else 0


def _of_bundle(flags: absl_flags.FlagValues) -> int:
    """Evaluate a bundle on a set of images from outside."""
    if flags.workdir or flags.checkpoint:
        raise UserError("expected either --workdir (with --checkpoint) or --model, got both.")
    if not flags.data_dir or not flags.out:
        raise UserError(
            "expected --data_dir=FOLDER, the images by class, and --out=FOLDER for the figures of "
            f"--model={flags.model}."
        )
    out = expand(flags.out)
    outside.check_out(out)
    check_writable(out)
    model = bundle.read(expand(flags.model), flags.allow_components)
    found = outside.scan(expand(flags.data_dir), model.class_names, flags.map)
    evaluation = outside.evaluate(model, found, out)
    for line in outside.shown(evaluation):
        print(line)
    print(f"Written: {out / 'evaluation.json'}, {out / 'predictions.csv'}")
    return 0

"""exports the global model of a run as a bundle, which others predict with.

Writes a folder with the weights (model.safetensors), all that prediction needs (bundle.json), a
model card (README.md) and the compiled program (program.stablehlo). The bundle needs neither the
training data nor the workdir, and reading it executes nothing: docs/export.md.
"""

from absl import flags as absl_flags

from fedjax_med.artifact.export import export
from fedjax_med.cli.flags import define_checkpoint, define_components
from fedjax_med.errors import UserError, check_name, expand, printable
from fedjax_med.run.evaluate import CHECKPOINTS


def define_flags(flags: absl_flags.FlagValues, arguments: list[str]) -> None:
    """Define the command's flags on `flags`."""
    absl_flags.DEFINE_string("workdir", "", "the workdir of a trained run", flag_values=flags)
    absl_flags.DEFINE_string("out", "", "the folder to write, a new one", flag_values=flags)
    absl_flags.DEFINE_string(
        "license", "unknown", "the license of the model, such as apache-2.0", flag_values=flags
    )
    absl_flags.DEFINE_integer(
        "cluster", -1, "of a clustered run the number of the model, from 0", flag_values=flags
    )
    absl_flags.DEFINE_boolean("program", True, "also write the compiled program", flag_values=flags)
    define_checkpoint(flags)
    define_components(flags)


def run(flags: absl_flags.FlagValues) -> int:
    """Write the bundle and say what is in it; return the exit code."""
    if not flags.workdir:
        raise UserError("expected --workdir=FOLDER, the workdir of a `fedjax-med train` run.")
    if not flags.out:
        raise UserError("export needs a folder to write: give --out=FOLDER.")
    if flags.checkpoint:  # the experiment's own choice is checked when it is read
        check_name(flags.checkpoint, CHECKPOINTS, "the checkpoints to export")
    out = expand(flags.out)
    info = export(
        expand(flags.workdir),
        out,
        checkpoint=flags.checkpoint,
        of_license=flags.license,
        cluster=flags.cluster,
        with_program=flags.program,
        allowed=flags.allow_components,
    )
    where = info["provenance"]
    print(f"{out}: the model of round {where['round']} ({where['checkpoint']}).")
    if about := info["program"]:
        print(
            f"Its program for {', '.join(about['platforms'])} was compared with the model on "
            f"{about['compared_images']} drawn images: probabilities differ by at most "
            f"{about['largest_difference']:.1e}."
        )
    if info["no_evaluation"]:
        print(f"Without figures: {printable(info['no_evaluation'], 300)}.")
    if not info["privacy"]["promised"]:
        print("No epsilon is promised: its training images may be inferred from the model.")
    if info["license"] == "unknown":
        print("Its license is unknown: give --license=IDENTIFIER before you pass it on.")
    return 0

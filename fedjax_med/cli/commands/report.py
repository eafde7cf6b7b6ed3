"""writes an HTML report of a run or a comparison, from what its workdir holds.

One file without scripts, that loads nothing: figures with intervals, curves, calibration, the most
certain mistakes, communication, privacy, and how to make the run again. The data is not needed.
`train --evaluate`, `evaluate` and `compare` write it as WORKDIR/report.html.
"""

from absl import flags as absl_flags

from fedjax_med.errors import UserError, expand
from fedjax_med.report import page
from fedjax_med.run.workdir import check_file_writable


def define_flags(flags: absl_flags.FlagValues, arguments: list[str]) -> None:
    """Define the command's flags on `flags`."""
    absl_flags.DEFINE_string(
        "workdir", "", "the workdir of a run or of a comparison", flag_values=flags
    )
    absl_flags.DEFINE_string(
        "out", "", "the file to write (default: WORKDIR/report.html)", flag_values=flags
    )


def run(flags: absl_flags.FlagValues) -> int:
    """Write the report of the workdir; return the exit code."""
    if not flags.workdir:
        raise UserError("expected --workdir=FOLDER, of a `fedjax-med train` or `compare` run.")
    workdir = expand(flags.workdir)
    out = expand(flags.out) if flags.out else workdir / page.NAME
    check_file_writable(out)
    print(f"Written: {page.write(workdir, out)}")
    return 0

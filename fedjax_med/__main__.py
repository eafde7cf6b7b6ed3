"""``python -m fedjax_med COMMAND``, and the console command ``fedjax-med``."""

import re
import sys

from fedjax_med.run.output import by_lines, open_standard
from fedjax_med.run.signals import end_on_signals

_REFUSED = (
    "fedjax-med: expected Linux or macOS, got Windows, for which the required package array_record "
    "does not exist: use the Windows Subsystem for Linux (WSL)."
)
_SETTING = (
    "fedjax-med: the environment variable {} has a value that JAX does not take ({}): unset or "
    "correct it."
)


def main() -> int:
    """Run the command line; the exit code."""
    if sys.platform == "win32":
        print(_REFUSED, file=sys.stderr)
        return 2
    end_on_signals()  # before the program is loaded, which takes seconds; rounds stop otherwise
    open_standard()
    by_lines(sys.stdout)
    try:
        import jax  # noqa: F401  # it reads its settings from the environment
    except ValueError as error:
        if not (variable := re.search(r"\bjax_\w+", str(error), re.IGNORECASE)):
            raise
        print(_SETTING.format(variable[0].upper(), error), file=sys.stderr)
        return 2
    from fedjax_med.cli import main as cli

    return cli.main()


if __name__ == "__main__":
    sys.exit(main())

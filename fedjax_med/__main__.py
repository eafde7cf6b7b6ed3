"""``python -m fedjax_med COMMAND``, and the console command ``fedjax-med``."""

import signal
import sys

from fedjax_med.run.signals import end_at_once


def main() -> int:
    """Run the command line; the exit code."""
    # Before the program is loaded, which takes seconds; training has its own way to stop.
    signal.signal(signal.SIGINT, end_at_once)
    from fedjax_med.cli import main as cli

    return cli.main()


if __name__ == "__main__":
    sys.exit(main())

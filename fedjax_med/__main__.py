"""``python -m fedjax_med COMMAND``, and the console command ``fedjax-med``."""

import os
import signal
import sys
from types import FrameType


def _stop(number: int, frame: FrameType | None) -> None:
    os.write(2, b"fedjax-med: interrupted.\n")
    os._exit(128 + number)


def main() -> int:
    """Run the command line; the exit code."""
    # Loading takes a second, in which a Ctrl-C would end in a traceback or be lost in a callback.
    before = signal.signal(signal.SIGINT, _stop)
    from fedjax_med import cli

    signal.signal(signal.SIGINT, before)
    return cli.main()


if __name__ == "__main__":
    sys.exit(main())

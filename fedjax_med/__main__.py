"""``python -m fedjax_med COMMAND``."""

import sys

from fedjax_med.cli import main

if __name__ == "__main__":
    sys.exit(main())

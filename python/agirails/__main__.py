"""The command line, `agirails` or `python -m agirails`: the program of the crate agirails-cli."""

import signal
import sys

from ._agirails import _main


def main() -> int:
    """Runs the command that stands behind the program's name.

    Returns:
        The exit status: 0 done, 1 refused or failed, 2 wrong usage, 3 outcome unknown, 130 interrupted.
    """
    # The program itself ends on Ctrl-C: Python would only remember it until the program is over.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    return _main(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())

"""A program that forks a process for each run of a rollup: only the program has to import everything.

Each line of its input is the name of a rollup; it answers with the process id of the run.
"""

import os
import signal
import sys

from tasks.analytics import task as analytics
from tasks.apps import ROLLUPS
from workers.settings import get_settings


def main() -> None:
    # Runs that have ended leave no process behind.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    for line in sys.stdin:
        process = os.fork()
        if not process:
            analytics.run(ROLLUPS[line.strip()], get_settings(), by_hand=True)
            os._exit(0)
        sys.stdout.write(f"{process}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()

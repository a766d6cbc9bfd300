"""Where every program begins."""

import gc


def start() -> None:
    """Import the command line and run it."""
    # What is imported stays: to look for garbage among it takes a sixth of the start, and would again in each
    # process that a worker forks.
    gc.disable()
    from commands.main import main

    main()


def imported() -> None:
    """Look for garbage from now on, but not among what has been imported. Only after `start`."""
    if not gc.isenabled():
        gc.freeze()
        gc.enable()

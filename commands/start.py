"""Where every program begins."""

import gc


def start() -> None:
    """Import the command line and run it."""
    # What is imported stays: to look for garbage among it takes a sixth of the start, and would again in each
    # process that a worker forks.
    gc.disable()
    from commands.main import main

    gc.freeze()
    gc.enable()
    main()

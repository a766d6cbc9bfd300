"""What the command line prints is as wide on every terminal, and nowhere coloured."""

from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def _terminal() -> Iterator[None]:
    # Its own: a test may undo what it has patched itself.
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", "100")
        patch.delenv("FORCE_COLOR", raising=False)
        yield

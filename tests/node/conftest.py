"""Node, and what the clients in it need: from `package-lock.json`, into pytest's cache."""

import os
import shutil
import tempfile
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path

import pytest

from tests.node.programs import HERE, Node
from tests.nodejs import NODE, npm_ci

LOCK = HERE / "package-lock.json"


def install(cache: Path, environment: Mapping[str, str]) -> Path:
    """Return a folder whose `node_modules` are the locked ones; make it if it is not there yet.

    Several may do so at once: the last step is one rename.

    Raises:
        RuntimeError: npm could not.
    """
    named = sha256(LOCK.read_bytes() + (HERE / "package.json").read_bytes()).hexdigest()[:16]
    folder = cache / named
    if folder.exists():
        return folder
    with tempfile.TemporaryDirectory(dir=cache) as temporary:
        for name in ("package.json", "package-lock.json"):
            shutil.copy(HERE / name, temporary)
        npm_ci(Path(temporary), environment)
        try:
            Path(temporary).rename(folder)
            # So that the context has something to remove.
            Path(temporary).mkdir()
        except OSError:
            # Another was quicker.
            if not folder.exists():
                raise
    return folder


@pytest.fixture(scope="session")
def cache(request: pytest.FixtureRequest) -> Path:
    """The folder that outlives the run."""
    assert request.config.cache is not None
    return request.config.cache.mkdir("node")


@pytest.fixture(scope="session")
def node(cache: Path) -> Node:
    """A Node with celery-node, pg and Socket.IO."""
    return Node(NODE, install(cache, os.environ))

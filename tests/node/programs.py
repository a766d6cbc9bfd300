"""Programs in Node, as an API service's are."""

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
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
    def output(self) -> Any:
        """What it wrote, which is JSON; it must have ended well."""
        assert (self.code, self.err) == (0, ""), self
        return json.loads(self.out)


@dataclass(frozen=True, slots=True)
class Running:
    """A program that goes on until the test is over."""

    process: "subprocess.Popen[bytes]"
    out: Path
    err: Path

    def output(self) -> list[Any]:
        """Return what it wrote so far, lines of JSON each; it must be well."""
        assert (self.process.poll(), self.err.read_text()) == (None, ""), self.err.read_text()
        # The last line may be half written.
        whole, _, _ = self.out.read_text().rpartition("\n")
        return [json.loads(line) for line in whole.splitlines()]


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
        with self._file(code, given) as file:
            outcome = subprocess.run(
                [self.program, file],
                env={"PATH": os.environ["PATH"], **environment},
                capture_output=True,
                text=True,
                timeout=60,
            )
        return Outcome(outcome.returncode, outcome.stdout, outcome.stderr)

    @contextmanager
    def start(self, code: str, given: object = None) -> Iterator[Running]:
        """Run a module like `run`, until the end of the context."""
        with self._file(code, given) as file:
            out, err = file.with_suffix(".out"), file.with_suffix(".err")
            with out.open("wb") as stdout, err.open("wb") as stderr:
                process = subprocess.Popen(
                    [self.program, file], env={"PATH": os.environ["PATH"]}, stdout=stdout, stderr=stderr
                )
            try:
                yield Running(process, out, err)
            finally:
                process.kill()
                process.wait()
                out.unlink()
                err.unlink()

    @contextmanager
    def _file(self, code: str, given: object) -> Iterator[Path]:
        # Beside the packages, for Node looks for them there; of its own name, for others run theirs.
        file = self.folder / f"program-{os.getpid()}-{next(_numbers)}.mjs"
        file.write_text(f"const given = {json.dumps(given)};\n{code}")
        try:
            yield file
        finally:
            file.unlink()

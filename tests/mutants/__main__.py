"""Puts faults into a copy of the tree, one at a time, and sees whether the tests notice: `make mutants`.

    python -m tests.mutants [-k NAME]...

The mutants are in `mutants.toml`. First their tests are run on the copy as it is: all must pass. Then each
mutant is put in, its tests are run until the first one fails, and it is taken out. One that no test notices
has survived: a rule has no test. Ends with 1 if any survived, or was not a fair trial.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from time import monotonic, time

from tests.mutants.listing import Mutant, load
from tests.mutants.witness import RESULT, TREE

ROOT = Path(__file__).parents[2]
#: So long one mutant's tests may take, and all tests without any.
MUTANT_SECONDS, ALL_SECONDS = 900, 3600
#: Each mutant is written some seconds later than the one before, whatever the clock says.
_LATER = count(10, 10)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What pytest did.

    Attributes:
        code: its exit code; None if it had to be ended.
        failed, passed: tests.
        broken: tests whose fixtures failed.
        output: what it wrote.
    """

    code: int | None
    failed: list[str]
    passed: list[str]
    broken: list[str]
    output: str
    seconds: float


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("-k", action="append", metavar="NAME", help="only mutants whose name has this in it")
    parser.add_argument("--list", action="store_true", help="only show which there are")
    arguments = parser.parse_args()
    chosen = [one for one in load() if not arguments.k or any(part in one.name for part in arguments.k)]
    if not chosen:
        parser.error("no mutant has such a name")
    if arguments.list:
        for one in chosen:
            say(f"{one.name}: {one.rule}")
        return 0
    began = monotonic()
    with tempfile.TemporaryDirectory(prefix="roomkeeper-mutants-") as directory:
        tree, result = Path(directory) / "tree", Path(directory) / "result.json"
        copy(tree)
        tests = unique(test for one in chosen for test in one.tests)
        say(f"{len(chosen)} mutants; their tests, without any of them:")
        sound = run(tree, result, tests, ALL_SECONDS)
        if sound.code != 0 or not sound.passed:
            say(sound.output)
            say("These tests do not pass as they are.")
            return 1
        say(f"{len(sound.passed)} passed ({sound.seconds:.0f} s)")
        survived = [one.name for one in chosen if not is_killed(tree, result, one)]
    say(f"{len(chosen) - len(survived)} of {len(chosen)} mutants killed ({monotonic() - began:.0f} s)")
    for name in survived:
        say(f"not killed: {name}")
    return 1 if survived else 0


def copy(tree: Path) -> None:
    """Copy what is tracked, or could be, and share the environment."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=ROOT, check=True, capture_output=True).stdout.decode().split("\0")
    for name in names:
        # A file that was just removed is still tracked.
        if name and (ROOT / name).is_file():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, tree / name)
    (tree / ".venv").symlink_to(ROOT / ".venv")


def is_killed(tree: Path, result: Path, mutant: Mutant) -> bool:
    """Put the mutant in, run its tests, take it out; return whether one of them failed."""
    file = tree / mutant.file
    source, written_at = file.read_text("utf-8"), file.stat().st_mtime
    file.write_text(mutant.applied(source), "utf-8")
    # Python goes by time and size when it looks whether a file was compiled before.
    os.utime(file, times=(time(), time() + next(_LATER)))
    try:
        outcome = run(tree, result, mutant.tests, MUTANT_SECONDS)
    finally:
        file.write_text(source, "utf-8")
        os.utime(file, times=(time(), written_at))
    killed = outcome.code == 1 and bool(outcome.failed)
    if killed:
        verdict = f"killed by {outcome.failed[0]}"
    elif outcome.code == 0:
        verdict = f"SURVIVED {len(outcome.passed)} tests"
    else:
        say(outcome.output)
        broken = f", fixtures of {outcome.broken[0]} failed" if outcome.broken else ""
        verdict = f"NO TRIAL: pytest ended with {outcome.code}{broken}"
    say(f"{mutant.name}: {verdict} ({outcome.seconds:.0f} s)")
    return killed


def run(tree: Path, result: Path, tests: Iterable[str], seconds: float) -> Outcome:
    """Run tests of the copy, until the first one fails."""
    result.unlink(missing_ok=True)
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider"]
    command += ["-p", "tests.mutants.witness", *tests]
    environment = os.environ | {
        # Before what is installed, for pytest and every program that a test starts.
        "PYTHONPATH": str(tree),
        TREE: str(tree),
        RESULT: str(result),
    }
    began = monotonic()
    try:
        done = subprocess.run(
            command,
            cwd=tree,
            env=environment,
            timeout=seconds,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        code, output = done.returncode, done.stdout
    except subprocess.TimeoutExpired as error:
        partial = error.stdout or b""
        code, output = None, partial.decode(errors="replace") if isinstance(partial, bytes) else partial
    took = monotonic() - began
    noted = json.loads(result.read_text()) if result.exists() else {"failed": [], "passed": [], "broken": []}
    return Outcome(code, output=output, seconds=took, **noted)


def unique(tests: Iterable[str]) -> list[str]:
    """Return tests without those that another one includes."""
    every = list(dict.fromkeys(tests))
    return [one for one in every if not any(other != one and includes(other, one) for other in every)]


def includes(one: str, other: str) -> bool:
    """Return whether a file, or a test, includes a test of it, or one case of it."""
    return other.startswith((f"{one}::", f"{one}["))


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())

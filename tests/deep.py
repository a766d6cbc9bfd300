"""Runs property tests with many new examples, and the fuzzers: `make test-deep`, by hand, for hours.

    python -m tests.deep [--minutes N] [--seed N] [--afresh]

Each file of property tests is run with its own seed, which is printed. A run that was broken off goes on with
those files that have not passed yet; `--afresh` begins again.
"""

import argparse
import re
import subprocess
import sys
from pathlib import Path
from random import SystemRandom

ROOT = Path(__file__).parents[1]
#: Names of what has passed, one in each line.
PASSED = ROOT / ".hypothesis" / "passed"
FUZZERS = ("tests.fuzz.identify", "tests.fuzz.draw")
#: A test tries twenty times as many examples as in `make test`.
TEST_SECONDS = 7200


def main() -> int:
    """Run what has not passed yet; return 1 if anything failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.deep", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0, help="how long each fuzzer runs")
    parser.add_argument("--seed", type=int, help="by default a new one for each file")
    parser.add_argument("--afresh", action="store_true", help="forget what has passed")
    arguments = parser.parse_args()
    PASSED.parent.mkdir(exist_ok=True)
    if arguments.afresh:
        PASSED.unlink(missing_ok=True)
    passed = set(PASSED.read_text().splitlines()) if PASSED.exists() else set[str]()
    todo = [name for name in (*files(), *FUZZERS) if name not in passed]
    sys.stdout.write(f"{len(passed)} passed earlier, {len(todo)} to run\n")
    failed = []
    for number, name in enumerate(todo, 1):
        seed = SystemRandom().randrange(2**32) if arguments.seed is None else arguments.seed
        sys.stdout.write(f"== {number} of {len(todo)}: {name}, seed {seed}\n")
        sys.stdout.flush()
        if subprocess.run(command(name, seed, arguments.minutes), cwd=ROOT).returncode:
            failed.append(f"{name}, seed {seed}")
        else:
            with PASSED.open("a") as file:
                file.write(f"{name}\n")
    for one in failed:
        sys.stdout.write(f"failed: {one}\n")
    return 1 if failed else 0


def files() -> list[str]:
    """Return the test files that have property tests."""
    found = (ROOT / "tests").rglob("test_*.py")
    return sorted(
        str(path.relative_to(ROOT))
        for path in found
        if re.search(r"^from hypothesis import .*\bgiven\b", path.read_text(encoding="utf-8"), re.MULTILINE)
    )


def command(name: str, seed: int, minutes: float) -> list[str]:
    """Return the command line that runs a test file or a fuzzer."""
    if name in FUZZERS:
        return [sys.executable, "-m", name, "--minutes", str(minutes), "--seed", str(seed)]
    options = ["--hypothesis-profile=deep", f"--hypothesis-seed={seed}", f"--timeout={TEST_SECONDS}"]
    return [sys.executable, "-m", "pytest", "-q", "-rf", *options, name]


if __name__ == "__main__":
    sys.exit(main())

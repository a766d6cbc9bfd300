"""Runs the tests nearest to what was changed, by who imports what, for less than a minute: `make test-fast`.

    python -m tests.fast [--since COMMIT] [--seconds N]

What was changed is what git says differs from COMMIT: by default the last commit, or the one before if
nothing does. Tests of changed modules come first, then those of modules that import them, and so on. The
rest, and the tests of whole programs, are `make test`'s and `make test-system`'s.
"""

import argparse
import ast
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from time import monotonic

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = (
    "beat_schedule.py",
    "benchmarks",
    "commands",
    "models",
    "roomkeeper",
    "stack",
    "tasks",
    "tests",
    "workers",
)
#: Farther away than so many imports, tests are about something else.
FARTHEST = 3
#: Reading tests takes time as well.
MOST_FILES = 60
SECONDS = 50.0


def main() -> int:
    """Run them; return pytest's exit code, 0 if nothing was changed."""
    parser = argparse.ArgumentParser(prog="python -m tests.fast", description=__doc__)
    parser.add_argument("--since", metavar="COMMIT", help="by default the last commit")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="no test is begun after so long")
    arguments = parser.parse_args()
    since = arguments.since or "HEAD"
    changed = changes(since) or ([] if arguments.since else changes("HEAD~1"))
    modules = {module_of(path): path for path in sources(ROOT)}
    found = nearest(changed, modules, {name: imports(path, modules) for name, path in modules.items()})
    if not found:
        sys.stdout.write("Nothing was changed that a test imports.\n")
        return 0
    limit = _Limit(arguments.seconds)
    files = [str(path.relative_to(ROOT)) for path in found[:MOST_FILES]]
    # Snapshots of tests that the limit cuts off are not used, which is no failure.
    options = ["-q", "-m", "not system", "--durations=0", "--durations-min=5", "--snapshot-disable-unused"]
    code = int(pytest.main([*options, *files], plugins=[limit]))
    # Interrupted by the limit, with no test failed, is what was asked for.
    return 0 if code == pytest.ExitCode.INTERRUPTED and not limit.failed else code


class _Limit:
    def __init__(self, seconds: float) -> None:
        self._over = monotonic() + seconds
        self.failed = False

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.failed |= report.failed

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> object:
        result = yield
        if monotonic() > self._over:
            item.session.shouldstop = f"time is over; the last was {item.nodeid}"
        return result


def changes(commit: str) -> list[Path]:
    """Return the files that differ from a commit, those that git does not know included."""
    differ = _git("diff", "--name-only", commit)
    return [ROOT / name for name in (*differ, *_git("ls-files", "--others", "--exclude-standard"))]


def _git(*arguments: str) -> list[str]:
    done = subprocess.run(["git", *arguments], cwd=ROOT, check=True, capture_output=True, text=True)
    return done.stdout.splitlines()


def sources(root: Path) -> list[Path]:
    """Return our own Python files."""
    found = []
    for name in PACKAGES:
        found += [root / name] if name.endswith(".py") else sorted((root / name).rglob("*.py"))
    return found


def module_of(path: Path) -> str:
    """Return the dotted name of a module by its file."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path, modules: Mapping[str, object]) -> set[str]:
    """Return the modules that a file imports, wherever in it."""
    found = set[str]()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found & modules.keys()


def nearest(
    changed: Iterable[Path], modules: Mapping[str, Path], imported: Mapping[str, set[str]]
) -> list[Path]:
    """Return the test files that import what was changed, those that do so most directly first."""
    level = {name for name, path in modules.items() if path in set(changed)}
    seen, found = set[str](), list[Path]()
    for _ in range(FARTHEST + 1):
        found += [modules[name] for name in sorted(level) if modules[name].name.startswith("test_")]
        seen |= level
        level = {name for name, imports in imported.items() if imports & level} - seen
    return found


if __name__ == "__main__":
    sys.exit(main())

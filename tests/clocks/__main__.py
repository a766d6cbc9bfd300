"""Runs the tests that read the clock at the odd moments of the calendar: `make test-calendar`.

    python -m tests.clocks [--at MOMENT]... [FILE]... [-- what pytest takes]

pytest and every server and program that it starts have their clock moved by the same number of seconds, by a
small library that a C compiler makes (`clock.c`). libfaketime would be the known way; see docs/decisions.md.
Programs in Go do not go by the C library: tests that need SeaweedFS are left out.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

HERE = Path(__file__).parent

#: In UTC. Each file is begun anew at its moment, so that what comes seconds later comes while its tests run.
MOMENTS = (
    # The ends of months: one month ahead, or back, has fewer days.
    "2027-01-30 12:00:00",
    "2027-01-31 12:00:00",
    "2027-02-28 12:00:00",
    "2028-02-29 12:00:00",
    "2026-03-31 12:00:00",
    "2026-04-30 12:00:00",
    "2026-08-31 12:00:00",
    "2026-11-30 12:00:00",
    # Midnight comes, at times with another month or year.
    "2026-07-14 23:59:45",
    "2028-02-28 23:59:45",
    "2028-02-29 23:59:45",
    "2026-12-31 23:59:45",
    "2027-01-01 00:00:05",
    # Days of 23 and 25 hours, in Europe and in America: their clocks are set right after.
    "2026-03-29 00:59:45",
    "2026-10-25 00:59:45",
    "2026-03-08 06:59:45",
    "2026-11-01 05:59:45",
    # Far away: what was written with a fixed date has grown old.
    "2031-06-15 12:00:00",
)

#: Tests, and what they test, that read the clock.
FILES = (
    "tests/analytics",
    "tests/attachments/test_addresses.py",
    "tests/attachments/test_jobs.py",
    "tests/attachments/test_recover.py",
    "tests/cleanup",
    "tests/client/test_ways_in.py",
    "tests/commands/test_check.py",
    "tests/commands/test_hold_command.py",
    "tests/commands/test_partition_command.py",
    "tests/commands/test_policies_command.py",
    "tests/commands/test_report_command.py",
    "tests/commands/test_retention_command.py",
    "tests/commands/test_rollup_command.py",
    "tests/contract",
    "tests/delivery/test_record.py",
    "tests/engines/test_sweep.py",
    "tests/models/test_routines.py",
    "tests/retention",
    "tests/stack/test_ephemeral.py",
    "tests/stack/test_figures.py",
    "tests/ways/test_relay.py",
    "tests/workers/test_beat.py",
    "tests/workers/test_ledger.py",
    "tests/workers/test_metrics.py",
    "tests/workers/test_scanner.py",
)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.clocks", description=__doc__)
    parser.add_argument("--at", action="append", metavar="MOMENT", help="in UTC; by default all that are odd")
    parser.add_argument(
        "files", nargs="*", metavar="FILE", help="or folder; by default all that read the clock"
    )
    given, options = _split(sys.argv[1:])
    arguments = parser.parse_args(given)
    chosen = arguments.files or FILES
    failed = []
    with tempfile.TemporaryDirectory() as directory:
        library = Path(directory) / "clock.so"
        build(library)
        for moment in arguments.at or MOMENTS:
            for file in (one for name in chosen for one in files(name)):
                sys.stdout.write(f"== {moment} {file}\n")
                sys.stdout.flush()
                code = run(library, datetime.fromisoformat(moment).replace(tzinfo=UTC), [file, *options])
                # 5: nothing of it is left to run.
                if code not in (0, 5):
                    failed.append(f"{moment} {file}")
    for one in failed:
        sys.stdout.write(f"failed: {one}\n")
    return 1 if failed else 0


def _split(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Return our own arguments, and those after `--`."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    return arguments[:end], arguments[end + 1 :]


def build(library: Path) -> None:
    """Compile the library that moves the clock."""
    options = ["-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
    subprocess.run(
        [os.environ.get("CC", "cc"), *options, "-o", str(library), str(HERE / "clock.c"), "-ldl"], check=True
    )


def files(name: str) -> list[str]:
    """Return the test files of a folder; a file, or a test of it, is itself."""
    path = Path(name)
    return sorted(map(str, path.rglob("test_*.py"))) if path.is_dir() else [name]


def run(library: Path, moment: datetime, arguments: list[str]) -> int:
    """Run pytest with the clock at `moment`; return its exit code."""
    offset = round((moment - datetime.now(UTC)).total_seconds())
    clock = {"LD_PRELOAD": str(library), "CLOCK_OFFSET": str(offset)}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "tests.clocks.without_go", *arguments]
    return subprocess.run(command, env=os.environ | clock).returncode


if __name__ == "__main__":
    sys.exit(main())

"""Runs the tests that read the clock at the odd moments of the calendar: `make test-calendar`.

    python -m tests.clocks [--at MOMENT]... [FILE]... [-- what pytest takes]

pytest and every server and program that it starts have their clock moved by the same number of seconds, by a
small library (`stack/clock.py`). Programs in Go do not go by the C library: tests that
need SeaweedFS are left out.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

from stack.clock import build

#: In UTC.
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
    "tests/attachments/test_urls.py",
    "tests/attachments/test_attachment_work.py",
    "tests/attachments/test_recover.py",
    "tests/cleanup",
    "tests/client/test_enqueue_document.py",
    "tests/commands/test_check.py",
    "tests/commands/test_hold_command.py",
    "tests/commands/test_partition_command.py",
    "tests/commands/test_policies_command.py",
    "tests/commands/test_report_command.py",
    "tests/commands/test_retention_command.py",
    "tests/commands/test_rollup_command.py",
    "tests/contract",
    "tests/delivery/test_record.py",
    "tests/sweeps/test_engine.py",
    "tests/models/test_routines.py",
    "tests/retention",
    "tests/stack/test_stale_rows.py",
    "tests/stack/test_rollups.py",
    "tests/enqueue/test_relay.py",
    "tests/workers/test_beat.py",
    "tests/workers/test_job_history.py",
    "tests/workers/test_metrics.py",
    "tests/workers/test_scanner.py",
)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.clocks", description=__doc__)
    parser.add_argument("--at", action="append", metavar="MOMENT", help="in UTC; by default all that are odd")
    parser.add_argument(
        "files", nargs="*", metavar="FILE", help="or folder; by default all that read the clock"
    )
    parser.add_argument("--jobs", type=int, default=3, metavar="N", help="so many test processes at a time")
    given, options = _split(sys.argv[1:])
    arguments = parser.parse_args(given)
    chosen = [one for name in arguments.files or FILES for one in files(name)]
    failed = []
    with tempfile.TemporaryDirectory() as directory, ThreadPoolExecutor(arguments.jobs) as pool:
        library = Path(directory) / "clock.so"
        build(library)
        for text in arguments.at or MOMENTS:
            moment = datetime.fromisoformat(text).replace(tzinfo=UTC)
            if moment.second:
                # What comes seconds later is to come while each file's tests run.
                rounds = [pool.submit(run, library, moment, [file, *options]) for file in chosen]
            else:
                together = ["-n", str(arguments.jobs), "--dist", "loadfile"]
                rounds = [pool.submit(run, library, moment, [*chosen, *together, *options])]
            for each in rounds:
                arguments_of, code, output = each.result()
                sys.stdout.write(f"== {text} {' '.join(arguments_of)}\n{output}")
                sys.stdout.flush()
                # 5: nothing of it is left to run.
                if code not in (0, 5):
                    failed.append(f"{text} {' '.join(arguments_of)}")
    for one in failed:
        sys.stdout.write(f"failed: {one}\n")
    return 1 if failed else 0


def _split(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Return our own arguments, and those after `--`."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    return arguments[:end], arguments[end + 1 :]


def files(name: str) -> list[str]:
    """Return the test files of a folder; a file, or a test of it, is itself."""
    path = Path(name)
    return sorted(map(str, path.rglob("test_*.py"))) if path.is_dir() else [name]


def run(library: Path, moment: datetime, arguments: list[str]) -> tuple[list[str], int, str]:
    """Run pytest with the clock at `moment`; return its arguments, its exit code and what it printed."""
    offset = round((moment - datetime.now(UTC)).total_seconds())
    clock = {"LD_PRELOAD": str(library), "CLOCK_OFFSET": str(offset)}
    options = ["-q", "--durations=0", "--durations-min=60", "-p", "tests.clocks.without_go"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, *arguments],
        env=os.environ | clock,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    return arguments, done.returncode, done.stdout


if __name__ == "__main__":
    sys.exit(main())

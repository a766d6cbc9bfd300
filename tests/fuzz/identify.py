"""Feeds changed files to `identify.inspect`, in processes that may die, and keeps what it does not stand.

    python -m tests.fuzz.identify --minutes 10

Each input may take two seconds of computing time and 512 MB of memory. What raises, dies, is slow or says
what `parse` does not take is kept in a directory, with the reason beside it; the last line counts. The exit
status is 1 if there was any.
"""

import argparse
import os
import resource
import signal
import sys
import tempfile
import traceback
from pathlib import Path
from random import Random
from time import monotonic, process_time
from zlib import crc32

from tasks.attachments import identify, policy
from tests.attachments.carriers import carriers
from tests.attachments.hostile import everything
from tests.fuzz.mutations import mutated

SECONDS, MEMORY_BYTES = 2.0, 512 * 1024 * 1024
#: Half of what is allowed is worth a look.
SLOW_SECONDS = 1.0
#: Inputs of one process: its memory must not only hold out because it is young.
ROUND = 2_000
#: Larger seeds only cost time.
SEED_BYTES = 300_000


def main() -> int:
    """Run until the time is over. Return the exit status."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    options.add_argument("--minutes", type=float, default=1.0)
    options.add_argument("--seed", type=int, default=0, help="the same inputs again")
    options.add_argument("--kept", type=Path, default=Path(tempfile.gettempdir()) / "roomkeeper-fuzz")
    given = options.parse_args()
    given.kept.mkdir(parents=True, exist_ok=True)
    seeds = [content for content in (carriers() | everything()).values() if len(content) <= SEED_BYTES]
    deadline, number, runs = monotonic() + given.minutes * 60, given.seed, 0
    with tempfile.TemporaryDirectory(prefix="roomkeeper-") as folder:
        while monotonic() < deadline:
            runs += _round(Random(number), seeds, Path(folder), given.kept, deadline)
            number += 1
    kept = len(list(given.kept.glob("*.why")))
    sys.stdout.write(f"{runs} inputs, {kept} kept in {given.kept}\n")
    return 1 if kept else 0


def _round(random: Random, seeds: list[bytes], folder: Path, kept: Path, deadline: float) -> int:
    """Feed inputs in a process of its own until it dies or is old. Return how many there were."""
    current, counter = folder / "current", folder / "count"
    counter.write_text("0")
    child = os.fork()
    if child == 0:
        try:
            resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            for number in range(ROUND):
                if monotonic() > deadline:
                    break
                current.write_bytes(mutated(random, random.choice(seeds), seeds))
                counter.write_text(str(number + 1))
                _feed(current, kept)
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        _keep(current, kept, f"died of {signal.Signals(os.WTERMSIG(status)).name}")
    return int(counter.read_text())


def _feed(current: Path, kept: Path) -> None:
    # Computing time, so that a busy machine proves nothing; what the signal does by default is kill.
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    began = process_time()
    try:
        content = identify.parse(identify.inspect(current, current.parent))
        policy.decide(content, "image/png", "a.png")
    except Exception:  # noqa: BLE001  # what is looked for
        _keep(current, kept, traceback.format_exc())
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    if (took := process_time() - began) > SLOW_SECONDS:
        _keep(current, kept, f"took {took:.2f} s")


def _keep(current: Path, kept: Path, why: str) -> None:
    # An exception once for each place and kind.
    place = "".join(why.splitlines()[-3:]) if "Traceback" in why else str(current.stat().st_mtime_ns)
    name = f"{crc32(place.encode()):08x}"
    (kept / name).write_bytes(current.read_bytes())
    (kept / f"{name}.why").write_text(why)


if __name__ == "__main__":
    sys.exit(main())

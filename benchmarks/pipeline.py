"""What the pipeline costs besides scanning and drawing, and how many files it takes end to end.

    python -m benchmarks.pipeline

Prints one line, from real servers and one real worker of two processes on this machine:

own      CPU time of the worker's processes for each of 300 small text files: message, claim, rows, events,
         outcome. The scanner and PostgreSQL are processes of their own and are not counted, and a text has no
         pictures.
identify CPU time of the confined processes for each of them
mixed    500 files (150 photos of 12 megapixels, drawings, animations, texts, archives): files a second, and
         the share of the two processes' time that is neither scanning nor drawing
"""

import io
import os
import random
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID

from benchmarks import _harness as harness
from benchmarks._harness import Aim, Result, sized
from benchmarks._servers import running
from stack.demo.samples import animation, drawing, photo
from tests.platform import Platform, Program
from workers.db import create
from workers.settings import load

#: So many go before: imports, connections, the confined process, the scanner's probes.
WARM = sized(20, 2)
SMALL = sized(300, 8)
MIXED = sized(
    {"photo": 150, "drawing": 100, "animation": 50, "text": 100, "archive": 100},
    {"photo": 1, "drawing": 1, "animation": 1, "text": 1, "archive": 1},
)
_TICK = os.sysconf("SC_CLK_TCK")


@contextmanager
def _platform() -> Iterator[Platform]:
    with running(ROOMKEEPER_WORKER_PROCESSES="2") as (folder, environment):
        platform = Platform(create(load(environment)), environment, folder)
        try:
            yield platform
        finally:
            platform.close()


def _cpu(program: Program) -> tuple[float, float]:
    """Return the CPU seconds of a worker and of its sandboxes, with all descendants, ended ones included."""
    seconds, confined, processes = 0.0, 0.0, [program.process.pid]
    while processes:
        pid = processes.pop()
        for task in Path(f"/proc/{pid}/task").iterdir():
            processes += map(int, (task / "children").read_text().split())
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        spent = sum(map(int, fields[11:15])) / _TICK
        if "sandbox_server" in Path(f"/proc/{pid}/cmdline").read_text():
            confined += spent
        else:
            seconds += spent
    return seconds, confined


def _all_done(platform: Platform, count: int) -> None:
    while (
        platform.sql("SELECT count(*) FROM roomkeeper.attachment_jobs WHERE state = 'finished'")[0][0] < count
    ):
        time.sleep(0.05)


def _overhead(platform: Platform, worker: Program) -> tuple[float, float]:
    rows = [platform.openchat_attachment(f"Note {number}\n".encode(), "a.txt") for number in range(SMALL)]
    for row_id in rows[:WARM]:
        platform.enqueue("openchat", row_id)
    _all_done(platform, WARM)
    before = _cpu(worker)
    for row_id in rows[WARM:]:
        platform.enqueue("openchat", row_id)
    _all_done(platform, SMALL)
    own, confined = (after - since for after, since in zip(_cpu(worker), before, strict=True))
    return own / (SMALL - WARM), confined / (SMALL - WARM)


def _contents() -> dict[str, Callable[[random.Random], tuple[bytes, str, str]]]:
    photos = [photo(4032 - 16 * number, 3024) for number in range(sized(5, 1))]
    dance, triangle = animation(), drawing("PNG")

    def shot(chance: random.Random) -> tuple[bytes, str, str]:
        # Another comment makes other bytes of the same picture: nothing is known of it.
        comment = chance.randbytes(32)
        picture = chance.choice(photos)
        return picture[:2] + b"\xff\xfe\x00\x22" + comment + picture[2:], "a.jpg", "image/jpeg"

    def archive(chance: random.Random) -> tuple[bytes, str, str]:
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as packed:
            for number in range(5):
                packed.writestr(f"{number}.txt", chance.randbytes(20_000))
        return out.getvalue(), "a.zip", "application/zip"

    return {
        "photo": shot,
        "drawing": lambda chance: (_commented(triangle, chance), "a.png", "image/png"),
        "animation": lambda chance: (dance + chance.randbytes(8), "a.gif", "image/gif"),
        "text": lambda chance: (chance.randbytes(20_000).hex().encode(), "a.txt", "text/plain"),
        "archive": archive,
    }


def _commented(png: bytes, chance: random.Random) -> bytes:
    body = b"tEXtnote\0" + chance.randbytes(16).hex().encode()
    chunk = (len(body) - 4).to_bytes(4) + body + zlib.crc32(body).to_bytes(4)
    return png[:33] + chunk + png[33:]


def _mixed(platform: Platform) -> tuple[float, float]:
    """Return files a second, and the share of time that is neither scanning nor drawing."""
    chance, contents = random.Random(1), _contents()  # noqa: S311 - the same files each time
    kinds = [kind for kind, count in MIXED.items() for _ in range(count)]
    chance.shuffle(kinds)
    rows: list[UUID] = []
    for kind in kinds:
        content, name, media_type = contents[kind](chance)
        rows.append(platform.openchat_attachment(content, name, media_type))
    before = platform.sql("SELECT count(*) FROM roomkeeper.attachment_jobs")[0][0]
    began = time.perf_counter()
    for row_id in rows:
        platform.enqueue("openchat", row_id)
    _all_done(platform, before + len(rows))
    took = time.perf_counter() - began
    ids = [str(row_id) for row_id in rows]
    busy = platform.sql(
        "SELECT sum(seconds) FROM roomkeeper.attachment_events WHERE event IN ('scan', 'draw')"
        " AND attachment_id = ANY(CAST(:ids AS uuid[]))",
        ids=ids,
    )[0][0]
    outcomes = platform.sql(
        "SELECT outcome, count(*) FROM roomkeeper.attachment_jobs"
        " WHERE attachment_id = ANY(CAST(:ids AS uuid[])) GROUP BY 1",
        ids=ids,
    )
    assert [tuple(row) for row in outcomes] == [("accepted", len(rows))], outcomes
    return len(rows) / took, 1 - busy / (2 * took)


def measure() -> Result:
    """Process small files, then a mix of all kinds; all must be accepted."""
    with _platform() as platform:
        worker = platform.worker()
        own, confined = _overhead(platform, worker)
        rate, rest = _mixed(platform)
    return Result(
        f"pipeline: own {own * 1000:.1f} ms CPU a file, identify {confined * 1000:.1f} ms;"
        f" mixed {rate:.1f} files/s on two processes, {rest:.0%} of their time neither scanning nor drawing",
        (
            Aim("own, ms of CPU a file", own * 1000, 10, at_most=True),
            Aim("share of time neither scanning nor drawing", rest, 0.2, at_most=True),
        ),
    )


if __name__ == "__main__":
    harness.run(measure)

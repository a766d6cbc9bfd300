"""Feeds changed files to all that draws or strips, through the sandbox, and keeps those that make it fail.

    python -m tests.fuzz.draw --minutes 10

A file may have no preview. What raises, dies, runs out of memory or takes too long is
kept in a directory, with the reason beside it; the last line counts. The exit status is 1 if there was any.
"""

import argparse
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from random import Random
from time import monotonic
from zlib import crc32

from tests.attachments.carriers import carriers
from tests.attachments.hostile import everything
from tests.fuzz.mutations import mutated
from workers import sandbox

SECONDS, MEMORY_BYTES = 20.0, 1024 * 1024 * 1024
SEED_BYTES = 300_000
DECODED_BYTES = 640 * 1024 * 1024
_DRAWINGS: dict[str, object] = {"max_pixels": DECODED_BYTES // 4}
#: Beginnings of files → what draws them; media for all else.
_PICTURES = (b"\xff\xd8", b"\x89PNG", b"GIF8", b"RIFF", b"BM", b"II", b"MM")


def _works(content: bytes) -> list[tuple[str, dict[str, object]]]:
    drawing = "tasks.attachments.drawing"
    if content.startswith(b"%PDF"):
        return [(f"{drawing}.document:draw", _DRAWINGS)]
    if content.startswith(_PICTURES) or content[4:12] in {b"ftypavif", b"ftypheic", b"ftypmif1"}:
        how: dict[str, object] = {"animation_frames": 120, "animation_pixels": 24_000_000}
        how["decoded_bytes"] = DECODED_BYTES
        return [(f"{drawing}.picture:draw", how)]
    return [(f"{drawing}.video:draw", _DRAWINGS), (f"{drawing}.audio:draw", _DRAWINGS)]


def seeds() -> list[bytes]:
    """Return the files to be changed."""
    return [content for content in (carriers() | everything()).values() if len(content) <= SEED_BYTES]


def faults(content: bytes, folder: Path) -> Iterator[str | None]:
    """Draw the file in all ways that its beginning allows; yield for each what went wrong, or None."""
    source = folder / "content"
    source.write_bytes(content)
    for work, how in _works(content):
        try:
            sandbox.run(work, source, folder, how, seconds=SECONDS, memory_bytes=MEMORY_BYTES)
            yield None
        except sandbox.SandboxFailure as error:
            yield f"{work}: {error}"


def main() -> int:
    """Run until the time is over. Return the exit status."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    options.add_argument("--minutes", type=float, default=1.0)
    options.add_argument("--seed", type=int, default=0, help="the same inputs again")
    options.add_argument("--kept", type=Path, default=Path(tempfile.gettempdir()) / "roomkeeper-fuzz-draw")
    given = options.parse_args()
    given.kept.mkdir(parents=True, exist_ok=True)
    random, originals, runs, kept = Random(given.seed), seeds(), 0, 0
    deadline = monotonic() + given.minutes * 60
    with tempfile.TemporaryDirectory(prefix="roomkeeper-") as name:
        while monotonic() < deadline:
            content = mutated(random, random.choice(originals), originals)
            for why in faults(content, Path(name)):
                runs += 1
                if why:
                    kept += 1
                    path = given.kept / f"{crc32(content):08x}"
                    path.write_bytes(content)
                    path.with_suffix(".why").write_text(f"{why}\n")
    sys.stdout.write(f"{runs} inputs, {kept} kept in {given.kept}\n")
    return 1 if kept else 0


if __name__ == "__main__":
    sys.exit(main())

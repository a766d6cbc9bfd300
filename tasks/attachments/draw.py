"""Has a file's pictures drawn in a process that may crash, hang or blow up."""

import json
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.attachments import sandbox
from workers.settings import Settings


class DrawingFailedError(Exception):
    """The process died, hung or ran out of memory: that may be the file's doing or the machine's."""


@dataclass(frozen=True, slots=True)
class Drawing:
    """What was drawn.

    Attributes:
        pictures: the files, by name: 'small' and 'large'.
        metadata: width and height as shown, format, frames, placeholder; for the row's JSON.
        reason, detail: why the picture is refused; then nothing was drawn.
    """

    pictures: dict[str, Path]
    metadata: dict[str, Any]
    reason: str | None = None
    detail: str | None = None


def draw(source: Path, folder: Path, settings: Settings) -> Drawing:
    """Draw the small and the large picture of `source` into `folder`.

    Raises:
        DrawingFailedError: the drawing process came to an end without an answer.
    """
    seconds = settings.draw_timeout_seconds
    command = [
        sys.executable,
        # Isolated: neither the environment nor the current directory has a say in what is imported.
        "-I",
        sandbox.__file__,
        *map(str, (source, folder, settings.max_pixels, settings.draw_memory_bytes, int(seconds) + 1)),
    ]
    try:
        # No environment: it holds the database's password.
        done = subprocess.run(command, env={}, capture_output=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired as error:
        raise DrawingFailedError(f"drawing took longer than {seconds:g} s") from error
    if done.returncode != 0:
        raise DrawingFailedError(f"the drawing process {_ending(done)}")
    try:
        answer = json.loads(done.stdout)
    except ValueError as error:
        raise DrawingFailedError("the drawing process gave no answer") from error
    if "refused" in answer:
        return Drawing({}, {}, answer["refused"], answer["detail"])
    pictures = {name: folder / f"{name}.webp" for name in sandbox.SIDES}
    return Drawing(pictures, answer)


def _ending(done: "subprocess.CompletedProcess[bytes]") -> str:
    if done.returncode < 0:
        return f"was ended by {signal.Signals(-done.returncode).name}"
    last = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
    return f"ended with status {done.returncode}: {last[:200]}"

"""Has a file's pictures drawn in the sandbox, and believes nothing of what comes back."""

import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from tasks.attachments.drawing.unavailable import REASONS
from tasks.attachments.objects import PICTURE_NAMES
from workers import sandbox
from workers.settings import Settings

#: The largest metadata that is kept: values in all, or in a list of them, and characters of a text.
MOST_VALUES = 256
LONGEST_TEXT = 500
#: How the sandbox fails → the reason why there is no preview. Not among them: answers that make no sense,
#: which may come from a process that was taken over, and a sandbox that does not start.
_REASONS_BY_FAILURE = {
    "sandbox_died": "crashed",
    "sandbox_killed": "crashed",
    "sandbox_raised": "crashed",
    "sandbox_timed_out": "timed_out",
    "sandbox_out_of_memory": "out_of_memory",
}


class DrawingFailedError(Exception):
    """Nothing came back, or nothing that can be believed.

    Attributes:
        preview_reason: why the file has no preview, if it may be served without; None if it must not be.
        killed: whether another program ended the decoder, the kernel for want of memory say: the next attempt
            may succeed.
        by_file: whether another attempt would end in the same way.
    """

    def __init__(self, message: str, sandbox_reason: str = "") -> None:
        super().__init__(message)
        self.preview_reason = _REASONS_BY_FAILURE.get(sandbox_reason)
        self.killed = sandbox_reason == "sandbox_killed"
        self.by_file = self.preview_reason is not None and not self.killed


class Kind(NamedTuple):
    """How files of one kind are drawn: the work in the sandbox, and what it may use."""

    work: str
    options: Callable[[Settings], dict[str, Any]]


def _max_pixels(settings: Settings) -> dict[str, Any]:
    # Frames and pages are drawn in colour, of four bytes a pixel.
    return {"max_pixels": settings.draw_decoded_bytes // 4}


KINDS = {
    "picture": Kind(
        "tasks.attachments.drawing.picture:draw",
        lambda settings: {
            "decoded_bytes": settings.draw_decoded_bytes,
            "animation_frames": settings.draw_animation_frames,
            "animation_pixels": settings.draw_animation_pixels,
        },
    ),
    "raw": Kind(
        "tasks.attachments.drawing.raw:draw", lambda settings: {"decoded_bytes": settings.draw_decoded_bytes}
    ),
    "document": Kind("tasks.attachments.drawing.document:draw", _max_pixels),
    "video": Kind("tasks.attachments.drawing.video:draw", _max_pixels),
    "audio": Kind("tasks.attachments.drawing.audio:draw", _max_pixels),
}


@dataclass(frozen=True, slots=True)
class Drawing:
    """What was drawn.

    Attributes:
        pictures: the files, by name: 'small' and 'large'; or none.
        metadata: for the row's JSON: width, height and more, as the drawing function says; the size of
            each picture under its name.
        reason, detail: why there is no preview, for machines (`drawing/unavailable.py`) and for people.
    """

    pictures: dict[str, Path]
    metadata: dict[str, Any]
    reason: str | None = None
    detail: str | None = None

    def row_metadata(self) -> dict[str, Any]:
        """Return what is merged into the row's JSON; None removes what an earlier attempt wrote."""
        earlier = dict.fromkeys((*PICTURE_NAMES, "preview_reason", "preview_detail"))
        why = {"preview_reason": self.reason, "preview_detail": self.detail}
        return earlier | self.metadata | why


def draw(source: Path, folder: Path, settings: Settings, kind: str = "picture") -> Drawing:
    """Draw the small and the large picture of `source`, a file of this kind, into `folder`.

    Raises:
        DrawingFailedError: the process came to an end without an answer, or with one that is none.
    """
    how = KINDS[kind]
    try:
        answer = sandbox.run(
            how.work,
            source,
            folder,
            how.options(settings),
            seconds=settings.draw_timeout_seconds,
            memory_bytes=settings.draw_memory_bytes,
        )
    except sandbox.SandboxFailure as error:
        raise DrawingFailedError(str(error), error.reason) from error
    try:
        return _checked(answer, folder.resolve(), kind)
    except (TypeError, ValueError, KeyError, OSError) as error:
        raise DrawingFailedError(f"the answer makes no sense: {type(error).__name__}: {error}") from error


def _checked(answer: dict[str, Any], folder: Path, kind: str) -> Drawing:
    metadata = {_text(name): _plain(value) for name, value in _dict(answer["metadata"]).items()}
    if len(metadata) > MOST_VALUES:
        raise ValueError("too much metadata")
    if "unavailable" in answer:
        reason = _text(answer["unavailable"])
        if reason not in REASONS:
            raise ValueError(f"{reason[:40]!r} is no reason")
        return Drawing({}, metadata, reason, _text(answer["detail"]))
    described = _dict(answer["pictures"])
    # A song without a cover has none.
    if described or kind == "picture":
        pictures = {name: _file(_dict(described[name]), folder, name) for name in PICTURE_NAMES}
        metadata |= {name: _size(described[name], path) for name, path in pictures.items()}
    else:
        pictures = {}
    return Drawing(pictures, metadata)


def _file(described: dict[str, Any], folder: Path, name: str) -> Path:
    if described["file"] != f"{name}.webp":
        raise ValueError(f"{described['file']!r:.80} is not the {name} picture's name")
    path = folder / f"{name}.webp"
    if not stat.S_ISREG(path.lstat().st_mode):
        raise ValueError(f"{path.name} is no file")
    return path


def _size(described: dict[str, Any], path: Path) -> dict[str, int]:
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(12)
    if head[:4] + head[8:] != b"RIFFWEBP" or described["bytes"] != size:
        raise ValueError(f"{path.name} is not as described")
    return {"width": _whole(described["width"]), "height": _whole(described["height"]), "bytes": size}


def _dict(value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise TypeError(f"{type(value).__name__} where a record should be")
    return value


def _whole(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < 2**31:
        raise ValueError("no size")
    return value


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{type(value).__name__} where a text should be")
    # A row's JSON can hold no NUL, and no half of a character.
    return value.replace("\0", "").encode(errors="replace").decode()[:LONGEST_TEXT]


def _plain(value: object) -> Any:
    """Return a number or a text, or a list of them."""
    if isinstance(value, list) and len(value) <= MOST_VALUES:
        return [_one(item) for item in value]
    return _one(value)


def _one(value: object) -> Any:
    if isinstance(value, str):
        return _text(value)
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int | float) and abs(value) < 2**63:
        return value
    raise TypeError(f"{type(value).__name__} where a value should be")

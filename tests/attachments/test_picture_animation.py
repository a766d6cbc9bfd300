"""Animations: what moves goes on moving, in both pictures, within limits."""

import base64
import struct
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageDraw

from tasks.attachments.drawing import budget, picture
from tests.attachments.picturing import (
    BLUE,
    LIME,
    RED,
    SECRET,
    Draw,
    alike,
    chunks,
    draw_bytes,
    exif,
    profile,
    saved,
    swapped_profile,
)

KINDS = ["GIF", "PNG", "WEBP", "AVIF"]
#: What a WebP file may consist of, if nothing but an animation is in it.
ANIMATION_ONLY = {"VP8X", "ANIM", "ANMF"}


@pytest.fixture
def drawn(tmp_path: Path) -> Draw:
    """Draw content with settings as given."""
    return partial(draw_bytes, tmp_path)


def moving(kind: str, frames: list[Image.Image], **options: Any) -> bytes:
    return saved(frames[0], kind, save_all=True, append_images=frames[1:], **options)


def plain_frames(count: int, size: tuple[int, int] = (60, 40)) -> list[Image.Image]:
    """Return frames of which each has its own colour."""
    return [Image.new("RGB", size, (number * 255 // count, 0, 90)) for number in range(count)]


def played(path: Path) -> tuple[list[Image.Image], list[int], int]:
    """Return frames, durations and loop, made sure that nothing else is in the file."""
    assert chunks(path.read_bytes()) <= ANIMATION_ONLY
    frames, durations = [], []
    with Image.open(path) as image:
        assert image.format == "WEBP"
        for number in range(image.n_frames):  # type: ignore[attr-defined]
            image.seek(number)
            image.load()
            frames.append(image.convert("RGBA"))
            durations.append(int(image.info["duration"]))
        return frames, durations, int(image.info["loop"])


@pytest.mark.parametrize("kind", KINDS)
def test_an_animation_is_kept_in_both_pictures(drawn: Draw, kind: str) -> None:
    colours = (RED, LIME, BLUE)
    frames = [Image.new("RGB", (600, 400), colour) for colour in colours]
    drawing = drawn(moving(kind, frames, duration=[100, 250, 70]))
    assert drawing.metadata["frames"] == 3
    assert (drawing.metadata["width"], drawing.metadata["height"]) == (600, 400)
    for name, size in (("small", (320, 213)), ("large", (600, 400))):
        found, durations, _ = played(drawing.pictures[name])
        assert durations == [100, 250, 70]
        for frame, colour in zip(found, colours, strict=True):
            assert frame.size == size
            assert alike(frame.getpixel((50, 50)), (*colour, 255))
        assert (drawing.metadata[name]["width"], drawing.metadata[name]["height"]) == size


@pytest.mark.parametrize(
    ("kind", "options", "loop"),
    [
        # A GIF says how often it is played again, and nothing if it is played once.
        ("GIF", {}, 1),
        ("GIF", {"loop": 0}, 0),
        ("GIF", {"loop": 4}, 5),
        ("PNG", {"loop": 0}, 0),
        ("PNG", {"loop": 4}, 4),
        ("WEBP", {"loop": 0}, 0),
        ("WEBP", {"loop": 4}, 4),
        ("AVIF", {}, 0),
    ],
)
def test_it_is_played_as_often(drawn: Draw, kind: str, options: dict[str, int], loop: int) -> None:
    drawing = drawn(moving(kind, plain_frames(3), duration=50, **options))
    assert played(drawing.pictures["large"])[2] == loop
    assert played(drawing.pictures["small"])[2] == loop


@pytest.mark.parametrize("kind", KINDS)
def test_one_frame_is_a_still_picture(drawn: Draw, kind: str) -> None:
    drawing = drawn(saved(plain_frames(1)[0], kind))
    assert drawing.metadata["frames"] == 1
    assert not chunks(drawing.pictures["large"].read_bytes()) & {"ANIM", "ANMF"}


def test_what_a_frame_leaves_standing_stands_and_what_it_clears_is_clear(drawn: Draw) -> None:
    """A dot that moves over a background that only the first frame brings."""
    frames = []
    for x in (10, 30, 50):
        frame = Image.new("RGBA", (80, 40), (0, 0, 0, 0))
        # Round: of a rectangle without a transparent corner Pillow reads no transparency at all.
        ImageDraw.Draw(frame).ellipse((x, 10, x + 15, 30), fill=(255, 0, 0, 255))
        frames.append(frame)
    for kind, disposal in (("GIF", 2), ("PNG", 1)):
        found, _, _ = played(drawn(moving(kind, frames, duration=50, disposal=disposal)).pictures["large"])
        for number, frame in enumerate(found):
            dot, other = (10, 30, 50)[number], (10, 30, 50)[number - 1]
            assert frame.getpixel((dot + 7, 20))[3] == 255  # type: ignore[index]
            assert frame.getpixel((other + 7, 20))[3] == 0  # type: ignore[index]


def test_a_picture_for_those_who_cannot_play_is_no_frame(drawn: Draw) -> None:
    frames = [Image.new("RGB", (50, 50), colour) for colour in (RED, LIME, BLUE)]
    found, durations, _ = played(
        drawn(moving("PNG", frames, default_image=True, duration=[30, 60])).pictures["large"]
    )
    assert durations == [30, 60]
    assert alike(found[0].getpixel((9, 9)), (*LIME, 255))


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_a_colour_profile_is_applied_to_each_frame(drawn: Draw, kind: str) -> None:
    frames = [Image.new("RGB", (50, 50), colour) for colour in (RED, LIME)]
    drawing = drawn(moving(kind, frames, duration=50, icc_profile=swapped_profile()))
    found, _, _ = played(drawing.pictures["large"])
    assert alike(found[0].getpixel((9, 9)), (*LIME, 255))
    assert alike(found[1].getpixel((9, 9)), (*RED, 255))


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_but_the_animation_is_kept(drawn: Draw, kind: str) -> None:
    options: dict[str, Any] = (
        {"comment": SECRET} if kind == "GIF" else {"exif": exif(), "icc_profile": profile()}
    )
    if kind in ("WEBP", "AVIF"):
        options["xmp"] = b"<x>" + SECRET + b"</x>"
    content = moving(kind, plain_frames(3), **options)
    assert SECRET in content
    drawing = drawn(content)
    for path in drawing.pictures.values():
        played(path)
        assert SECRET not in path.read_bytes()


# -- Limits -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("frames", "kept"), [(9, 9), (10, 10), (11, 6), (20, 10), (21, 7), (95, 10)])
def test_too_many_frames_become_fewer_and_last_as_long(drawn: Draw, frames: int, kept: int) -> None:
    drawing = drawn(moving("PNG", plain_frames(frames), duration=40), draw_animation_frames=10)
    assert drawing.metadata["frames"] == frames
    for path in drawing.pictures.values():
        found, durations, _ = played(path)
        assert len(found) == kept
        assert sum(durations) == frames * 40
    step = -(-frames // 10)
    assert durations[0] == step * 40


def test_too_many_pixels_become_fewer_but_not_fewer_than_the_small_picture_has(drawn: Draw) -> None:
    content = moving("PNG", plain_frames(4, (1000, 500)), duration=40)
    sizes = {}
    for pixels in (2_000_000, 1_999_000, 500_000, 1):
        drawing = drawn(content, draw_animation_pixels=pixels)
        sizes[pixels] = played(drawing.pictures["large"])[0][0].size
        assert played(drawing.pictures["small"])[0][0].size == (320, 160)
    assert sizes == {2_000_000: (1000, 500), 1_999_000: (999, 500), 500_000: (500, 250), 1: (320, 160)}


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_an_animation_that_stops_in_the_middle_is_no_failure(drawn: Draw, kind: str) -> None:
    """Not drawn, or, as the format allows, drawn up to there."""
    frames = [Image.effect_noise((90, 90), 90).convert("RGB") for _ in range(5)]
    content = moving(kind, frames, duration=40)
    for part in (0.3, 0.7, 0.95):
        drawing = drawn(content[: int(len(content) * part)])
        assert drawing.reason in (None, "undecodable")


def empty_frames(count: int, canvas: int = 1) -> bytes:
    """Return a GIF of very many frames of one pixel."""
    head = b"GIF89a" + struct.pack("<HH", canvas, canvas) + b"\x80\0\0" + b"\0\0\0\xff\xff\xff"
    frame = b"\x2c" + bytes(4) + struct.pack("<HH", 1, 1) + b"\0" + b"\x02\x02\x44\x01\0"
    return head + frame * count + b";"


@pytest.mark.parametrize(
    "content", [empty_frames(2_000_000), empty_frames(3000, 7000), empty_frames(10_001)], ids=len
)
def test_frames_without_end_are_not_all_played(drawn: Draw, content: bytes) -> None:
    drawing = drawn(content, draw_memory_bytes=640 * 2**20)
    assert drawing.reason is None
    assert drawing.metadata["frames"] <= 10_000


def test_an_animation_beyond_the_budget_loses_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(budget, "COMPOSED_PIXELS", 60 * 40 * 5)
    for kind in KINDS:
        source = tmp_path / kind
        source.write_bytes(moving(kind, plain_frames(8), duration=40))
        answer = picture.draw(source, tmp_path, 640 * 2**20, 120, 24_000_000)
        assert answer["metadata"]["frames"] == 8
        frames, durations, _ = played(tmp_path / "large.webp")
        assert (len(frames), sum(durations)) == (5, 200)


@pytest.mark.parametrize("kind", KINDS)
def test_an_animation_on_too_large_a_canvas_becomes_a_still(drawn: Draw, kind: str) -> None:
    content = moving(kind, [Image.new("RGB", (600, 400), colour) for colour in (RED, LIME)], duration=40)
    drawing = drawn(content, draw_decoded_bytes=600 * 400 * 4 * budget.CANVASES - 1)
    assert drawing.metadata["frames"] == 2
    with Image.open(drawing.pictures["large"]) as image:
        assert not getattr(image, "is_animated", False)
        assert alike(image.convert("RGB").getpixel((9, 9)), RED)
    assert len(played(drawn(content).pictures["large"])[0]) == 2


def test_a_screen_recording_is_drawn_as_an_animation(drawn: Draw) -> None:
    """150 frames of 800 × 600: more pixels than a photo may have."""
    frames = [Image.new("P", (800, 600), number) for number in range(150)]
    for number, one in enumerate(frames):
        one.putpalette([number] * 768)
    drawing = drawn(moving("GIF", frames, duration=50, disposal=2), draw_animation_frames=20)
    assert drawing.metadata["frames"] == 150
    shown, durations, _ = played(drawing.pictures["small"])
    # Frames that look the same are one.
    assert 3 < len(shown) <= 20
    assert sum(durations) == 7500


@pytest.mark.parametrize("fault", ["claims more", "out of order", "one broken"])
def test_an_apng_is_played_up_to_its_fault(drawn: Draw, fault: str) -> None:
    content = moving("PNG", plain_frames(4), duration=40)
    if fault == "claims more":
        at = content.index(b"acTL") + 4
        content = content[:at] + struct.pack(">I", 9) + content[at + 4 :]
    else:
        # The number of the third frame in the sequence; or its data.
        at = content.index(b"fcTL", content.index(b"fcTL", content.index(b"fcTL") + 4) + 4) + 4
        if fault == "one broken":
            at = content.index(b"fdAT", at) + 10
        content = content[:at] + b"\xff\xff\xff\xff" + content[at + 4 :]
    drawing = drawn(content)
    assert drawing.reason is None
    shown, _, _ = played(drawing.pictures["large"])
    assert len(shown) == (4 if fault == "claims more" else 2)
    for number, one in enumerate(shown):
        assert alike(one.getpixel((9, 9)), (number * 255 // 4, 0, 90, 255))


def test_an_apng_whose_first_frame_is_broken_is_its_still_picture(drawn: Draw) -> None:
    content = moving("PNG", [Image.new("RGB", (60, 40), colour) for colour in (RED, LIME)], duration=40)
    at = content.index(b"fcTL") + 4
    drawing = drawn(content[:at] + struct.pack(">I", 7) + content[at + 4 :])
    with Image.open(drawing.pictures["large"]) as image:
        assert alike(image.convert("RGB").getpixel((9, 9)), RED)


def test_a_frame_beyond_the_canvas_is_clipped(drawn: Draw) -> None:
    """The second frame of a GIF of 4 × 4 pixels begins in its middle and is as large as all of it."""
    encoded = (
        "R0lGODlhBAAEAIAAAP///wAAACH5BAQKAAAALAAAAAAEAAQAgP8AAAD/AAINBEEQBEEQBEEQBEEQBQAh+QQECgAAACwCAAIABAAE"
        "AIAAAP8A/wACDQRBEARBEARBEARBEAUAOw=="
    )
    drawing = drawn(base64.b64decode(encoded))
    frames, _, _ = played(drawing.pictures["large"])
    assert [one.size for one in frames] == [(4, 4), (4, 4)]
    assert alike(frames[1].getpixel((0, 0)), (*RED, 255), 80)
    assert alike(frames[1].getpixel((3, 3)), (*BLUE, 255), 80)

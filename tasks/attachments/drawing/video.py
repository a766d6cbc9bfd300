"""Videos: one frame that says what is in it, and what a player needs to know before it has the file."""

import math
from collections.abc import Iterator
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image, ImageStat

from tasks.attachments.drawing import audio, picture
from tasks.attachments.drawing.container import decodable, opened
from tasks.attachments.drawing.unavailable import unavailable

if TYPE_CHECKING:
    from av import VideoFrame, VideoStream
    from av.container import InputContainer

#: Where a frame is looked for, as shares of the duration: beginnings are black, or a title.
PLACES = (0.1, 0.3, 0.6)
#: The most that is decoded to find one that is not dark, in pixels of all frames together; and the least, in
#: frames.
DECODED_PIXELS = 250_000_000
LEAST_FRAMES = 6
#: A frame is lit if its brightness, 0 to 255, has this mean or this deviation: a title on black is a picture.
LIT_MEAN = 40
LIT_DEVIATION = 30
#: Pixels wider or higher than this are a mistake, not a film.
MOST_UNSQUARE = 4
#: What undoes a display matrix's rotation, in degrees counterclockwise.
TURNS = {
    90: Image.Transpose.ROTATE_90,
    180: Image.Transpose.ROTATE_180,
    270: Image.Transpose.ROTATE_270,
}
BT709 = 1
UNSPECIFIED = 2


def draw(source: Path, folder: Path, max_pixels: int) -> dict[str, Any]:
    """Draw a frame of a video: not the black one at the beginning, upright, its pixels made square.

    Args:
        source, folder: the file; where the pictures are written.
        max_pixels: the largest frame that is decoded, width × height.

    Returns:
        As the package says. `metadata`: `width` and `height` as shown, in pixels; `duration` in seconds, if
        it is known; `fps`, frames per second; `video_codec`, `audio_codec` by FFmpeg's names; `has_audio`.
        A file without moving pictures is drawn as audio.
    """
    import av

    metadata: dict[str, Any] = {}
    try:
        with opened(source, max_pixels) as container:
            stream = _stream(container)
            if stream is None:
                return audio.draw(source, folder, max_pixels)
            if not decodable(stream):
                return unavailable("unsupported", "no decoder for this video")
            metadata = _described(container, stream)
            width, height = stream.codec_context.width, stream.codec_context.height
            if width * height > max_pixels:
                return unavailable("over_budget", f"frames of more than {max_pixels} pixels", metadata)
            frame = _poster(container, stream, metadata.get("duration"))
            if frame is None:
                return unavailable("undecodable", "no frame can be decoded", metadata)
            image, shown = _shown(frame, stream)
    except (av.FFmpegError, ValueError) as error:
        return unavailable("undecodable", f"{type(error).__name__}: {error}", metadata)
    metadata["width"], metadata["height"] = shown
    drawn = picture.render(image, folder)
    return {"pictures": drawn["pictures"], "metadata": metadata | drawn["metadata"]}


def _stream(container: "InputContainer") -> "VideoStream | None":
    moving = [stream for stream in container.streams.video if not audio.is_cover(stream)]
    best = container.streams.best("video")
    return next(
        (stream for stream in moving if best and stream.index == best.index), next(iter(moving), None)
    )


def _described(container: "InputContainer", stream: "VideoStream") -> dict[str, Any]:
    sound = audio.sound(container)
    found: dict[str, Any] = {
        "width": stream.codec_context.width,
        "height": stream.codec_context.height,
        "video_codec": stream.codec_context.codec.canonical_name,
        "has_audio": sound is not None,
    }
    if sound is not None and decodable(sound):
        found["audio_codec"] = sound.codec_context.codec.canonical_name
    duration = _duration(container, stream)
    if duration is not None:
        found["duration"] = round(duration, 3)
    rate = stream.average_rate or stream.guessed_rate
    if rate:
        found["fps"] = round(float(rate), 3)
    return found


def _duration(container: "InputContainer", stream: "VideoStream") -> float | None:
    """Return the seconds that it lasts: what it says or, as browsers' recordings do not, when it ends."""
    if container.duration:
        return max(container.duration / 1_000_000, 0.0)
    import av

    end = 0.0
    try:
        for packet in container.demux(stream):
            if packet.pts is not None and packet.time_base is not None:
                end = max(end, float((packet.pts + (packet.duration or 0)) * packet.time_base))
    except av.FFmpegError:
        # Cut off: it ends here.
        pass
    return end or None


def _poster(
    container: "InputContainer", stream: "VideoStream", duration: float | None
) -> "VideoFrame | None":
    """Return the first frame that is lit, of a few from each of some places, or else the brightest."""
    area = max(stream.codec_context.width * stream.codec_context.height, 1)
    frames = max(DECODED_PIXELS // area, LEAST_FRAMES)
    best: tuple[float, VideoFrame | None] = (-1.0, None)
    for place in (*PLACES, 0.0) if duration else (0.0,):
        if place == 0 and best[1] is not None:
            # The beginning is the last resort: in a stream, a search ends between keyframes.
            break
        for frame in _frames(container, stream, place * (duration or 0), frames // len(PLACES)):
            brightness = ImageStat.Stat(_image(frame, 32, 32, interpolation="FAST_BILINEAR").convert("L"))
            mean, deviation = brightness.mean[0], brightness.stddev[0]
            if not frame.is_corrupt and (mean >= LIT_MEAN or deviation >= LIT_DEVIATION):
                return frame
            best = max(best, (-0.5 if frame.is_corrupt else mean, frame), key=lambda pair: pair[0])
    return best[1]


def _frames(
    container: "InputContainer", stream: "VideoStream", second: float, most: int
) -> Iterator["VideoFrame"]:
    """Decode up to `most` frames from the keyframe before a second on."""
    import av

    assert stream.time_base is not None
    # The first keyframe may have to be decoded before its time.
    offset = int(second / stream.time_base) + (stream.start_time or 0) if second else 0
    # Some files cannot be sought in: then the next frames will do.
    with suppress(av.FFmpegError):
        container.seek(offset, stream=stream)
    left = most
    try:
        for packet in container.demux(stream):
            try:
                decoded = stream.decode(packet)
            except av.FFmpegError:
                decoded = []
                left -= 1
            for frame in decoded:
                left -= 1
                yield frame
            if left <= 0:
                return
    except av.FFmpegError:
        # Cut off here; there may be frames elsewhere.
        return


def _shown(frame: "VideoFrame", stream: "VideoStream") -> tuple[Image.Image, tuple[int, int]]:
    """Return the frame as a picture no larger than wanted, and the size at which a player shows it."""
    ratio = stream.sample_aspect_ratio or Fraction(1)
    if not 1 / MOST_UNSQUARE <= ratio <= MOST_UNSQUARE:
        ratio = Fraction(1)
    width, height = max(round(frame.width * ratio), 1), frame.height
    scale = min(picture.SIDES["large"] / max(width, height), 1)
    # Unspecified means by custom what its size suggests; the library would always take the old standard.
    unspecified = frame.colorspace == UNSPECIFIED
    image = _image(
        frame,
        max(round(width * scale), 1),
        max(round(height * scale), 1),
        src_colorspace=BT709 if unspecified and frame.height >= 720 else None,
        interpolation="AREA",
    )
    matrix = _matrix(frame)
    if matrix is not None:
        a, b, c, d = matrix
        if a * d - b * c < 0:
            # Mirrored, as front cameras do: flipped first, what is left is a rotation.
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            a, b = -a, -b
        degrees = round(math.degrees(math.atan2(-b, a)) / 90) * 90 % 360
        if degrees in TURNS:
            image = image.transpose(TURNS[degrees])
        if degrees in {90, 270}:
            width, height = height, width
    return image, (width, height)


def _image(frame: "VideoFrame", width: int, height: int, **options: Any) -> Image.Image:
    scaled: Any = frame.reformat(width, height, "rgb24", threads=1, **options)
    image: Image.Image = scaled.to_image()
    return image


def _matrix(frame: "VideoFrame") -> tuple[int, int, int, int] | None:
    """Return the part of the display matrix that turns and mirrors."""
    data: Any = frame.side_data.get("DISPLAYMATRIX")
    if data is None:
        return None
    a, b, _, c, d, *_ = memoryview(bytes(data)).cast("i")
    return (a, b, c, d) if (a, b, c, d) != (0, 0, 0, 0) else None

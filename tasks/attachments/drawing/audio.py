"""Audio: how long it is, how loud from beginning to end, and the picture on its cover."""

import io
import math
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from tasks.attachments.drawing import picture
from tasks.attachments.drawing.container import decodable, opened
from tasks.attachments.drawing.unavailable import unavailable

if TYPE_CHECKING:
    from av import AudioFrame, AudioStream
    from av.container import InputContainer

#: How many values draw the waveform.
PEAKS = 128
#: The most that is decoded, in seconds; of what is longer, the beginning of each of the PEAKS slices.
DECODED_SECONDS = 512
#: What covers are. The formats are named, or forty would be tried.
COVERS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")


def draw(source: Path, folder: Path, max_pixels: int) -> dict[str, Any]:
    """Listen to a file, and draw its cover if it has one. Of a video this is its sound track.

    Args:
        source, folder: the file; where the pictures are written.
        max_pixels: the largest cover that is decoded, width × height.

    Returns:
        As the package says; `pictures` is empty if there is no cover. `metadata`: `duration` in seconds,
        `sample_rate` in hertz, `channels`, `audio_codec`, and `peaks`: in each of 128 slices of equal length
        the loudest sample, all channels mixed, 0 (silence) to 255 (full scale).
    """
    import av

    metadata: dict[str, Any] = {}
    try:
        with opened(source, max_pixels) as container:
            stream = sound(container)
            if stream is None or not decodable(stream):
                return unavailable("unsupported", "no sound that can be decoded")
            metadata["audio_codec"] = stream.codec_context.codec.canonical_name
            span, cover = _survey(container, stream)
        # Opened again: not every format can be read from its beginning twice.
        with opened(source, max_pixels) as container:
            metadata |= _listen(container, span)
    except (av.FFmpegError, ValueError) as error:
        return unavailable("undecodable", f"{type(error).__name__}: {error}", metadata)
    image = _cover(cover, max_pixels) if cover else None
    if image is None:
        return {"pictures": {}, "metadata": metadata}
    drawn = picture.render(image, folder)
    return {"pictures": drawn["pictures"], "metadata": metadata | drawn["metadata"]}


def _survey(container: "InputContainer", stream: "AudioStream") -> tuple[tuple[float, float], bytes | None]:
    """Return from when to when the packets last, in seconds, and the first picture's bytes.

    What a file says of its length is an estimate, absent (recordings of browsers) or a lie.
    """
    import av

    covers = [other for other in container.streams.video if is_cover(other)]
    cover: bytes | None = None
    # In the stream's own unit until the end: fractions are slow, and packets are many.
    first, last = math.inf, -math.inf
    wanted = stream.index
    try:
        for packet in container.demux(stream, *covers):
            if packet.stream_index != wanted:
                cover = cover or bytes(packet)
            elif packet.size:
                pts = packet.pts
                # Packets without a time follow the one before.
                begin = pts if pts is not None else max(last, 0)
                first = min(first, begin)
                last = max(last, begin + (packet.duration or 0))
    except av.FFmpegError:
        # Cut off: what came before it can be heard.
        if first >= last:
            raise
    if first >= last:
        raise ValueError("no sound in it")
    # What is before the start is for the decoder to warm up.
    if stream.start_time is not None and first < stream.start_time < last:
        first = stream.start_time
    unit = float(stream.time_base or 1)
    return (first * unit, last * unit), cover


def _listen(container: "InputContainer", span: tuple[float, float]) -> dict[str, Any]:
    import av

    stream = sound(container)
    assert stream is not None
    start, duration = span[0], span[1] - span[0]
    slice_seconds = duration / PEAKS
    stretch = min(DECODED_SECONDS / PEAKS, slice_seconds)
    peaks = [0] * PEAKS
    mixer = _Mixer()
    unit = float(stream.time_base or 1)
    at, skipped = start, False
    try:
        for packet in container.demux(stream):
            pts = packet.pts
            if pts is not None:
                at = pts * unit
            if packet.size and (at - start) % slice_seconds > stretch:
                skipped = True
                continue
            if skipped:
                stream.codec_context.flush_buffers()
                skipped = False
            try:
                frames = stream.decode(packet)
            except av.FFmpegError:
                # One broken packet is no reason to hear nothing.
                continue
            for frame in frames:
                time = frame.time if frame.time is not None else at
                _raise(peaks, mixer.mixed(frame), frame.sample_rate, time - start, slice_seconds)
                at = time + frame.samples / frame.sample_rate
    except av.FFmpegError:
        # Cut off.
        pass
    if mixer.rate == 0:
        raise ValueError("no sound that can be decoded")
    return {
        "duration": round(duration, 3),
        "sample_rate": mixer.rate,
        "channels": mixer.channels,
        "peaks": [round(peak / 2**31 * 255) for peak in peaks],
    }


def _raise(
    peaks: list[int], samples: list[Image.Image], rate: int, time: float, slice_seconds: float
) -> None:
    """Raise the peaks of the slices that the samples, one row of pixels, fall into."""
    for row in samples:
        begin = 0
        while begin < row.width:
            index = min(max(math.floor((time + begin / rate) / slice_seconds), 0), PEAKS - 1)
            end = math.ceil(((index + 1) * slice_seconds - time) * rate)
            # The last slice has what is left, in case that the file says less than there is.
            end = row.width if index == PEAKS - 1 else min(max(end, begin + 1), row.width)
            extrema: Any = row.crop((begin, 0, end, 1)).getextrema()
            low, high = extrema
            peaks[index] = max(peaks[index], -low, high)
            begin = end


class _Mixer:
    """Mixes the channels down. Made anew when a stream changes its mind about what it is."""

    def __init__(self) -> None:
        self.rate = 0
        self.channels = 0
        self._is: tuple[Any, ...] = ()

    def mixed(self, frame: "AudioFrame") -> list[Image.Image]:
        """Return the samples as rows of a 32-bit picture: Pillow finds the extremes in them quickly."""
        import av

        now = (frame.format.name, frame.layout.name, frame.sample_rate)
        if now != self._is:
            self._resampler = av.AudioResampler("s32", "mono", frame.sample_rate)
            self._is, self.rate, self.channels = now, frame.sample_rate, frame.layout.nb_channels
        mixed = self._resampler.resample(frame)
        return [
            Image.frombuffer(
                "I", (part.samples, 1), bytes(part.planes[0])[: part.samples * 4], "raw", "I", 0, 1
            )
            for part in mixed
            if part.samples
        ]


def sound(container: "InputContainer") -> "AudioStream | None":
    """Return the sound track that a player plays."""
    best = container.streams.best("audio")
    return next((stream for stream in container.streams.audio if best and stream.index == best.index), None)


def is_cover(stream: Any) -> bool:
    """Return whether a stream of video is one still picture that belongs to a sound track."""
    import av.stream

    return bool(stream.disposition & av.stream.Disposition.attached_pic)


def _cover(content: bytes, max_pixels: int) -> Image.Image | None:
    """Return the cover, small and in RGB, or None if it cannot be opened."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(content), formats=COVERS) as image:
                if image.width * image.height > max_pixels:
                    return None
                image.thumbnail((picture.SIDES["large"], picture.SIDES["large"]))
                return image.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError, Image.DecompressionBombWarning):
        return None

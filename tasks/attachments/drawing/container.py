"""Opens files of video and audio so that nothing but the file itself is read."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from av.container import InputContainer

#: FFmpeg's names of what may be opened. Not among them, whatever the file's name: playlists and scripts (hls,
#: dash, concat, image2, sdp, …), which name further files and addresses to read, and text that becomes video.
FORMATS = (
    "mov,matroska,webm,avi,mpegts,mpeg,ogg,flv,asf,gif,dv,mxf,gxf,rm,wtv,ivf,mpegvideo,m4v,h264,hevc",
    "mp3,aac,loas,flac,wav,w64,amr,aiff,caf,au,ac3,eac3,dts,dtshd,wv,tta,ape,mpc,mpc8,dsf,voc",
)
#: The frames that are read to find out what is in a file, as for drawing one.
PROBE_PIXELS = 64_000_000
#: How much of a file is read to find out what it is and what is in it.
PROBE_BYTES = 5_000_000
BUFFER_BYTES = 256 * 1024


@contextmanager
def opened(source: Path, max_pixels: int) -> Iterator["InputContainer"]:
    """Open a file for demultiplexing and decoding on one thread.

    Raises:
        av.FFmpegError: it is of no such format, or broken.
    """
    import av

    # A file object and not a path: FFmpeg is told of nothing that could be the start of another path.
    with (
        source.open("rb", buffering=0) as file,
        av.open(
            file,
            "r",
            options={
                "format_whitelist": ",".join(FORMATS),
                "probesize": str(PROBE_BYTES),
                # Finding out what is in it may mean to decode a frame.
                "max_pixels": str(max_pixels),
                "threads": "1",
            },
            io_open=_refuse,
            buffer_size=BUFFER_BYTES,
            # Tags are in any encoding; they are not read here.
            metadata_errors="replace",
        ) as container,
    ):
        for stream in container.streams:
            if stream.type in {"video", "audio"} and decodable(stream):
                stream.codec_context.thread_count = 1
                # What a frame says of its size counts, not what the file says of its frames.
                stream.codec_context.options = {"max_pixels": str(max_pixels)}
        yield container


def probe(source: Path, folder: Path) -> dict[str, Any]:  # noqa: ARG001  # as everything is called there
    """Return `opens`: whether the decoder opens the file, and finds a film or a sound in it."""
    import av

    try:
        with opened(source, PROBE_PIXELS) as container:
            return {"opens": any(map(_described, container.streams))}
    except (av.FFmpegError, ValueError):
        return {"opens": False}


def _described(stream: Any) -> bool:
    if stream.type not in {"video", "audio"} or not decodable(stream):
        return False
    context = stream.codec_context
    return bool(context.width and context.height if stream.type == "video" else context.sample_rate)


def decodable(stream: Any) -> bool:
    """Return whether there is a decoder for a stream; the library's types say that there always is."""
    return stream.codec_context is not None


def _refuse(*_: Any) -> NoReturn:
    raise ValueError("it wants to open another file")

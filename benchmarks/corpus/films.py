"""Films and sounds in the containers and codecs that FFmpeg writes, as PyAV brings it."""

from pathlib import Path
from typing import Any

from benchmarks.corpus.cache import once
from tests.attachments.media import audio, flag, video

NAME = "generated-films"
#: Increased when other files are made.
_EDITION = 1
_SIZES = {"dvvideo": (720, 576), "h263": (176, 144), "rv10": (176, 144), "rv20": (176, 144)}
_PIXELS = {
    "mjpeg": "yuvj420p",
    "qtrle": "rgb24",
    "png": "rgb24",
    "prores_ks": "yuv422p10le",
    "cfhd": "yuv422p10le",
    "huffyuv": "yuv422p",
    "cinepak": "rgb24",
    "zmbv": "bgr0",
    "flashsv": "bgr24",
    "apng": "rgb24",
    "gif": "rgb8",
}
#: Ending, FFmpeg's name of the container, codecs.
FILMS = (
    ("mp4", "mp4", "libx264 libx265 mpeg4 libsvtav1 libvpx-vp9 mjpeg"),
    ("mov", "mov", "libx264 libx265 mjpeg mpeg4 qtrle png prores_ks dvvideo cfhd"),
    ("mkv", "matroska", "libx264 libx265 libvpx libvpx-vp9 libsvtav1 ffv1 mpeg2video mpeg4 mjpeg snow"),
    ("webm", "webm", "libvpx libvpx-vp9 libsvtav1"),
    (
        "avi",
        "avi",
        "mpeg4 mjpeg libx264 msmpeg4v2 msmpeg4 huffyuv ffvhuff cinepak utvideo zmbv asv1 flv wmv2 dvvideo",
    ),
    ("flv", "flv", "flv libx264 flashsv"),
    ("mpg", "mpeg", "mpeg1video mpeg2video"),
    ("mpeg", "svcd", "mpeg2video"),
    ("vob", "dvd", "mpeg2video"),
    ("ts", "mpegts", "libx264 mpeg2video libx265"),
    ("m2ts", "mpegts", "libx264"),
    ("wmv", "asf", "wmv1 wmv2 msmpeg4"),
    ("3gp", "3gp", "h263 mpeg4 libx264"),
    ("3g2", "3g2", "h263 libx264"),
    ("ogv", "ogg", "libvpx"),
    ("mxf", "mxf", "mpeg2video dvvideo"),
    ("nut", "nut", "mpeg4 ffv1"),
    ("ivf", "ivf", "libvpx libvpx-vp9 libsvtav1"),
    ("swf", "swf", "flv mjpeg"),
    ("dv", "dv", "dvvideo"),
    ("rm", "rm", "rv10 rv20"),
    ("m4v", "m4v", "mpeg4"),
    ("m4v", "ipod", "libx264"),
    ("h264", "h264", "libx264"),
    ("hevc", "hevc", "libx265"),
    ("mjpeg", "mjpeg", "mjpeg"),
    ("y4m", "yuv4mpegpipe", "wrapped_avframe"),
    ("m1v", "mpeg1video", "mpeg1video"),
    ("m2v", "mpeg2video", "mpeg2video"),
    ("f4v", "f4v", "libx264"),
    ("obu", "obu", "libsvtav1"),
    ("apng", "apng", "apng"),
    ("gif", "gif", "gif"),
)
#: Of these some are made with sound, too: container → its codec.
_SOUND = {
    "mp4": "aac",
    "mov": "alac",
    "matroska": "libopus",
    "webm": "libopus",
    "avi": "libmp3lame",
    "mpegts": "aac",
    "mpeg": "mp2",
    "3gp": "aac",
}
SOUNDS = (
    ("wav", "wav", "pcm_s16le pcm_u8 pcm_s24le pcm_s32le pcm_f32le pcm_f64le pcm_mulaw pcm_alaw adpcm_ms"
     " adpcm_ima_wav adpcm_g726 libmp3lame aac ac3"),
    ("w64", "w64", "pcm_s16le"),
    ("aiff", "aiff", "pcm_s16be pcm_s24be pcm_mulaw"),
    ("au", "au", "pcm_s16be pcm_mulaw"),
    ("caf", "caf", "pcm_s16le alac"),
    ("mp3", "mp3", "libmp3lame"),
    ("mp2", "mp2", "mp2"),
    ("aac", "adts", "aac"),
    ("m4a", "ipod", "aac alac ac3"),
    ("m4b", "ipod", "aac"),
    ("mp4", "mp4", "aac libmp3lame alac flac libopus ac3"),
    ("ogg", "ogg", "libopus flac"),
    ("oga", "oga", "flac"),
    ("opus", "opus", "libopus"),
    ("flac", "flac", "flac"),
    ("wv", "wv", "wavpack"),
    ("tta", "tta", "tta"),
    ("ac3", "ac3", "ac3"),
    ("eac3", "eac3", "eac3"),
    ("mka", "matroska", "aac libopus flac pcm_s16le ac3 tta wavpack alac"),
    ("weba", "webm", "libopus"),
    ("voc", "voc", "pcm_u8 pcm_s16le"),
    ("sox", "sox", "pcm_s32le"),
    ("sbc", "sbc", "sbc"),
    ("g722", "g722", "g722"),
    ("latm", "latm", "aac"),
    ("3gp", "3gp", "aac"),
    ("flv", "flv", "libmp3lame aac"),
    ("avi", "avi", "pcm_s16le"),
    ("mov", "mov", "aac pcm_s16be"),
    ("ts", "mpegts", "aac mp2"),
    ("swf", "swf", "libmp3lame"),
    ("nut", "nut", "flac"),
)  # fmt: skip


def made(cache: Path) -> Path:
    """Return the directory with all of them, made now or earlier."""
    import av

    return once(cache / f"{NAME}-{_EDITION}-{av.__version__}", _make)


def _make(folder: Path) -> None:
    for ending, kind, codecs in FILMS:
        for codec in codecs.split():
            frames = [flag(*_SIZES.get(codec, (128, 96)))] * 12
            settings: dict[str, Any] = {
                "kind": kind,
                "codec": codec,
                "fps": 25,
                "pixels": _PIXELS.get(codec, "yuv420p"),
            }
            name = f"film-{kind}-{codec}"
            (folder / f"{name}.{ending}").write_bytes(video(frames, **settings))
            if kind in _SOUND and codec != "dvvideo":
                film = video(frames, sound=_SOUND[kind], tags={"title": "A flag"}, **settings)
                (folder / f"{name}-{_SOUND[kind]}.{ending}").write_bytes(film)
    for ending, kind, codecs in SOUNDS:
        for codec in codecs.split():
            rate = {"g722": 16000, "adpcm_g726": 8000}.get(codec, 44100 if kind in ("flv", "swf") else 48000)
            sound = audio(lambda at: at / 2, 2, kind=kind, codec=codec, rate=rate)
            (folder / f"sound-{kind}-{codec}.{ending}").write_bytes(sound)

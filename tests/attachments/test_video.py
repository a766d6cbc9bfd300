"""Videos, drawn from real ones: which frame, which way up, what is told, and that nothing else is read."""

import io
import threading
from fractions import Fraction
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import av
import pytest
from PIL import Image

from tasks.attachments.drawing import container, video
from tests.attachments import media
from tests.attachments.easel import Easel
from tests.attachments.media import BLACK, BLUE, FLAG, LIME, RED, alike, flag, quarters

FAST = {"preset": "ultrafast"}


@pytest.fixture
def easel(tmp_path: Path) -> Easel:
    return Easel(tmp_path, video.draw)


def plain(colour: tuple[int, int, int], size: tuple[int, int] = (64, 48)) -> Image.Image:
    return Image.new("RGB", size, colour)


def shade(frames: int, *colours: tuple[int, int, int]) -> list[Image.Image]:
    """Return a film of the colours, each for some frames."""
    return [plain(colour) for colour in colours for _ in range(frames)]


KINDS = [
    ("mp4", "libx264", "h264", {}),
    ("mp4", "libx265", "hevc", {"x265-params": "log-level=none"}),
    ("mp4", "mpeg4", "mpeg4", {}),
    ("mov", "libx264", "h264", {}),
    ("mov", "prores_ks", "prores", {}),
    ("matroska", "libx264", "h264", {}),
    ("matroska", "libvpx-vp9", "vp9", {}),
    ("webm", "libvpx", "vp8", {}),
    ("webm", "libsvtav1", "av1", {"preset": "12"}),
    ("avi", "mpeg4", "mpeg4", {}),
    ("avi", "mjpeg", "mjpeg", {}),
    ("3gp", "h263", "h263", {}),
    ("mpegts", "libx264", "h264", {}),
    ("mpeg", "mpeg2video", "mpeg2video", {}),
    ("flv", "flv", "flv1", {}),
    ("asf", "wmv2", "wmv2", {}),
    ("ogv", "vp8", "vp8", {}),
    ("gif", "gif", "gif", {}),
]
PIXELS = {"prores_ks": "yuv422p10le", "mjpeg": "yuvj420p", "gif": "bgr8"}
#: Sizes that the codec knows.
SIZES = {"h263": (176, 144)}


@pytest.mark.parametrize(("kind", "codec", "name", "options"), KINDS, ids=lambda value: str(value)[:9])
def test_every_kind_is_drawn(easel: Easel, kind: str, codec: str, name: str, options: dict[str, str]) -> None:
    size = SIZES.get(codec, (64, 48))
    content = media.video(
        [flag(*size)] * 20,
        kind=kind,
        codec="libvpx" if codec == "vp8" else codec,
        fps=25,
        pixels=PIXELS.get(codec, "yuv420p"),
        ratio=Fraction(1),
        codec_options=options,
    )
    answer = easel.draw(content)
    assert alike(quarters(easel.large()), FLAG, 90)
    metadata = answer["metadata"]
    assert (metadata["width"], metadata["height"], metadata["video_codec"]) == (*size, name)
    assert metadata["has_audio"] is False
    if kind != "mpeg":
        # A guess, and for so few frames a wrong one.
        assert metadata["duration"] == pytest.approx(0.8, abs=0.1)
    assert metadata["fps"] == pytest.approx(25, abs=0.1)


def test_what_a_player_needs_to_know_is_told(easel: Easel) -> None:
    content = media.video([flag(1920, 1080)] * 30, fps=30, sound="aac", codec_options=FAST)
    answer = easel.draw(content)
    assert (
        answer["metadata"].items()
        >= {
            "width": 1920,
            "height": 1080,
            "duration": pytest.approx(1, abs=0.05),
            "fps": 30.0,
            "video_codec": "h264",
            "audio_codec": "aac",
            "has_audio": True,
        }.items()
    )
    assert easel.large().size == (1280, 720)
    assert (answer["pictures"]["small"]["width"], answer["pictures"]["small"]["height"]) == (320, 180)


# -- Which frame --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gop", ["1", "10", "1000"])
def test_a_black_beginning_is_passed_over(easel: Easel, gop: str) -> None:
    easel.draw(media.video(shade(15, BLACK, RED), codec_options={"g": gop}))
    assert alike(quarters(easel.large()), [RED] * 4)


def test_a_long_black_beginning_is_passed_over(easel: Easel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then the next place is looked at, and no more is decoded at the first than was allowed."""
    monkeypatch.setattr(video, "DECODED_PIXELS", 64 * 48 * 15)
    easel.draw(media.video(shade(20, BLACK, RED, BLUE), codec_options={"g": "10"}))
    assert alike(quarters(easel.large()), [RED] * 4)


def test_it_is_not_the_beginning_that_is_shown(easel: Easel) -> None:
    """A title, usually."""
    easel.draw(media.video(shade(10, BLUE) + shade(90, LIME), codec_options={"g": "10"}))
    assert alike(quarters(easel.large()), [LIME] * 4)


def test_of_a_dark_film_the_brightest_frame_is_shown(easel: Easel) -> None:
    dark, darker = (35, 0, 0), (0, 12, 0)
    easel.draw(media.video(shade(30, darker, dark, darker), codec_options={"g": "5"}))
    assert alike(quarters(easel.large()), [dark] * 4, 12)


def test_a_title_on_black_is_a_picture(easel: Easel) -> None:
    title = plain(BLACK)
    title.paste((255, 255, 255), (10, 20, 30, 26))
    easel.draw(media.video([title] * 10 + shade(90, RED), codec_options={"g": "1000"}))
    assert alike(quarters(easel.large()), [BLACK] * 4)


def test_little_is_decoded(easel: Easel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a film that is black to its end, no more than is allowed in all."""
    monkeypatch.setattr(video, "DECODED_PIXELS", 64 * 48 * 30)
    seen = []
    image = video._image

    def watched(*args: Any, **options: Any) -> Image.Image:
        seen.append(1)
        return image(*args, **options)

    monkeypatch.setattr(video, "_image", watched)
    easel.draw(media.video(shade(300, BLACK), codec_options={"g": "30"}))
    # The picture itself is one more; a packet may give more than one frame.
    assert 20 <= len(seen) <= 40


# -- Which way up -------------------------------------------------------------------------------------------

ABOVE_LEFT, ABOVE_RIGHT, BELOW_LEFT, BELOW_RIGHT = FLAG


@pytest.mark.parametrize(
    ("turn", "wanted", "lying"),
    [
        ({"degrees": 0}, FLAG, False),
        # Counterclockwise; then mirrored.
        ({"degrees": 90}, [ABOVE_RIGHT, BELOW_RIGHT, ABOVE_LEFT, BELOW_LEFT], True),
        ({"degrees": 180}, [BELOW_RIGHT, BELOW_LEFT, ABOVE_RIGHT, ABOVE_LEFT], False),
        ({"degrees": -90}, [BELOW_LEFT, ABOVE_LEFT, BELOW_RIGHT, ABOVE_RIGHT], True),
        ({"degrees": 90, "hflip": True}, [BELOW_RIGHT, ABOVE_RIGHT, BELOW_LEFT, ABOVE_LEFT], True),
        ({"degrees": -90, "hflip": True}, [ABOVE_LEFT, BELOW_LEFT, ABOVE_RIGHT, BELOW_RIGHT], True),
        ({"degrees": 0, "hflip": True}, [ABOVE_RIGHT, ABOVE_LEFT, BELOW_RIGHT, BELOW_LEFT], False),
        ({"degrees": 0, "vflip": True}, [BELOW_LEFT, BELOW_RIGHT, ABOVE_LEFT, ABOVE_RIGHT], False),
    ],
    ids=str,
)
@pytest.mark.parametrize("kind", ["mp4", "mov", "matroska"])
def test_phones_are_held_in_every_way(
    easel: Easel, kind: str, turn: dict[str, Any], wanted: list[Any], lying: bool
) -> None:
    answer = easel.draw(media.video([flag()] * 10, kind=kind, turn=turn))
    size = (48, 64) if lying else (64, 48)
    assert (answer["metadata"]["width"], answer["metadata"]["height"]) == size
    assert easel.large().size == size
    assert alike(quarters(easel.large()), wanted, 90)


@pytest.mark.parametrize(
    ("ratio", "size"), [(Fraction(2), (128, 48)), (Fraction(1, 2), (32, 48)), (Fraction(1), (64, 48))]
)
def test_pixels_are_made_square(easel: Easel, ratio: Fraction, size: tuple[int, int]) -> None:
    answer = easel.draw(media.video([flag()] * 10, ratio=ratio))
    assert (answer["metadata"]["width"], answer["metadata"]["height"]) == size
    assert easel.large().size == size


def test_pixels_as_wide_as_a_street_are_a_mistake(easel: Easel) -> None:
    answer = easel.draw(media.video([flag()] * 10, ratio=Fraction(8)))
    assert (answer["metadata"]["width"], answer["metadata"]["height"]) == (64, 48)


def test_a_turned_film_of_flat_pixels(easel: Easel) -> None:
    answer = easel.draw(media.video([flag()] * 10, ratio=Fraction(2), turn={"degrees": 90}))
    assert (answer["metadata"]["width"], answer["metadata"]["height"]) == (48, 128)


@pytest.mark.parametrize("height", [576, 720])
def test_colours_without_a_name_are_those_of_the_size(easel: Easel, height: int) -> None:
    """Large films are BT.709, small ones BT.601."""
    standard = "ITU709" if height >= 720 else "ITU601"
    size = (height, height)
    source: Any = media.frame(plain(LIME, size))
    planes = source.reformat(format="yuv420p", dst_colorspace=standard)
    planes.colorspace = 2
    out = io.BytesIO()
    with av.open(out, "w", format="matroska") as film:
        stream: Any = film.add_stream("ffv1", rate=10)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        for number in range(3):
            planes.pts = number
            film.mux(stream.encode(planes))
        film.mux(stream.encode())
    easel.draw(out.getvalue())
    assert alike(quarters(easel.large()), [LIME] * 4, 8)


# -- Lengths that are not told ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["webm", "matroska"])
def test_a_recording_of_a_browser_says_nothing_of_its_length(easel: Easel, kind: str) -> None:
    content = media.video(
        shade(20, BLACK, RED), kind=kind, codec="libvpx", options={"live": "1"}, codec_options={"g": "5"}
    )
    with av.open(io.BytesIO(content), "r") as film:
        assert film.duration is None
    answer = easel.draw(content)
    assert answer["metadata"]["duration"] == pytest.approx(4, abs=0.11)
    assert alike(quarters(easel.large()), [RED] * 4)


def test_a_fragmented_film_is_drawn(easel: Easel) -> None:
    content = media.video(
        shade(20, BLACK, RED),
        options={"movflags": "frag_keyframe+empty_moov+default_base_moof"},
        codec_options={"g": "5"},
    )
    answer = easel.draw(content)
    assert answer["metadata"]["duration"] == pytest.approx(4, abs=0.11)
    assert alike(quarters(easel.large()), [RED] * 4)


# -- What is no film ----------------------------------------------------------------------------------------


def test_a_film_without_pictures_is_a_sound(easel: Easel) -> None:
    answer = easel.draw(media.audio(lambda _: 0.5, 1, kind="mp4", codec="aac"))
    assert answer["pictures"] == {}
    assert answer["metadata"]["audio_codec"] == "aac"
    assert len(answer["metadata"]["peaks"]) == 128


def test_a_song_with_a_cover_is_a_sound(easel: Easel) -> None:
    cover = media.saved(flag(100, 100), "JPEG", quality=95)
    answer = easel.draw(media.audio(lambda _: 0.5, 1, kind="mp3", codec="libmp3lame", cover=cover))
    assert answer["metadata"]["audio_codec"] == "mp3"
    assert alike(quarters(easel.large()), FLAG)


@pytest.mark.parametrize("kind", ["mp4", "webm", "avi", "mpegts"])
@pytest.mark.parametrize("part", [0.02, 0.3, 0.9])
def test_what_is_cut_off_is_no_fault(easel: Easel, kind: str, part: float) -> None:
    codec = "libvpx" if kind == "webm" else "mpeg4"
    content = media.video([flag()] * 50, kind=kind, codec=codec)
    answer = easel.draw(content[: int(len(content) * part)])
    assert answer.get("unavailable") or answer["pictures"]
    assert "metadata" in answer


@pytest.mark.parametrize(
    "content",
    [b"", b"no film", media.box(b"ftyp", b"isom\0\0\0\0isom"), b"\x1a\x45\xdf\xa3" + bytes(100), b"RIFF" * 9],
    ids=range(5),
)
def test_what_cannot_be_opened_is_no_fault(easel: Easel, content: bytes) -> None:
    answer = easel.draw(content)
    assert answer["unavailable"]
    assert answer["metadata"] == {}


def test_noise_in_a_film_is_no_fault(easel: Easel) -> None:
    content = bytearray(media.video([flag()] * 50, kind="matroska", codec="mpeg4"))
    for at in range(1000, len(content), 37):
        content[at] ^= 0x55
    answer = easel.draw(bytes(content))
    assert answer.get("unavailable") or answer["pictures"]


@pytest.mark.parametrize(("limit", "over"), [(64 * 48 - 1, True), (64 * 48, False)])
def test_the_limit_of_pixels_is_exact(easel: Easel, limit: int, over: bool) -> None:
    answer = easel.draw(media.video([flag()] * 10), max_pixels=limit)
    assert answer.get("unavailable") == ("over_budget" if over else None)
    # What is known of it without decoding is there in either case.
    assert (answer["metadata"]["width"], answer["metadata"]["height"]) == (64, 48)


@pytest.mark.parametrize(("limit", "width"), [(64 * 48 - 1, 0), (64 * 48, 64)])
def test_opening_decodes_nothing_too_large(tmp_path: Path, limit: int, width: int) -> None:
    """Of some codecs only a frame says how its pixels are stored: one is decoded, and that fails."""
    path = tmp_path / "film"
    path.write_bytes(media.video([flag()] * 3, kind="avi", codec="mjpeg", pixels="yuvj420p"))
    with container.opened(path, limit) as film:
        assert film.streams.video[0].width == width


def test_a_frame_larger_than_the_file_says_is_not_decoded(easel: Easel) -> None:
    content = media.video([flag(640, 480)] * 10, kind="webm", codec="libvpx")
    # Width and height, in the description of the track.
    size = b"\xb0\x82\x02\x80\xba\x82\x01\xe0"
    assert size in content
    answer = easel.draw(content.replace(size, b"\xb0\x82\x00\x40\xba\x82\x00\x30"), max_pixels=10_000)
    assert answer.get("pictures") is None


@pytest.mark.parametrize("kind", ["avi", "matroska"])
def test_what_is_said_may_be_in_any_encoding(easel: Easel, kind: str) -> None:
    content = media.video([flag()] * 10, kind=kind, codec="mpeg4", tags={"title": "Ada Lovelace"})
    assert b"Ada Lovelace" in content
    assert easel.draw(content.replace(b"Ada Lovelace", b"\xff\xfe\xe4\xf6 Lovelace"))["pictures"]


# -- Nothing but the file itself ----------------------------------------------------------------------------


@pytest.fixture
def visits() -> Any:
    """A server, and the paths that it was asked for."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(404)

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield asked, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def playlists(address: str, path: Path) -> dict[str, str]:
    return {
        "hls": f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{address}\n#EXT-X-ENDLIST\n",
        "hls of a file": f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nfile://{path}\n#EXT-X-ENDLIST\n",
        "concat": f"ffconcat version 1.0\nfile '{path}'\n",
        "dash": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" profiles='
        '"urn:mpeg:dash:profile:isoff-main:2011" mediaPresentationDuration="PT9S"><Period><AdaptationSet '
        f'mimeType="video/mp4"><Representation id="1" bandwidth="1"><BaseURL>{address}/x.mp4</BaseURL>'
        "</Representation></AdaptationSet></Period></MPD>",
        "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 9 RTP/AVP 96\n"
        "a=rtpmap:96 H264/90000\n",
        "subtitle": f"1\n00:00:00,000 --> 00:00:09,000\n{path}\n",
        "svg": f'<svg xmlns="http://www.w3.org/2000/svg"><image href="{address}"/></svg>',
    }


@pytest.mark.parametrize("name", playlists("", Path()))
def test_a_list_of_other_files_reads_none(easel: Easel, tmp_path: Path, visits: Any, name: str) -> None:
    asked, address = visits
    other = tmp_path / "other.mp4"
    other.write_bytes(media.video([flag()] * 10))
    easel.source = tmp_path / "film.mp4"
    answer = easel.draw(playlists(address, other)[name].encode())
    assert answer["unavailable"]
    assert answer["metadata"] == {}
    assert asked == []


@pytest.mark.parametrize("name", ["hls", "hls of a file"])
def test_even_if_lists_were_allowed_nothing_else_would_be_opened(
    easel: Easel, tmp_path: Path, visits: Any, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(container, "FORMATS", (*container.FORMATS, "hls"))
    asked, address = visits
    # By which a playlist is known.
    easel.source = tmp_path / "film.m3u8"
    other = tmp_path / "other.ts"
    other.write_bytes(media.video([flag()] * 10, kind="mpegts"))
    answer = easel.draw(playlists(address + "/x.ts", other)[name].encode())
    assert answer["unavailable"]
    assert asked == []


def test_a_film_whose_data_is_in_another_file_reads_none(easel: Easel, tmp_path: Path) -> None:
    content = media.video([flag()] * 10, kind="mov")
    other = tmp_path / "other.mov"
    other.write_bytes(content)
    elsewhere = content.replace(b"\0\0\0\x0curl \0\0\0\x01", b"\0\0\0\x0curl \0\0\0\0")
    elsewhere = elsewhere.replace(b"\0\0\0\x0calis\0\0\0\x01", b"\0\0\0\x0calis\0\0\0\0")
    assert elsewhere != content
    answer = easel.draw(elsewhere)
    assert answer.get("unavailable") or answer["pictures"]

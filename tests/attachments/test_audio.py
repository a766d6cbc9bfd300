"""Sounds, heard from real ones: how long, how loud, and the cover."""

import io
from pathlib import Path
from typing import Any

import av
import pytest

from tasks.attachments.drawing import audio
from tests.attachments import media
from tests.attachments.easel import Easel
from tests.attachments.media import FLAG, alike, flag, quarters


@pytest.fixture
def easel(tmp_path: Path) -> Easel:
    return Easel(tmp_path, audio.draw)


def half(at: float) -> float:
    """Return silence for a second, and then half of what is possible."""
    return 0.5 if at >= 1 else 0


KINDS = [
    ("wav", "pcm_s16le", "pcm_s16le", 48000),
    ("wav", "pcm_f32le", "pcm_f32le", 48000),
    ("wav", "pcm_u8", "pcm_u8", 8000),
    ("aiff", "pcm_s16be", "pcm_s16be", 44100),
    ("flac", "flac", "flac", 44100),
    ("mp3", "libmp3lame", "mp3", 44100),
    ("adts", "aac", "aac", 44100),
    ("mp4", "aac", "aac", 44100),
    ("mp4", "alac", "alac", 44100),
    ("ogg", "libopus", "opus", 48000),
    ("ogg", "flac", "flac", 44100),
    ("webm", "libopus", "opus", 48000),
    ("amr", "libopencore_amrnb", "amr_nb", 8000),
    ("3gp", "libopencore_amrnb", "amr_nb", 8000),
    ("ac3", "ac3", "ac3", 48000),
    ("caf", "pcm_s16le", "pcm_s16le", 48000),
]


@pytest.mark.parametrize(("kind", "codec", "name", "rate"), KINDS, ids=lambda value: str(value)[:9])
def test_every_kind_is_heard(easel: Easel, kind: str, codec: str, name: str, rate: int) -> None:
    answer = easel.draw(media.audio(half, 2, kind=kind, codec=codec, rate=rate))
    assert answer["pictures"] == {}
    metadata = answer["metadata"]
    assert metadata.keys() == {"duration", "sample_rate", "channels", "audio_codec", "peaks"}
    assert metadata["duration"] == pytest.approx(2, abs=0.1)
    assert (metadata["sample_rate"], metadata["channels"], metadata["audio_codec"]) == (rate, 1, name)
    peaks = metadata["peaks"]
    assert len(peaks) == 128
    assert all(isinstance(peak, int) and 0 <= peak <= 255 for peak in peaks)
    # What is at the change the codecs smear.
    assert max(peaks[:55]) <= 10
    assert all(peak == pytest.approx(128, abs=35) for peak in peaks[72:122])


def test_peaks_are_where_they_belong(easel: Easel) -> None:
    """Of 2.56 s each slice has 20 ms; one of them is loud."""
    peaks = easel.draw(media.audio(lambda at: 1.0 if 1.0 <= at < 1.02 else 0, 2.56))["metadata"]["peaks"]
    assert [index for index, peak in enumerate(peaks) if peak] == [50]
    assert peaks[50] == 255


@pytest.mark.parametrize(("level", "peak"), [(1.0, 255), (0.5, 128), (0.1, 26), (0.0, 0)])
def test_peaks_are_of_full_scale(easel: Easel, level: float, peak: int) -> None:
    peaks = easel.draw(media.audio(lambda _: level, 2.56))["metadata"]["peaks"]
    assert {abs(found - peak) <= 1 for found in peaks} == {True}


@pytest.mark.parametrize("seconds", [0.003, 0.02, 0.128])
def test_a_click_has_a_waveform(easel: Easel, seconds: float) -> None:
    metadata = easel.draw(media.audio(lambda _: 1.0, seconds))["metadata"]
    assert metadata["duration"] == pytest.approx(seconds, abs=0.001)
    assert max(metadata["peaks"]) > 200
    assert len(metadata["peaks"]) == 128


@pytest.mark.parametrize(
    ("kind", "codec"), [("wav", "pcm_s16le"), ("mp3", "libmp3lame"), ("ogg", "libopus"), ("mp4", "aac")]
)
def test_of_a_long_sound_a_part_is_heard_of_each_slice(
    easel: Easel, kind: str, codec: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded = []
    mixed = audio._Mixer.mixed

    def watched(mixer: Any, frame: Any) -> Any:
        decoded.append(frame.samples / frame.sample_rate)
        return mixed(mixer, frame)

    monkeypatch.setattr(audio._Mixer, "mixed", watched)
    content = media.audio(lambda at: 0.5 if at >= 32 else 0, 64, kind=kind, codec=codec)
    monkeypatch.setattr(audio, "DECODED_SECONDS", 12.8)
    peaks = easel.draw(content)["metadata"]["peaks"]
    # A packet is heard whole.
    assert 12 < sum(decoded) < 24
    assert max(peaks[:62]) <= 10
    assert all(peak == pytest.approx(128, abs=40) for peak in peaks[66:126])


def test_a_recording_of_a_browser_says_nothing_of_its_length(easel: Easel) -> None:
    content = media.audio(half, 2, kind="webm", codec="libopus", options={"live": "1"})
    with av.open(io.BytesIO(content), "r") as sound:
        assert sound.duration is None
    metadata = easel.draw(content)["metadata"]
    assert metadata["duration"] == pytest.approx(2, abs=0.05)
    assert max(metadata["peaks"][:55]) <= 10
    assert min(metadata["peaks"][72:122]) > 90


@pytest.mark.parametrize("kind", ["mp3", "mp4", "flac"])
@pytest.mark.parametrize("form", ["JPEG", "PNG"])
def test_a_cover_is_drawn(easel: Easel, kind: str, form: str) -> None:
    codec = {"mp3": "libmp3lame", "mp4": "aac", "flac": "flac"}[kind]
    answer = easel.draw(media.audio(half, 2, kind=kind, codec=codec, cover=media.saved(flag(500, 400), form)))
    assert easel.large().size == (500, 400)
    assert alike(quarters(easel.large()), FLAG)
    assert answer["pictures"]["small"]["width"] == 320
    assert answer["metadata"]["thumbhash"]
    assert len(answer["metadata"]["peaks"]) == 128


@pytest.mark.parametrize(("limit", "drawn"), [(500 * 400 - 1, False), (500 * 400, True)])
def test_a_cover_that_is_too_large_is_left_out(easel: Easel, limit: int, drawn: bool) -> None:
    cover = media.saved(flag(500, 400), "JPEG")
    answer = easel.draw(media.audio(half, 1, kind="mp3", codec="libmp3lame", cover=cover), max_pixels=limit)
    assert bool(answer["pictures"]) is drawn
    assert len(answer["metadata"]["peaks"]) == 128


def test_a_broken_cover_is_left_out(easel: Easel) -> None:
    cover = media.saved(flag(500, 400), "JPEG")
    content = media.audio(half, 1, kind="mp3", codec="libmp3lame", cover=cover)
    at = content.index(cover)
    answer = easel.draw(content[: at + 30] + bytes(len(cover) - 30) + content[at + len(cover) :])
    assert answer["pictures"] == {}
    assert len(answer["metadata"]["peaks"]) == 128


def test_the_sound_of_a_film_is_heard(easel: Easel) -> None:
    answer = easel.draw(media.video([flag()] * 10, sound="aac"))
    assert answer["pictures"] == {}
    assert answer["metadata"]["audio_codec"] == "aac"


def test_a_silent_film_has_no_sound(easel: Easel) -> None:
    assert easel.draw(media.video([flag()] * 10)) == {
        "unavailable": "unsupported",
        "detail": "no sound that can be decoded",
        "metadata": {},
    }


def test_what_others_said_of_it_is_not_told(easel: Easel) -> None:
    answer = easel.draw(
        media.audio(half, 1, kind="mp3", codec="libmp3lame", tags={"title": "Ada", "artist": "Ada"})
    )
    assert "Ada" not in str(answer)


@pytest.mark.parametrize("part", [0.01, 0.5, 0.9])
@pytest.mark.parametrize(
    ("kind", "codec"), [("mp3", "libmp3lame"), ("ogg", "libopus"), ("mp4", "aac"), ("wav", "pcm_s16le")]
)
def test_what_is_cut_off_is_no_fault(easel: Easel, kind: str, codec: str, part: float) -> None:
    content = media.audio(half, 2, kind=kind, codec=codec)
    answer = easel.draw(content[: int(len(content) * part)])
    assert answer.get("unavailable") or len(answer["metadata"]["peaks"]) == 128


@pytest.mark.parametrize("content", [b"", b"no sound", b"ID3\x04\0\0\0\0\0\0", b"OggS" + bytes(50)])
def test_what_cannot_be_opened_is_no_fault(easel: Easel, content: bytes) -> None:
    answer = easel.draw(content)
    assert answer["unavailable"]
    assert answer["metadata"] == {}


def test_noise_in_a_sound_is_no_fault(easel: Easel) -> None:
    content = bytearray(media.audio(half, 2, kind="mp3", codec="libmp3lame"))
    for at in range(2000, len(content), 37):
        content[at] ^= 0x55
    answer = easel.draw(bytes(content))
    assert answer.get("unavailable") or len(answer["metadata"]["peaks"]) == 128

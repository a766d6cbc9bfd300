"""Drawing as the pipeline asks for it: what comes back is checked, and what comes to no end is a failure."""

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from stack.demo.samples import animation, drawing
from tasks.attachments import draw
from tasks.attachments.draw import Drawing, DrawingFailedError
from tasks.attachments.objects import PICTURE_NAMES
from tests.attachments.picturing import draw_bytes, saved, settings
from workers import sandbox


def webp(path: Path, width: int = 30, height: int = 20) -> dict[str, Any]:
    """Write a picture and return how the sandbox describes it."""
    Image.new("RGB", (width, height)).save(path, "WEBP")
    return {"file": path.name, "width": width, "height": height, "bytes": path.stat().st_size}


@pytest.fixture
def answered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Have the sandbox answer what is given, and return what `draw` makes of it."""
    folder = tmp_path / "out"
    folder.mkdir()
    good = {name: webp(folder / f"{name}.webp") for name in PICTURE_NAMES}

    def run(change: dict[str, Any], kind: str = "picture") -> Drawing:
        answer = {"pictures": good, "metadata": {"width": 3, "height": 2}} | change
        answer = {name: value for name, value in answer.items() if value is not None}
        monkeypatch.setattr(sandbox, "run", lambda *arguments, **limits: answer)
        return draw.draw(tmp_path / "source", folder, settings(), kind)

    return run


# -- What comes back ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", draw.KINDS)
def test_every_kind_is_drawn_by_work_that_the_sandbox_knows(kind: str) -> None:
    assert draw.KINDS[kind].work in sandbox.WORKS
    options = draw.KINDS[kind].options(settings(draw_decoded_bytes=308))
    assert options.get("decoded_bytes", 308) == 308
    assert options.get("max_pixels", 77) == 77


def test_a_good_answer_is_believed(answered: Any, tmp_path: Path) -> None:
    found = answered({"metadata": {"width": 3, "peaks": [1, 2.5], "color": "#aabbcc", "has_audio": True}})
    assert found.pictures == {name: tmp_path / "out" / f"{name}.webp" for name in ("small", "large")}
    assert found.metadata.pop("small")["bytes"] == found.pictures["small"].stat().st_size
    assert found.metadata.pop("large")["height"] == 20
    assert found.metadata == {"width": 3, "peaks": [1, 2.5], "color": "#aabbcc", "has_audio": True}
    assert found.reason is None


@pytest.mark.parametrize("kind", draw.KINDS)
def test_what_cannot_be_drawn_says_why(answered: Any, kind: str) -> None:
    answer = {"pictures": None, "unavailable": "encrypted", "detail": "a\0b", "metadata": {"pages": 3}}
    found = answered(answer, kind)
    assert found == Drawing({}, {"pages": 3}, "encrypted", "ab")
    removed = {"small": None, "large": None}
    why = {"preview_reason": "encrypted", "preview_detail": "ab"}
    assert found.row_metadata() == removed | why | {"pages": 3}


def test_a_song_without_a_cover_lacks_nothing(answered: Any) -> None:
    assert answered({"pictures": {}, "metadata": {"duration": 1.5}}, "audio") == Drawing(
        {}, {"duration": 1.5}
    )


@pytest.mark.parametrize(
    "change",
    [
        {"pictures": None},
        {"pictures": []},
        {"pictures": {}},
        {"metadata": None},
        {"metadata": [1]},
        {"metadata": {"a": {"b": "c"}}},
        {"metadata": {"a": float("nan")}},
        {"metadata": {"a": float("inf")}},
        {"metadata": {"a": 2**63}},
        {"metadata": {"a": [0] * 257}},
        {"metadata": {str(number): 0 for number in range(257)}},
        {"metadata": {"a": [[1]]}},
        {"unavailable": "Drop table", "detail": "x"},
        {"unavailable": 1, "detail": "x"},
        {"unavailable": "undecodable"},
        {"unavailable": "undecodable", "detail": ["x"]},
    ],
    ids=str,
)
def test_an_answer_that_makes_no_sense_is_a_failure(answered: Any, change: dict[str, Any]) -> None:
    with pytest.raises(DrawingFailedError):
        answered(change)


@pytest.mark.parametrize(
    "change",
    [
        {"file": "large.webp"},
        {"file": "../source"},
        {"file": None},
        {"width": 0},
        {"width": True},
        {"height": 2**31},
        {"height": "2"},
        {"bytes": 1},
    ],
    ids=str,
)
def test_a_picture_that_is_not_as_described_is_a_failure(
    answered: Any, change: dict[str, Any], tmp_path: Path
) -> None:
    described = {name: webp(tmp_path / "out" / f"{name}.webp") for name in PICTURE_NAMES}
    assert answered({"pictures": described}).pictures
    with pytest.raises(DrawingFailedError):
        answered({"pictures": described | {"small": described["small"] | change}})


def test_a_picture_that_is_a_link_or_no_picture_or_missing_is_a_failure(
    answered: Any, tmp_path: Path
) -> None:
    small, secret = tmp_path / "out" / "small.webp", tmp_path / "secret"
    described = webp(small)
    pictures = {"small": described, "large": webp(tmp_path / "out" / "large.webp")}
    small.rename(secret)
    small.symlink_to(secret)
    with pytest.raises(DrawingFailedError, match="no file"):
        answered({"pictures": pictures})
    small.unlink()
    with pytest.raises(DrawingFailedError):
        answered({"pictures": pictures})
    small.write_bytes(bytes(described["bytes"]))
    with pytest.raises(DrawingFailedError, match="as described"):
        answered({"pictures": pictures})


def test_texts_are_cut_and_can_be_stored(answered: Any) -> None:
    metadata = answered({"metadata": {"a": "x" * 501, "b": "\0\ud800y", "c": ["z" * 600]}}).metadata
    assert (metadata["a"], metadata["b"], metadata["c"]) == ("x" * 500, "?y", ["z" * 500])


# -- Processes that come to an end --------------------------------------------------------------------------


def test_drawing_that_takes_too_long_is_a_failure(tmp_path: Path) -> None:
    with pytest.raises(DrawingFailedError, match=r"sandbox_timed_out: took longer than 0\.02 s"):
        draw_bytes(tmp_path, animation(), draw_timeout_seconds=0.02)


def test_drawing_that_takes_too_much_memory_is_a_failure(tmp_path: Path) -> None:
    content = saved(Image.new("RGB", (7000, 7000)), "PNG")
    with pytest.raises(DrawingFailedError, match="sandbox_out_of_memory"):
        draw_bytes(tmp_path, content, draw_memory_bytes=200 * 2**20)


def test_after_a_failure_the_next_file_is_drawn(tmp_path: Path) -> None:
    with pytest.raises(DrawingFailedError):
        draw_bytes(tmp_path, animation(), draw_timeout_seconds=0.02)
    assert draw_bytes(tmp_path, drawing("PNG")).reason is None


def test_pictures_of_an_undecodable_file_are_not_left(tmp_path: Path) -> None:
    assert draw_bytes(tmp_path, b"nonsense").reason == "undecodable"
    assert not list((tmp_path / "out").iterdir())

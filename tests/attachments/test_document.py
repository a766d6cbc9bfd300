"""Documents, drawn from real ones: what is shown, how large, and what is not run."""

from pathlib import Path
from typing import Any

import pypdfium2  # type: ignore[import-untyped]
import pytest
from PIL import Image

from tasks.attachments.drawing import document
from tests.attachments.easel import Easel
from tests.attachments.media import FLAG, alike, flag, painted, pdf, quarters, saved

WHITE = (255, 255, 255)


@pytest.fixture
def easel(tmp_path: Path) -> Easel:
    return Easel(tmp_path, document.draw)


def page(width: float, height: float, more: str = "") -> str:
    return f"/MediaBox [0 0 {width} {height}] {more}"


def test_the_first_page_is_drawn(easel: Easel) -> None:
    pages = [flag(300, 400), Image.new("RGB", (300, 400)), Image.new("RGB", (300, 400))]
    answer = easel.draw(saved(pages[0], "PDF", save_all=True, append_images=pages[1:], resolution=72))
    assert answer["pictures"].keys() == {"small", "large"}
    assert {name: answer["metadata"][name] for name in ("pages", "width", "height")} == {
        "pages": 3,
        "width": 300,
        "height": 400,
    }
    assert answer["metadata"].keys() == {"pages", "width", "height", "color", "thumbhash"}
    assert easel.large().size == (960, 1280)
    assert alike(quarters(easel.large()), FLAG)


@pytest.mark.parametrize(
    ("size", "drawn"),
    [
        ((595, 842), (905, 1280)),
        ((842, 595), (1280, 905)),
        ((14400, 14400), (1280, 1280)),
        # 1280 / 294 * 294 is a little more than 1280.
        ((294, 147), (1280, 640)),
        ((3, 14400), (1, 1280)),
    ],
)
def test_every_page_is_drawn_at_the_same_size(
    easel: Easel, size: tuple[int, int], drawn: tuple[int, int]
) -> None:
    """However large it is: the bitmap never is larger, and none is one pixel too large and then blurred."""
    answer = easel.draw(pdf(page(*size), contents=painted(*size)))
    assert easel.large().size == drawn
    assert (answer["metadata"]["width"], answer["metadata"]["height"]) == size


def test_a_huge_page_is_never_a_huge_bitmap(easel: Easel, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    render = pypdfium2.PdfPage.render

    def watched(*args: Any, **options: Any) -> Any:
        bitmap = render(*args, **options)
        made.append((bitmap.width, bitmap.height))
        return bitmap

    monkeypatch.setattr(pypdfium2.PdfPage, "render", watched)
    easel.draw(pdf(page(14400, 14400)))
    easel.draw(pdf(page(294, 147)))
    easel.draw(pdf(page(100, 100)), max_pixels=10_000)
    assert made == [(1280, 1280), (1280, 640), (100, 100)]


def test_it_is_turned_as_a_reader_turns_it(easel: Easel) -> None:
    answer = easel.draw(pdf(page(300, 200, "/Rotate 90"), contents=painted(300, 200)))
    assert (answer["metadata"]["width"], answer["metadata"]["height"]) == (200, 300)
    above_left, above_right, below_left, below_right = FLAG
    # Clockwise.
    assert alike(quarters(easel.large()), [below_left, above_left, below_right, above_right])


def test_it_is_cropped_as_a_reader_crops_it(easel: Easel) -> None:
    # The quarter above right.
    answer = easel.draw(pdf(page(300, 200, "/CropBox [150 100 300 200]"), contents=painted(300, 200)))
    assert (answer["metadata"]["width"], answer["metadata"]["height"]) == (150, 100)
    assert alike(quarters(easel.large()), [FLAG[1]] * 4)


def test_nothing_is_white(easel: Easel) -> None:
    easel.draw(pdf(page(300, 200)))
    assert easel.large().mode == "RGB"
    assert alike(quarters(easel.large()), [WHITE] * 4, 3)


def test_what_was_filled_into_a_form_is_shown(easel: Easel) -> None:
    field = (
        "<< /Type /Annot /Subtype /Widget /FT /Tx /T (name) /Rect [0 0 300 200] /F 4 /AP << /N 101 0 R >> >>"
    )
    looks = painted(300, 200)
    appearance = (
        f"<< /Type /XObject /Subtype /Form /BBox [0 0 300 200] /Length {len(looks)} >>\n"
        f"stream\n{looks}\nendstream"
    )
    easel.draw(
        pdf(
            page(300, 200, "/Annots [100 0 R]"),
            catalog="/AcroForm << /Fields [100 0 R] >>",
            objects={100: field, 101: appearance},
        )
    )
    assert alike(quarters(easel.large()), FLAG)


def test_notes_are_shown(easel: Easel) -> None:
    note = "<< /Type /Annot /Subtype /Square /Rect [0 0 300 200] /IC [1 0 0] /F 4 /AP << /N 101 0 R >> >>"
    looks = painted(300, 200)
    appearance = (
        f"<< /Type /XObject /Subtype /Form /BBox [0 0 300 200] /Length {len(looks)} >>\n"
        f"stream\n{looks}\nendstream"
    )
    easel.draw(pdf(page(300, 200, "/Annots [100 0 R]"), objects={100: note, 101: appearance}))
    assert alike(quarters(easel.large()), FLAG)


def test_the_library_cannot_run_programs_in_documents() -> None:
    assert not {"V8", "XFA"} & set(pypdfium2.PDFIUM_INFO.flags)


def test_what_its_author_says_is_not_told(easel: Easel) -> None:
    answer = easel.draw(
        pdf(page(300, 200), trailer="/Info 100 0 R", objects={100: "<< /Title (Ada) /Author (Ada) >>"})
    )
    assert "Ada" not in str(answer)


def test_an_encrypted_document_has_no_preview(easel: Easel) -> None:
    key = "<" + "00" * 32 + ">"
    answer = easel.draw(
        pdf(
            page(300, 200),
            trailer=f"/ID [{key} {key}] /Encrypt << /Filter /Standard /V 1 /R 2 /P -4 /O {key} /U {key} >>",
        )
    )
    assert (answer["unavailable"], answer["metadata"]) == ("encrypted", {})


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no document",
        b"%PDF-1.7\n",
        pdf(),
        pdf(page(300, 200))[:100],
        pdf(page(0, 0))[:-200],
        pdf(page(300, 200)).replace(b"/Type /Page /Parent", b"/Type /Pige /Porent"),
    ],
    ids=range(7),
)
def test_a_broken_document_is_no_fault(easel: Easel, content: bytes) -> None:
    answer = easel.draw(content)
    assert answer.get("unavailable") or answer["pictures"]

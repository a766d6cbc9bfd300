"""With which headers strangers' files are served: nothing runs, nothing lies about its name."""

import re
import unicodedata
from email.message import Message
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.storage.serving import headers, safe_name

SHOWN = (
    "image/jpeg",
    "image/png",
    "image/gif",
    "image/webp",
    "image/avif",
    "image/heic",
    "image/bmp",
    "image/tiff",
    "audio/mpeg",
    "video/mp4",
    "video/x-matroska",
)
ACTIVE = (
    "text/html",
    "TEXT/HTML",
    "application/xhtml+xml",
    "image/svg+xml",
    "text/xml",
    "application/xml",
    "application/rss+xml",
    "text/javascript",
    "application/javascript",
    "text/css",
    "application/pdf",
    "application/x-shockwave-flash",
    "application/wasm",
    "message/rfc822",
    "multipart/related",
    "audio/x+xml",
    "Video/X+XML",
    "image/unheard-of",
    "nonsense",
    "",
    "image/png, text/html",
    "image/png\r\nX-Evil: 1",
    "text/plain/html",
    "*/*",
)


@pytest.mark.parametrize("media_type", SHOWN)
def test_pictures_sound_and_films_are_shown(media_type: str) -> None:
    assert headers(media_type, "") == (media_type, "inline")
    assert headers(f" {media_type.upper()} ; charset=utf-7", "") == (media_type, "inline")


@pytest.mark.parametrize("media_type", ACTIVE)
def test_what_could_run_is_saved_as_mere_bytes(media_type: str) -> None:
    assert headers(media_type, "") == ("application/octet-stream", "attachment")


@pytest.mark.parametrize(
    "media_type",
    [
        "application/zip",
        "application/msword",
        "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
        "application/vnd.oasis.opendocument.text",
        "text/csv",
    ],
)
def test_what_is_harmless_is_saved_as_what_it_is(media_type: str) -> None:
    assert headers(media_type, "") == (media_type, "attachment")


@pytest.mark.parametrize(
    ("media_type", "expected"),
    [
        ("text/plain", "text/plain"),
        ("text/plain; charset=UTF-8", "text/plain; charset=utf-8"),
        ('text/plain;charset="iso-8859-1"', "text/plain; charset=iso-8859-1"),
        ("text/plain; charset=utf-8; x=y", "text/plain"),
        ("text/plain; charset=a\r\nX-Evil: 1", "text/plain"),
    ],
)
def test_a_text_keeps_its_charset_and_nothing_else(media_type: str, expected: str) -> None:
    assert headers(media_type, "") == (expected, "inline")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("photo.jpg", "photo.jpg"),
        ("Übersicht März.pdf", "Übersicht März.pdf"),
        ("日本.png", "日本.png"),
        ("../../etc/passwd", "passwd"),
        ("C:\\Users\\a\\b.txt", "b.txt"),
        ("a\r\nSet-Cookie: x=1.txt", "aSet-Cookie_ x=1.txt"),
        ("a\0b.txt", "ab.txt"),
        ('a"b;c.txt', "a_b;c.txt"),
        # Shown as "photoexe.jpg".
        ("photo\u202egpj.exe", "photogpj.exe"),
        ("a\u2066\u2069\u200e\u200f\u061cb\ufeff.txt", "ab.txt"),
        ("..", ""),
        (".htaccess", "htaccess"),
        ("page.html. . ", "page.html"),
        ("a\u2028b\u00a0\u3000c.txt", "a b c.txt"),
        ("", ""),
        ("/", ""),
        ("x" * 300 + ".jpeg", "x" * 115 + ".jpeg"),
        ("x" * 300, "x" * 120),
        ("x." + "y" * 300, "x." + "y" * 118),
        ("e\u0301.txt", "é.txt"),
    ],
)
def test_a_name_is_made_safe(name: str, expected: str) -> None:
    assert safe_name(name) == expected


def test_a_name_is_said_twice() -> None:
    assert headers("image/png", 'ä %"20.png')[1] == (
        "inline; filename=\"_ __20.png\"; filename*=UTF-8''%C3%A4%20%25_20.png"
    )


@given(st.text(max_size=400), st.text(max_size=60))
def test_whatever_the_name_the_header_is_one_and_means_the_name(name: str, media_type: str) -> None:
    content_type, disposition = headers(media_type, name)
    for value in (content_type, disposition):
        assert re.fullmatch(r"[ -~]+", value)
    assert len(disposition) < 2000
    message = Message()
    message["Content-Disposition"] = disposition
    message["Content-Type"] = content_type
    assert message.get_content_disposition() in {"inline", "attachment"}
    extended = re.search(r"filename\*=UTF-8''(.*)", disposition)
    served_name = unquote(extended[1]) if extended else ""
    assert served_name == safe_name(name) == safe_name(served_name)
    assert not {"/", "\\", '"'} & set(served_name)
    assert all(unicodedata.category(c)[0] != "C" for c in served_name)
    assert len(served_name) <= 120

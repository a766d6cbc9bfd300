"""Documents that are encrypted and open without a question: judged, and scanned, by what is in them."""

import bz2
import gzip
import io
import lzma
import struct
import zlib
from collections.abc import Callable
from functools import partial
from hashlib import sha256
from pathlib import Path

import msoffcrypto.format.ooxml
import pyarrow
import pyppmd
import pytest

from tasks.attachments import verdicts
from tasks.attachments.content import lzw, opened, packed, pdf, ppmd, seven
from tasks.attachments.content.source import Source
from tasks.attachments.scan import Verdict
from tests.attachments import hostile
from tests.attachments.carriers import letter, locked_pdf, tar, zipped
from tests.attachments.context import AppContext
from tests.attachments.locked import locked
from tests.attachments.looking import look, traits
from tests.attachments.lzw import compressed
from tests.attachments.seven_zip import seven_zip
from tests.platform import Platform
from workers.db import transaction
from workers.known_bad import encrypted_zip
from workers.scanner import Answer, Scanner


@pytest.fixture
def openchat_context(platform: Platform) -> AppContext:
    return AppContext(platform, "openchat")


def anonymous_pdf(password: bytes = b"") -> bytes:
    """Return an encrypted PDF without an identity; its key is made as if that were empty."""
    return locked_pdf(password, identity=b"").replace(b"/ID [<> <>]", b"")


def test_a_workbook_with_excels_password_is_what_is_in_it() -> None:
    inside = look(letter())
    found = look(locked(letter()))
    assert found.media_type == inside.media_type
    assert [trait.name for trait in found.traits] == ["known_password"]


def test_a_password_of_the_users_own_locks() -> None:
    assert set(traits(locked(letter(), "secret"))) == {"encrypted_document"}


@pytest.mark.parametrize(
    ("content", "trait"),
    [
        (hostile.macro_letter(), "macros"),
        (hostile.macro_sheet(), "macros"),
        (hostile.template_letter(), "external_template"),
    ],
)
def test_what_is_in_it_is_judged(content: bytes, trait: str) -> None:
    assert set(traits(locked(content))) == {"known_password", trait}


def test_a_password_that_takes_long_to_try_is_not_tried() -> None:
    content = locked(letter())
    assert b'spinCount="100000"' in content
    assert set(traits(content.replace(b'spinCount="100000"', b'spinCount="999999"'))) == {
        "encrypted_document"
    }
    slow: list[object] = []
    many = content.replace(b'spinCount="100000"', b'spinCount="9999999"')
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(msoffcrypto.format.ooxml.OOXMLFile, "load_key", lambda *a, **k: slow.append(a))
        traits(many)
    assert not slow


def test_a_broken_one_stays_locked(tmp_path: Path) -> None:
    content = locked(letter())
    for length in (600, len(content) // 2, len(content) - 600):
        with Source(io.BytesIO(content[:length])) as source:
            assert opened.workbook(source, tmp_path) is None
    assert list(tmp_path.iterdir()) == []


def test_a_pdf_without_an_identity_is_opened() -> None:
    assert traits(anonymous_pdf()) == {"known_password": "its open copy is application/pdf"}
    assert set(traits(anonymous_pdf(b"secret"))) == {"encrypted_document"}
    with Source(io.BytesIO(locked_pdf())) as source:
        assert pdf.without_encryption(source) is None


@pytest.mark.parametrize(
    ("content", "name", "media_type"),
    [(locked(letter()), "protected.docx", ""), (anonymous_pdf(), "a.pdf", "application/pdf")],
    ids=["workbook", "PDF"],
)
def test_it_is_served(openchat_context: AppContext, content: bytes, name: str, media_type: str) -> None:
    row_id = openchat_context.upload(content, name, media_type)
    assert openchat_context.work(row_id) == "accepted"
    job = openchat_context.job(row_id)
    assert (job.verdict, job.findings) == ("clean", ["known_password"])


@pytest.mark.parametrize(
    ("content", "outcome"),
    [
        (locked(hostile.macro_letter()), "refused (macros)"),
        (locked(letter(), "secret"), "refused (encrypted_document)"),
        (anonymous_pdf(b"secret"), "refused (encrypted_document)"),
    ],
    ids=["macros", "password", "PDF with a password"],
)
def test_what_is_in_it_may_be_the_reason(openchat_context: AppContext, content: bytes, outcome: str) -> None:
    row_id = openchat_context.upload(content, "a.bin", "")
    assert openchat_context.work(row_id) == outcome
    openchat_context.assert_unserved(row_id)


# -- What is unpacked for the scanner -----------------------------------------------------------------------


def squeezed(kind: str, content: bytes) -> bytes:
    """Return the content, packed as a stream alone."""
    if kind == "lzma":
        return lzma.compress(content, lzma.FORMAT_ALONE)
    out = pyarrow.BufferOutputStream()
    with pyarrow.CompressedOutputStream(out, "zstd") as stream:
        stream.write(content)
    return bytes(out.getvalue().to_pybytes())


def widened(content: bytes) -> bytes:
    """Return an archive of one stored file whose numbers are wide without need."""
    body = bytearray(zipped({"a.txt": content}, stored=True))
    at = body.index(b"PK\x01\x02")
    entry, local = body[at : body.index(b"PK\x05\x06")], body[:at]
    extra = struct.pack("<HHQQ", 1, 16, len(content), len(content))
    entry[20:28], entry[30:32] = b"\xff" * 8, struct.pack("<H", len(extra))
    entry = bytearray(entry + extra)
    wide = struct.pack("<4sQHHIIQQQQ", b"PK\x06\x06", 44, 45, 45, 0, 0, 1, 1, len(entry), at)
    locator = struct.pack("<4sIQI", b"PK\x06\x07", 0, at + len(entry), 1)
    end = struct.pack("<4sHHHHIIH", b"PK\x05\x06", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    return bytes(local + entry + wide + locator + end)


def by_ppmd(content: bytes, megabytes: int = 16, size: int | None = None) -> bytes:
    """Return an archive of one file that is packed by PPMd, and says that it is of that size."""
    packer = pyppmd.Ppmd8Encoder(8, megabytes << 20, 0)
    data = (7 | (megabytes - 1) << 4).to_bytes(2, "little") + packer.encode(content) + packer.flush()
    archive = bytearray(zipped({"a.txt": data}, stored=True))
    at = archive.index(b"PK\x01\x02")
    size = len(content) if size is None else size
    for place in (8, at + 10):
        struct.pack_into("<H", archive, place, 98)
        struct.pack_into("<III", archive, place + 6, zlib.crc32(content), len(data), size)
    return bytes(archive)


PLAIN = b"x" * 9999
#: Each with what is seen in its open copy, and the trait.
PACKED = {
    "lzma": (squeezed("lzma", tar(files={"a": PLAIN})), PLAIN, "unpacked_copy"),
    "zstd": (squeezed("zstd", tar(files={"a": PLAIN})), PLAIN, "unpacked_copy"),
    "wide": (widened(PLAIN), PLAIN, "unpacked_copy"),
    "compress": (compressed(tar(files={"a": PLAIN})), PLAIN, "unpacked_copy"),
    "PPMd": (by_ppmd(PLAIN), PLAIN, "unpacked_copy"),
    "7z bzip2": (seven_zip({"a": PLAIN, "b": b"y"}), PLAIN, "unpacked_copy"),
    "7z Deflate": (seven_zip({"a": PLAIN, "b": b"y"}, "deflate"), PLAIN, "unpacked_copy"),
    "locked": (locked(letter()), b"word/document.xml", "known_password"),
}


@pytest.fixture
def scanned(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """What the scanner gets."""
    contents: list[bytes] = []
    scan_file = Scanner.scan_file

    def seen(scanner: Scanner, path: Path) -> Answer:
        contents.append(path.read_bytes())
        return scan_file(scanner, path)

    monkeypatch.setattr(Scanner, "scan_file", seen)
    return contents


@pytest.mark.parametrize("kind", PACKED)
def test_the_scanner_gets_an_open_copy_too(
    openchat_context: AppContext, kind: str, scanned: list[bytes]
) -> None:
    archive, plain, trait = PACKED[kind]
    row_id = openchat_context.upload(archive, "a", "")
    assert openchat_context.work(row_id) == "accepted"
    assert archive in scanned
    assert any(plain in content for content in scanned if content != archive)
    assert openchat_context.job(row_id).findings == [trait]


def test_a_verdict_of_before_does_not_speak_for_the_open_copy(
    openchat_context: AppContext, scanned: list[bytes]
) -> None:
    archive = squeezed("lzma", PLAIN)
    version = Scanner(openchat_context.platform.settings.clamd, 10).versions()
    assert version.dated
    with transaction() as connection:
        verdicts.keep(connection, sha256(archive).hexdigest(), version, Verdict("clean"))
    row_id = openchat_context.upload(archive, "a", "")
    assert openchat_context.work(row_id) == "accepted"
    assert any(PLAIN in content for content in scanned)


@pytest.mark.parametrize("kind", ["lzma", "zstd"])
def test_what_is_unpacked_is_judged_and_bounded(kind: str) -> None:
    assert "encrypted_archive" in traits(squeezed(kind, encrypted_zip()))
    much = squeezed(kind, bytes(opened._COPY_BYTES + 1))
    assert set(traits(much)) == {"unread_packing"}
    assert set(traits(squeezed(kind, b"x" * 9999)[:-9])) == {"unread_packing"}


@pytest.mark.parametrize("outer", ["lzma", "zstd", "gzip", "bzip2", "xz"])
@pytest.mark.parametrize("inner", ["lzma", "zstd"])
def test_what_is_packed_so_twice_is_suspicious(outer: str, inner: str) -> None:
    stream = squeezed(inner, PLAIN)
    streams: dict[str, Callable[[bytes], bytes]] = {
        "gzip": gzip.compress,
        "bzip2": bz2.compress,
        "xz": lzma.compress,
    }
    pack = streams.get(outer, partial(squeezed, outer))
    assert "unread_packing" in traits(pack(stream))
    assert "unread_packing" not in traits(pack(PLAIN))


def test_a_compressed_file_is_judged_and_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "encrypted_archive" in traits(compressed(encrypted_zip()))
    broken = bytearray(compressed(PLAIN))
    broken[5] ^= 0xFF
    assert set(traits(bytes(broken))) == {"unread_packing"}
    monkeypatch.setattr(opened, "_COPY_BYTES", len(PLAIN))
    assert set(traits(compressed(PLAIN))) == {"unpacked_copy"}
    assert set(traits(compressed(PLAIN + b"y"))) == {"unread_packing"}
    monkeypatch.setattr(opened, "_LZW_BYTES", len(compressed(PLAIN)) - 1)
    assert set(traits(compressed(PLAIN))) == {"unread_packing"}


@pytest.mark.parametrize("widest", [10, 12, 16])
@pytest.mark.parametrize("clear_at", [0, 5, 8, 300])
def test_codes_of_any_width_are_unpacked(widest: int, clear_at: int) -> None:
    content = b"".join(str(number * number).encode() for number in range(20_000))
    assert lzw.unpack(compressed(content, widest, clear_at=clear_at), len(content)) == content


@pytest.mark.parametrize("megabytes", [1, 256])
def test_what_is_packed_by_ppmd_is_judged_and_bounded(megabytes: int) -> None:
    assert "encrypted_archive" in traits(by_ppmd(encrypted_zip(), megabytes))
    assert "unread_packing" in traits(by_ppmd(bytes(opened._COPY_BYTES + 1), megabytes))
    for size in (0, 9_998, 10_000, opened._COPY_BYTES):
        assert "unread_packing" in traits(by_ppmd(PLAIN, megabytes, size))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(opened, "_PPMD_BYTES", 10)
        assert "unread_packing" in traits(by_ppmd(PLAIN, megabytes))


def test_what_is_broken_by_ppmd_is_suspicious() -> None:
    content = b"some text, more text, and numbers: 0123456789"
    whole = by_ppmd(content)
    assert set(traits(whole)) == {"unpacked_copy"}
    # Behind the parameters, others of which serve such a short text as well.
    for at in range(37, 35 + len(content) // 2):
        broken = bytearray(whole)
        broken[at] ^= 0xFF
        assert set(traits(bytes(broken))) == {"unread_packing"}
    assert ppmd.unpack(b"", 9) == ppmd.unpack(whole[35:], 0) == b""
    # Behind an unknown way to go on, with an order that there is not, and without any data.
    for start in (b"\x07\xf0", b"\x00\x00", b"\x07\x00"):
        with pytest.raises(ValueError, match=r"unknown parameters|broken|Not enough"):
            ppmd.unpack(start, 9)


@pytest.mark.parametrize("method", ["bzip2", "deflate"])
def test_a_7z_archive_is_judged_and_bounded(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "encrypted_archive" in traits(seven_zip({"a.zip": encrypted_zip()}, method))
    much = seven_zip({"a": bytes(opened._COPY_BYTES // 2), "b": bytes(opened._COPY_BYTES // 2 + 1)}, method)
    assert set(traits(much)) == {"unread_packing"}
    # One that says that it is small does not become larger than that.
    small = seven_zip({"a": bytes(9_999)}, method)
    for size in (9_998, 10_000, opened._COPY_BYTES + 1, 1 << 60):
        lying = small.replace(struct.pack("<BQ", 255, 9_999), struct.pack("<BQ", 255, size))
        assert set(traits(lying)) == {"unread_packing"}
    monkeypatch.setattr(opened, "_COPY_ENTRIES", 2)
    assert set(traits(seven_zip({"a": b"1", "b": b"2"}, method))) == {"unpacked_copy"}
    assert set(traits(seven_zip({"a": b"1", "b": b"2", "c": b"3"}, method))) == {"unread_packing"}


@pytest.mark.parametrize("method", ["bzip2", "deflate"])
def test_a_broken_7z_archive_is_suspicious(method: str) -> None:
    whole = seven_zip({"a": b"some text", "b": b"", "c": b"more of it" * 99}, method)
    assert set(traits(whole)) == {"unpacked_copy"}
    end = len(whole) - 70
    for at in range(32, end):
        broken = bytearray(whole)
        broken[at] ^= 0xFF
        found = traits(bytes(broken))
        # What stands in the list's names is not needed.
        assert found.keys() <= {"unread_packing", "unpacked_copy"}
        with Source(io.BytesIO(bytes(broken))) as source:
            contents = packed.seven_contents(source)
            try:
                files = seven.members(source, contents, max_bytes=10_000, max_entries=100)
            except ValueError:
                continue
        assert files == [b"some text", b"", b"more of it" * 99]


def _method(number: int) -> bytes:
    archive = bytearray(zipped({"a.txt": b"x" * 99}))
    struct.pack_into("<H", archive, 8, number)
    struct.pack_into("<H", archive, archive.index(b"PK\x01\x02") + 10, number)
    return bytes(archive)


def _coder(name: bytes) -> bytes:
    header = b"\x01\x04\x06\x00\x01\x09\x0a\x00\x07\x0b\x01\x00\x01" + name + bytes(9)
    start = struct.pack("<QQI", 0, len(header), 0)
    return b"7z\xbc\xaf\x27\x1c\0\4" + bytes(4) + start + header


@pytest.mark.parametrize(
    ("content", "read"),
    [
        (_method(8), True),
        (_method(12), True),
        (_method(98), False),
        (_method(93), False),
        (_coder(b"\x23\x03\x01\x01\x05"), True),
        (_coder(b"\x21\x21\x01"), True),
        (_coder(b"\x03\x04\x02\x02"), False),
        (_coder(b"\x03\x04\x01\x08"), False),
        (_coder(b"\x24\x04\xf7\x11\x01\x05"), False),
        (b"\x1f\x9d\x90" + bytes(range(99)), False),
        (zipped({"a.tar.zst": squeezed("zstd", bytes(range(256)))}, stored=True), False),
        (zipped({"a.lzma": squeezed("lzma", bytes(range(256)))}, stored=True), False),
        (zipped({"a.zip": widened(b"x")}, stored=True), False),
        (zipped({"a.Z": compressed(PLAIN)}, stored=True), False),
        (zipped({"a.zip": by_ppmd(PLAIN)}, stored=True), False),
        (zipped({"a.7z": seven_zip({"a": b"x"})}, stored=True), False),
    ],
    ids=range(16),
)
def test_what_is_not_looked_into_is_suspicious(content: bytes, read: bool) -> None:
    assert ("unread_packing" in traits(content)) != read

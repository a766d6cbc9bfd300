"""Whatever the bytes are: an answer, in time, that `parse` takes. `tests/fuzz/` looks for longer."""

import resource
import struct
from collections.abc import Iterator
from pathlib import Path
from random import Random
from time import process_time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.attachments import identify
from tests.attachments import hostile
from tests.attachments.carriers import HTML, carriers, locked_pdf, ole, picture, zipped
from tests.attachments.looking import look
from tests.examples import examples
from tests.fuzz.mutations import TOKENS, mutated
from workers import sandbox

SEEDS = [content for content in (carriers() | hostile.everything()).values() if len(content) <= 300_000]
SECONDS = 2.0
#: The same each time, and enough for a few seconds.
QUICK = examples(100)


@pytest.fixture(autouse=True)
def _within_limits() -> Iterator[None]:
    """A worker's process has little memory: what is asked for beyond fails, here too."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    with open("/proc/self/statm") as file:  # noqa: PTH123
        used = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 512 * 1024 * 1024, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


def timed(content: bytes) -> None:
    began = process_time()
    look(content)
    assert process_time() - began < SECONDS


@QUICK
@given(st.lists(st.one_of(st.binary(max_size=200), st.sampled_from(TOKENS)), max_size=8).map(b"".join))
def test_any_bytes(content: bytes) -> None:
    timed(content)


@QUICK
@given(st.sampled_from(SEEDS), st.integers(0, 2**32))
def test_a_real_file_that_was_changed(content: bytes, seed: int) -> None:
    timed(mutated(Random(seed), content, SEEDS))


def _many(part: bytes, size: int = 20_000_000) -> bytes:
    return part * (size // len(part))


@pytest.mark.parametrize(
    "content",
    [
        lambda: hostile.crowded(300_000),
        lambda: _times(9, hostile.squashed_gzip(200_000_000)),
        lambda: _times(50, zipped({"a": bytes(9_000_000)})),
        # Ends of archives that lead nowhere, and one that leads to the next.
        lambda: b"PK\x03\x04" + _many(b"PK\x05\x06" + bytes(18)),
        lambda: picture("JPEG") + _many(b"\xff\xda\0\2\xff\xd9\xff\xd8"),
        lambda: b"\xff\xd8" + _many(b"\xff\xda\0\2"),
        lambda: b"\xff\xd8" + _many(b"\xff"),
        lambda: b"\x89PNG\r\n\x1a\n" + b"\0\0\0\rIHDR" + bytes(17) + _many(bytes(4) + b"tEXt" + bytes(4)),
        lambda: b"GIF89a\1\0\1\0\0\0\0" + _many(b"\x21\xfe\1\0\0"),
        lambda: b"GIF89a=1;" + _many(b"/**/"),
        lambda: b"GIF89a='" + _many(b"\\'"),
        lambda: b"GIF89a=" + _many(b"<svg "),
        lambda: picture("GIF") + _many(b"\x7fELF\2\1\1" + bytes(9) + b"\7\7"),
        lambda: b"<?xml version='1.0'?><svg " + _many(b"on" + b"a" * 20),
        lambda: b"<?xml version='1.0'?><svg><a href=" + _many(b" href = "),
        lambda: b"%PDF-1.7\n" + _many(b"1 0 obj\n<< /Length 9 >>\nstream\n"),
        lambda: b"%PDF-1.7\n" + _many(b"<<" * 500 + b"[" * 500),
        lambda: b"%PDF-1.7\n" + _many(b"trailer << /Prev 0 >> startxref 0 %%EOF\n", 2_000_000),
        lambda: _bottomless(),
        lambda: ole()[:30] + struct.pack("<H", 31) + ole()[32:],
        lambda: ole()[:512] + _many(struct.pack("<I", 1)),
        lambda: b"Rar!\x1a\x07\0" + _many(b"\0\0\x74\0\0\7\0"),
        lambda: b"Rar!\x1a\x07\1\0" + _many(b"\0\0\0\0\3\2\0\0"),
        lambda: b"7z\xbc\xaf\x27\x1c\0\4" + b"\xff" * 24,
        lambda: _many(b"<!ENTITY a '&b;&b;'>"),
        lambda: zipped({"[Content_Types].xml": _laughs(), "word/document.xml": b"x"}),
        lambda: zipped({"[Content_Types].xml": _many(b"<a><", 60_000_000)}),
        lambda: zipped({"[Content_Types].xml": _many(b"<a x='y'/>", 60_000_000)}),
        lambda: zipped({"[Content_Types].xml": b"<a " + _many(b"x='y' ", 60_000_000)}),
    ],
    ids=lambda _: "",
)
def test_what_is_made_to_take_long(content: object) -> None:
    assert callable(content)
    timed(content())


def _times(count: int, content: bytes) -> bytes:
    """Return an archive that holds the same so many times."""
    return zipped({f"{number}": content for number in range(count)}, stored=True)


def _bottomless() -> bytes:
    """Return an OLE file whose entries are each the next one's sibling, a hundred thousand in a row."""
    count = 100_000
    sectors = count // 4
    tables = (sectors + 1) // 128 + 1
    head = bytearray(ole()[:512])
    head[44:48] = struct.pack("<I", tables)
    head[48:52] = struct.pack("<I", tables)
    head[76 : 76 + 4 * min(tables, 109)] = struct.pack(f"<{min(tables, 109)}I", *range(min(tables, 109)))
    chain = [0xFFFFFFFD] * tables + list(range(tables + 1, tables + sectors)) + [0xFFFFFFFE]
    table = struct.pack(f"<{len(chain)}I", *chain).ljust(tables * 512, b"\xff")
    name = "x\0".encode("utf-16le").ljust(64, b"\0")
    rows = (
        name
        + struct.pack("<HBB3I", 4, 5 if not number else 1, 1, 0xFFFFFFFF, number + 1, number + 1)
        + bytes(48)
        for number in range(count)
    )
    return bytes(head) + table[: tables * 512] + b"".join(rows)


def _laughs() -> bytes:
    """Return XML whose entities multiply."""
    rows = "".join(f"<!ENTITY a{number + 1} '{f'&a{number};' * 10}'>" for number in range(9))
    return f"<?xml version='1.0'?><!DOCTYPE x [<!ENTITY a0 'ha'>{rows}]><x y='&a9;'>&a9;</x>".encode()


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(locked_pdf(b"secret"), id="PDFium"),
        pytest.param(ole({"Macros/VBA/dir": b"x"}), id="olefile"),
        pytest.param(hostile.macro_letter(), id="expat"),
        pytest.param(hostile.gif_script(), id="ours"),
        pytest.param(hostile.seven_locked_files(), id="lzma"),
        pytest.param(HTML * 9 + hostile.ARCHIVE, id="libmagic, twice"),
    ],
)
def test_what_it_needs_is_there_in_the_confined_process(content: bytes, tmp_path: Path) -> None:
    source = tmp_path / "content"
    source.write_bytes(content)
    answer = sandbox.run(
        "tasks.attachments.identify:inspect",
        source,
        tmp_path,
        {"max_member_bytes": 1000},
        seconds=20,
        memory_bytes=512 * 1024 * 1024,
    )
    found = identify.parse(answer)
    assert found.traits
    assert found == look(content, max_member_bytes=1000)

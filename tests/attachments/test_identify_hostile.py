"""Whatever the bytes are: an answer, in time, that `parse` takes. `tests/fuzz/` looks for longer."""

import gzip
import io
import resource
import struct
from collections.abc import Iterator
from pathlib import Path
from random import Random
from time import process_time

import olefile
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.attachments import identify
from tasks.attachments.content import archives, packed, zips
from tasks.attachments.content import ole as content_ole
from tasks.attachments.content import pdf as content_pdf
from tasks.attachments.content.budget import Budget
from tasks.attachments.content.source import Source
from tests.attachments import hostile
from tests.attachments.carriers import HTML, carriers, locked_pdf, ole, picture, zipped
from tests.attachments.context import AppContext
from tests.attachments.looking import look
from tests.examples import examples
from tests.fuzz.mutations import TOKENS, mutated
from tests.platform import Platform
from workers import sandbox

SEEDS = [content for content in (carriers() | hostile.everything()).values() if len(content) <= 300_000]
SECONDS = 2.0
#: The same each time, and enough for a few seconds.
QUICK = examples(100)


@pytest.fixture
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


@pytest.mark.usefixtures("_within_limits")
@QUICK
@given(st.lists(st.one_of(st.binary(max_size=200), st.sampled_from(TOKENS)), max_size=8).map(b"".join))
def test_any_bytes(content: bytes) -> None:
    timed(content)


@pytest.mark.usefixtures("_within_limits")
@QUICK
@given(st.sampled_from(SEEDS), st.integers(0, 2**32))
def test_a_real_file_that_was_changed(content: bytes, seed: int) -> None:
    timed(mutated(Random(seed), content, SEEDS))


def _many(part: bytes, size: int = 20_000_000) -> bytes:
    return part * (size // len(part))


@pytest.mark.usefixtures("_within_limits")
@pytest.mark.parametrize(
    "content",
    [
        lambda: hostile.crowded(300_000),
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
        lambda: b"Rar!\x1a\x07\0" + _many(b"\0\0\x74\0\0\7\0"),
        lambda: b"Rar!\x1a\x07\1\0" + _many(b"\0\0\0\0\3\2\0\0"),
        lambda: b"7z\xbc\xaf\x27\x1c\0\4" + b"\xff" * 24,
    ],
    ids=lambda _: "",
)
def test_what_is_made_to_take_long(content: object) -> None:
    assert callable(content)
    timed(content())


def test_no_more_is_unpacked_than_the_budget_allows() -> None:
    """Archives in an archive, and streams in it: what each becomes counts."""
    gz = gzip.compress(bytes(300_000))
    content = zipped({f"{number}.zip": zipped({"a": bytes(300_000)}) for number in range(9)} | {"a.gz": gz})
    with Source(io.BytesIO(content)) as source:
        archive = zips.find(source)
        assert archive is not None
        budget = Budget(unpacked=1_000_000, streamed=100_000)
        assert list(archives.examine(archive, budget))
    assert 0 <= budget.unpacked < 1_000_000
    with Source(io.BytesIO(gz)) as source:
        assert not list(packed.examine(source, budget))
    # One step beyond.
    assert -packed._STEP_BYTES < budget.streamed <= 0


@pytest.mark.parametrize("change", [(30, "<H", 31), (44, "<I", 2**31), (64, "<I", 2**31), (72, "<I", 2**31)])
def test_an_old_document_that_promises_more_than_it_holds_is_not_opened(
    change: tuple[int, str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[object] = []

    def stand_in(file: object) -> object:
        opened.append(file)
        raise OSError

    monkeypatch.setattr(olefile, "OleFileIO", stand_in)
    at, form, number = change
    document = bytearray(ole({"Macros/VBA/dir": b"x"}))
    assert not list(content_ole.examine(Source(io.BytesIO(bytes(document)))))
    assert len(opened) == 1
    struct.pack_into(form, document, at, number)
    assert not list(content_ole.examine(Source(io.BytesIO(bytes(document)))))
    assert len(opened) == 1


@pytest.mark.parametrize("parts", [b"", b"1 0 obj << >> endobj\n" * 20_000])
def test_a_pdf_reader_gets_a_few_kilobytes_whatever_the_size(
    parts: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []

    def stand_in(document: bytes) -> bool:
        sizes.append(len(document))
        return False

    monkeypatch.setattr(content_pdf, "_needs_password", stand_in)
    document = locked_pdf(b"secret")
    look(document[:9] + parts + document[9:])
    assert sizes
    assert max(sizes) < 20_000


@pytest.mark.parametrize(
    ("work", "options", "reason"),
    [
        ("hang", {}, "sandbox_timed_out"),
        ("grow", {}, "sandbox_out_of_memory"),
        ("abort", {}, "sandbox_died"),
        ("crash", {"number": 11}, "sandbox_died"),
    ],
)
def test_a_decoder_that_hangs_grows_or_crashes_costs_its_file_an_attempt(
    platform: Platform, monkeypatch: pytest.MonkeyPatch, work: str, options: dict[str, int], reason: str
) -> None:
    """By a decoder of ours in the place of those that look at files."""
    name = f"tests.workers.hostile:{work}"
    monkeypatch.setitem(sandbox.WORKS, name, ())
    real = sandbox.run

    def run(
        asked: str, source: Path, folder: Path, given: dict[str, object], **limits: float
    ) -> dict[str, object]:
        if asked.endswith("identify:inspect"):
            asked, given = name, dict(options)
        return real(asked, source, folder, given, **limits)  # type: ignore[arg-type]

    platform.set(attachment_attempts=2, identify_timeout_seconds=1.0, draw_memory_bytes=256 * 2**20)
    context = AppContext(platform, "openchat")
    row_id = context.upload(b"Milk\n", "a.txt", "text/plain")
    with monkeypatch.context() as patched:
        patched.setattr(sandbox, "run", run)
        assert context.work(row_id) == "waiting (identify_failed)"
    assert context.job(row_id).detail.startswith(reason)
    context.assert_unserved(row_id)
    assert context.again(row_id) == "accepted"


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

"""The pipeline serves ordinary files: a sample of the small corpus, through a real worker.

`corpus_known.txt` lists what is wrong of it today. The pipeline may not get worse, and a line that no longer
holds goes: when the file is empty, nothing of the sample is wrongly refused or wrongly served.
"""

import hashlib
import io
import tarfile
from pathlib import Path

import pytest

from benchmarks.corpus import cache, corpus, judgements, sources
from benchmarks.corpus.__main__ import SEED
from benchmarks.corpus.declared import media_type
from benchmarks.corpus.feed import Outcome, feed, platform
from benchmarks.corpus.files import CorpusFile, family, sample
from benchmarks.corpus.sources import Source

FILES = 300
KNOWN = Path(__file__).with_name("corpus_known.txt")


@pytest.mark.system
@pytest.mark.timeout(600)
def test_ordinary_files_are_served_and_malware_is_not() -> None:
    files = sample(corpus.gather(cache.default(), quick=True), FILES, SEED)
    assert len(files) == FILES
    with platform("local", {}) as made:
        outcomes = feed(made, files, "local")
    classes = judgements.load()
    judged = [(judgements.judge(one, classes), one) for one in outcomes]
    wrong = {
        f"{verdict}: {one.file.key} {one.reason}".strip() for verdict, one in judged if verdict != "right"
    }
    known = set(KNOWN.read_text(encoding="utf-8").splitlines())
    assert not wrong - known, "the pipeline is wrong about files that it was right about"
    assert not known - wrong, f"these are right now; remove them from {KNOWN.name}"


def _outcome(key: str, reason: str) -> Outcome:
    source, _, path = key.partition("/")
    file = CorpusFile(source, path, Path("unused"), family(source, path))
    return Outcome(file, not reason, False, reason, "", "text/plain")


CLASSES = [
    judgements.Judgement(name="a", outcome="refused", reasons=("malware",), why="it is", files=("bad/*",)),
    judgements.Judgement(name="b", outcome="either", reasons=("macros",), why="so", files=("office/*.docm",)),
]


@pytest.mark.parametrize(
    ("key", "reason", "verdict"),
    [
        ("bad/deep/down.exe", "malware", "right"),
        ("bad/deep/down.exe", "", "wrongly served"),
        ("bad/deep/down.exe", "empty", "wrongly refused"),
        ("office/a.docm", "macros", "right"),
        ("office/a.docm", "", "right"),
        ("office/a.docm", "malware", "wrongly refused"),
        ("office/a.docx", "macros", "wrongly refused"),
        ("office/a.docx", "", "right"),
    ],
)
def test_a_refusal_is_right_for_its_file_and_its_reason(key: str, reason: str, verdict: str) -> None:
    assert judgements.judge(_outcome(key, reason), CLASSES) == verdict


def test_a_pattern_that_fits_nothing_is_found() -> None:
    assert judgements.unused(CLASSES, ["bad/x", "office/a.docx"]) == ["office/*.docm"]


def test_every_judgement_says_why() -> None:
    for one in judgements.load():
        assert one.files and one.reasons and one.why, one.name
        assert one.outcome in ("refused", "either"), one.name


def test_a_sample_is_the_same_each_time_and_has_all_families() -> None:
    files = [
        CorpusFile("x", f"{number}.{ending}", Path("unused"), family("x", f"{number}.{ending}"))
        for ending in ("png", "txt", "pdf")
        for number in range(20)
    ]
    some = sample(files, 7, 1)
    assert some == sample(list(reversed(files)), 7, 1)
    assert {one.family for one in some} == {"pictures", "texts", "pdf"}
    assert sample(files, 7, 2) != some


@pytest.mark.parametrize(
    ("name", "declared"),
    [
        ("a.JPG", "image/jpeg"),
        ("a.tar.gz", "application/gzip"),
        ("a.xlsx", "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"),
        ("a.ts", "video/mp2t"),
        ("README", "application/octet-stream"),
    ],
)
def test_a_type_is_declared_by_the_ending_alone(name: str, declared: str) -> None:
    assert media_type(name) == declared


def _package(monkeypatch: pytest.MonkeyPatch, *names: str) -> Source:
    """Return a package, to be downloaded, of empty files of these names."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        for name in names:
            archive.addfile(tarfile.TarInfo(name), io.BytesIO())
    content = out.getvalue()
    monkeypatch.setattr(
        cache, "_download", lambda source, folder: (folder / "x-1.tar.gz").write_bytes(content) and None
    )
    return Source(kind="pypi", name="x", version="1", sha256=hashlib.sha256(content).hexdigest())


def test_a_package_is_unpacked_into_the_cache_and_never_outside(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    source = _package(monkeypatch, "x-1/a.txt", "x-1/b/c.txt", "x-1/../../d.txt", "/x-1/../e.txt", "f.txt")
    folder = cache.unpacked(source, tmp_path / "cache")
    found = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert found == {f"cache/{folder.name}/a.txt", f"cache/{folder.name}/b/c.txt"}
    assert cache.unpacked(source, tmp_path / "cache") == folder


def test_a_package_that_is_another_than_was_pinned_is_not_used(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    source = Source(kind="pypi", name="x", version="1", sha256="0" * 64)
    _package(monkeypatch, "x-1/a.txt")
    with pytest.raises(RuntimeError, match=r"x 1: SHA-256 is [0-9a-f]{64}, not 0{64}"):
        cache.unpacked(source, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_sources_are_pinned_and_named_once() -> None:
    every = sources.load()
    assert len({one.name for one in every}) == len(every)
    assert all(len(one.sha256) == 64 and one.version for one in every)
    # Versions that Debian withdraws would break the tests.
    assert all(one.kind != "debian" for one in sources.load(quick=True))

"""The whole corpus, or the small one: of packages, and made by FFmpeg and by programs that pack."""

from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from benchmarks.corpus import archives, cache, films, sources
from benchmarks.corpus.files import CorpusFile, chosen, distinct

#: What is packed: the tree's name → package, family, and whether the small corpus has archives of it.
TREES = {
    "texts": ("csv-parse", "texts", True),
    "pictures": ("Pillow", "pictures", True),
    "office": ("python-docx", "documents", False),
    "sounds": ("mutagen", "film and sound", False),
    "code": ("jszip", "texts", False),
    "mails": ("mail-parser", "texts", False),
    "pdf": ("pypdf", "pdf", False),
}
_FILES = 12
_LARGEST_BYTES = 200_000
_ALL = 10_000


def gather(folder: Path, *, quick: bool = False, tiny: bool = False) -> list[CorpusFile]:
    """Return the files of the corpus, no content twice; download and make them first, if need be.

    Args:
        folder: the cache.
        quick: the small corpus only, of which a test takes a sample.
        tiny: of that only the packages, without what is made here.

    Raises:
        RuntimeError: a package cannot be had, or a program is missing.
    """
    packed: dict[str, list[Path]] = {}
    files = _of_packages(folder, quick or tiny, packed)
    return distinct(files if tiny else chain(files, _made(folder, packed)))


def _of_packages(folder: Path, quick: bool, packed: dict[str, list[Path]]) -> Iterator[CorpusFile]:
    """Yield the files of packages; put those of which archives are made into `packed`."""
    for source in sources.load(quick=quick):
        found = chosen(source.name, cache.unpacked(source, folder), source.most)
        yield from found
        for tree, (name, family, in_quick) in TREES.items():
            if name == source.name and (in_quick or not quick):
                packed[tree] = _small(found, family)


def _made(folder: Path, packed: dict[str, list[Path]]) -> Iterator[CorpusFile]:
    trees = {name: packed[name] for name in TREES if name in packed}
    yield from chosen(films.NAME, films.made(folder), _ALL)
    yield from chosen(archives.NAME, archives.made(folder, trees), _ALL)
    yield from chosen(archives.MALWARE_NAME, archives.made_of_malware(folder), _ALL)


def _small(found: list[CorpusFile], family: str) -> list[Path]:
    """Return a few small files, each with a name of its own."""
    named = {
        one.name: one.file
        for one in found
        if one.family == family
        and 0 < one.file.stat().st_size <= _LARGEST_BYTES
        # An archive of what needs a password is judged like one that needs it.
        and "encrypt" not in one.path
        and "password" not in one.path
    }
    return list(named.values())[:_FILES]

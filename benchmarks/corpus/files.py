"""The files that are fed: which of the packages' files, of which family, under which name and type."""

import hashlib
import random
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from benchmarks.corpus.declared import media_type

#: Larger files only take time.
LARGEST_BYTES = 24 * 1024**2
MALWARE = "malware"
_MALWARE = ("clamav-testfiles/usr/share/clamav-testfiles/", "generated-malware/")
OTHER = "other"
#: Packages are full of these: so many of an ending and a package are enough.
FEWER = {"texts": 6, OTHER: 6}
#: By what a file is called, as the person who sends it would sort it. What is not named here is `other`.
FAMILIES = {
    "pictures": "png apng jpg jpeg jpe jfif gif webp avif heic heif bmp dib tif tiff ico cur icns svg"
    " svgz tga psd jp2 j2k j2c jpx jxl sgi rgb bw dds xpm xbm pcx ppm pgm pbm pnm pfm fli"
    " flc qoi exr hdr wmf emf msp blp ftc ftu im mpo",
    "documents": "docx docm dotx doc dot xlsx xlsm xlsb xltx xls pptx pptm potx ppsx ppt odt ods odp"
    " odg odf ott ots otp otg fodt rtf epub msg gnumeric abw vsd vsdx pub hwp mobi",
    "pdf": "pdf ps eps ai",
    "film and sound": "mp4 m4v mov mkv webm avi flv f4v mpg mpeg vob m2v m1v ts m2ts wmv asf 3gp 3g2 ogv"
    " ogg oga opus mp3 mp2 m4a m4b aac flac wav w64 aiff aif au caf wv tta wma ac3 eac3"
    " mka weba mid midi gsm amr mxf nut ivf swf dv rm h264 hevc mjpeg y4m sln g722 ape mpc"
    " ofr dsf spx voc sox sbc latm wtv mod xm s3m obu",
    "archives": "zip gz tgz bz2 tbz2 xz txz zst tzst 7z rar tar cab lz lzma lz4 jar whl iso cpio shar"
    " xar ar z br deb arj zipx tlz crate egg warc",
    "texts": "txt md markdown rst py pyi pyx js mjs cjs ts mts cts jsx tsx css scss less html htm"
    " xhtml xml json jsonl csv tsv sql log yml yaml toml ini cfg conf c h cpp hpp cc java"
    " rb php go rs sh bat ps1 pl lua r tex bib eml mbox ics vcf po pot srt vtt diff patch"
    " properties map xsl dtd ui desktop lyx asy abc musicxml scl output afm svelte vue kt"
    " swift cs m f90 tcl vim el lisp hs scala dart graphql proto adoc org inc in glif"
    " plist fea ttx rng",
}
_FAMILY = {f".{ending}": family for family, endings in FAMILIES.items() for ending in endings.split()}


@dataclass(frozen=True, slots=True)
class CorpusFile:
    """One file.

    Attributes:
        source: the package, or what has made the file.
        path: within it, with slashes; judgements and lists name files by `source/path`.
        file: where it lies.
        family: see `FAMILIES`.
    """

    source: str
    path: str
    file: Path
    family: str

    @property
    def key(self) -> str:
        return f"{self.source}/{self.path}"

    @property
    def name(self) -> str:
        """The name that its uploader sends."""
        return PurePosixPath(self.path).name

    @property
    def declared(self) -> str:
        """The media type that a browser declares for it."""
        return media_type(self.name)


def family(source: str, path: str) -> str:
    """Return the family of a file."""
    if f"{source}/{path}".startswith(_MALWARE):
        return MALWARE
    return _FAMILY.get(PurePosixPath(path.lower()).suffix, OTHER)


def chosen(source: str, folder: Path, most: int) -> list[CorpusFile]:
    """Return files of a directory: at most so many of a family and an ending, always the same ones."""
    found = [
        CorpusFile(source, path.relative_to(folder).as_posix(), path, "")
        for path in folder.rglob("*")
        if path.is_file() and not path.is_symlink() and path.stat().st_size <= LARGEST_BYTES
    ]
    taken: Counter[tuple[str, str]] = Counter()
    picked = []
    for one in sorted(found, key=_order):
        kind = (family(source, one.path), PurePosixPath(one.path.lower()).suffix)
        taken[kind] += 1
        if taken[kind] <= min(most, FEWER.get(kind[0], most)):
            picked.append(CorpusFile(source, one.path, one.file, kind[0]))
    return sorted(picked, key=lambda one: one.key)


def distinct(files: Iterable[CorpusFile]) -> list[CorpusFile]:
    """Return the files without those whose content an earlier one has."""
    first: dict[str, CorpusFile] = {}
    for one in files:
        with one.file.open("rb") as content:
            first.setdefault(hashlib.file_digest(content, "sha256").hexdigest(), one)
    return list(first.values())


def sample(files: list[CorpusFile], count: int, seed: int) -> list[CorpusFile]:
    """Return so many of the files, of each family its share and at least a few."""
    families = sorted({one.family for one in files})
    shuffled = sorted(files, key=lambda one: one.key)
    random.Random(seed).shuffle(shuffled)  # noqa: S311 - the same files each time
    queues = {family: [one for one in shuffled if one.family == family] for family in families}
    taken: list[CorpusFile] = []
    # In turn: the rare kinds are the ones that are refused.
    while len(taken) < count and any(queues.values()):
        for queue in queues.values():
            if queue and len(taken) < count:
                taken.append(queue.pop())
    return taken


def _order(one: CorpusFile) -> str:
    return hashlib.sha256(one.key.encode()).hexdigest()

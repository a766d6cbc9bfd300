"""Archives of ordinary files, and of malware, as zip, 7-Zip, libarchive and Node's archiver write them."""

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from benchmarks.corpus.cache import once
from tests.nodejs import NODE, npm_ci
from workers.known_bad import EICAR

NAME = "generated-archives"
MALWARE_NAME = "generated-malware"
#: Increased when other files are made.
_EDITION = 3
_PEER = Path(__file__).with_name("archiver")
PROGRAMS = {"zip": "zip", "7z": "p7zip-full", "bsdtar": "libarchive-tools"}
#: Name and ending of the archive → the command; OUT is the archive, `.` all files of the current directory.
COMMANDS: Mapping[str, str] = {
    "zip-deflate.zip": "zip -q -r OUT .",
    "zip-store.zip": "zip -q -0 -r OUT .",
    "zip-best.zip": "zip -q -9 -r -X OUT .",
    "zip-no-directories.zip": "zip -q -r -D OUT .",
    "zip-bzip2.zip": "zip -q -Z bzip2 -r OUT .",
    "zip-streamed.zip": "zip -q -r - .",
    "zip-zip64.zip": "zip -q -fz -r OUT .",
    "zip-comment.zip": "zip -q -r -z OUT .",
    "zip-encrypted.zip": "zip -q -e -P secret -r OUT .",
    "7z-lzma2.7z": "7z a -bd OUT .",
    "7z-lzma.7z": "7z a -bd -m0=LZMA OUT .",
    "7z-ppmd.7z": "7z a -bd -m0=PPMd OUT .",
    "7z-bzip2.7z": "7z a -bd -m0=BZip2 OUT .",
    "7z-copy.7z": "7z a -bd -mx=0 OUT .",
    "7z-deflate.7z": "7z a -bd -m0=Deflate OUT .",
    "7z-not-solid.7z": "7z a -bd -ms=off OUT .",
    "7z-plain-headers.7z": "7z a -bd -mhc=off OUT .",
    "7z-encrypted.7z": "7z a -bd -psecret OUT .",
    "7z-encrypted-headers.7z": "7z a -bd -psecret -mhe=on OUT .",
    "7z-deflate.zip": "7z a -bd -tzip OUT .",
    "7z-deflate64.zip": "7z a -bd -tzip -mm=Deflate64 OUT .",
    "7z-lzma.zip": "7z a -bd -tzip -mm=LZMA OUT .",
    "7z-ppmd.zip": "7z a -bd -tzip -mm=PPMd OUT .",
    "7z-bzip2.zip": "7z a -bd -tzip -mm=BZip2 OUT .",
    "7z-utf8.zip": "7z a -bd -tzip -mcu=on OUT .",
    "7z-aes.zip": "7z a -bd -tzip -psecret -mem=AES256 OUT .",
    "7z.tar": "7z a -bd -ttar OUT .",
    "bsdtar-ustar.tar": "bsdtar -c --format ustar -f OUT .",
    "bsdtar-pax.tar": "bsdtar -c --format pax -f OUT .",
    "bsdtar-gnu.tar": "bsdtar -c --format gnutar -f OUT .",
    "bsdtar-v7.tar": "bsdtar -c --format v7tar -f OUT .",
    "bsdtar.tar.gz": "bsdtar -c -z -f OUT .",
    "bsdtar.tgz": "bsdtar -c -z --format ustar -f OUT .",
    "bsdtar.tar.bz2": "bsdtar -c -j -f OUT .",
    "bsdtar.tar.xz": "bsdtar -c -J -f OUT .",
    "bsdtar.tar.zst": "bsdtar -c --zstd -f OUT .",
    "bsdtar.tar.lzma": "bsdtar -c --lzma -f OUT .",
    "bsdtar.tar.lz4": "bsdtar -c --lz4 -f OUT .",
    "bsdtar.tar.Z": "bsdtar -c -Z -f OUT .",
    "bsdtar.zip": "bsdtar -c --format zip -f OUT .",
    "bsdtar-store.zip": "bsdtar -c --format zip --options zip:compression=store -f OUT .",
    "bsdtar-streamed.zip": "bsdtar -c --format zip .",
    "bsdtar.7z": "bsdtar -c --format 7zip -f OUT .",
    "bsdtar-cpio.cpio": "bsdtar -c --format newc -f OUT .",
    "bsdtar-odc.cpio": "bsdtar -c --format odc -f OUT .",
    "bsdtar.iso": "bsdtar -c --format iso9660 -f OUT .",
    "bsdtar.xar": "bsdtar -c --format xar -f OUT .",
    "bsdtar.shar": "bsdtar -c --format shar -f OUT .",
    "bsdtar.warc": "bsdtar -c --format warc -f OUT .",
    "archiver-deflate.zip": "archiver zip OUT",
    "archiver-best.zip": "archiver zip-best OUT",
    "archiver-store.zip": "archiver zip-store OUT",
    "archiver-zip64.zip": "archiver zip-64 OUT",
    "archiver.tar": "archiver tar OUT",
    "archiver.tar.gz": "archiver tar-gzip OUT",
}


#: The usual ones, in which malware is packed.
MALWARE_COMMANDS = {
    archive: COMMANDS[archive]
    for archive in (
        "zip-deflate.zip",
        "zip-store.zip",
        "zip-encrypted.zip",
        "bsdtar-ustar.tar",
        "bsdtar.tar.gz",
        "bsdtar.tar.bz2",
    )
}


def made(cache: Path, trees: Mapping[str, list[Path]]) -> Path:
    """Return the directory with archives of each of the trees, by name of the tree.

    Raises:
        RuntimeError: a program that packs is missing.
    """
    _programs_are_there()
    return once(
        cache / f"{NAME}-{_EDITION}-{'+'.join(trees)}", lambda folder: _make(folder, cache, trees, COMMANDS)
    )


def made_of_malware(cache: Path) -> Path:
    """Return the directory with archives of the EICAR test file."""
    _programs_are_there()

    def make(folder: Path) -> None:
        tree = cache / ".malware"
        tree.mkdir(exist_ok=True)
        (tree / "invoice.com").write_bytes(EICAR)
        _make(folder, cache, {"eicar": [tree / "invoice.com"]}, MALWARE_COMMANDS)
        (folder / "eicar" / "plain.com").write_bytes(EICAR)
        shutil.rmtree(tree)

    return once(cache / f"{MALWARE_NAME}-{_EDITION}", make)


def _programs_are_there() -> None:
    missing = [package for program, package in PROGRAMS.items() if shutil.which(program) is None]
    if missing:
        raise RuntimeError(
            f"Programs that make archives are missing; type: sudo apt-get install {' '.join(missing)}"
        )


def _make(folder: Path, cache: Path, trees: Mapping[str, list[Path]], commands: Mapping[str, str]) -> None:
    modules = once(cache / f"archiver-{_EDITION}", _archiver)
    for name, files in trees.items():
        tree = folder / f".{name}"
        for number, file in enumerate(files):
            place = tree / ("more" if number % 3 else ".") / file.name
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, place)
        (folder / name).mkdir()
        for archive, command in commands.items():
            _run(command, tree, folder / name / archive, modules)
        shutil.rmtree(tree)


def _archiver(folder: Path) -> None:
    for file in _PEER.iterdir():
        shutil.copy(file, folder)
    npm_ci(folder, os.environ)


def _run(command: str, tree: Path, out: Path, modules: Path) -> None:
    words = [str(out) if word == "OUT" else word for word in command.split()]
    if words[0] == "archiver":
        words = [str(NODE), str(modules / "pack.js"), *words[1:], str(tree)]
    done = subprocess.run(words, cwd=tree, input=b"A comment\n", capture_output=True, timeout=60, check=False)
    if done.returncode:
        raise RuntimeError(f"{command}: {(done.stderr or done.stdout)[-300:]!r}")
    if "OUT" not in command.split():
        out.write_bytes(done.stdout)

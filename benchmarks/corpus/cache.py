"""Downloads and unpacks packages into a cache outside the repository; nothing of them runs."""

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from benchmarks.corpus.sources import Source
from tests.nodejs import NODE, NPM

#: Where the cache is, if the variable names a directory.
VARIABLE = "BENCHMARK_CORPUS"
_PATIENCE_SECONDS = 300


def default() -> Path:
    """Return the cache's directory: of the variable, or the user's cache directory."""
    if named := os.environ.get(VARIABLE):
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "roomkeeper" / "corpus"


def unpacked(source: Source, cache: Path) -> Path:
    """Return the directory with the package's files; download and unpack it first, if need be.

    Raises:
        RuntimeError: it cannot be had, or is not the file that was pinned.
    """
    name = f"{source.kind}-{source.name}-{source.version}".replace("/", "+").replace(":", "+")
    return once(cache / name, lambda folder: _fetch(source, folder))


def once(folder: Path, make: Callable[[Path], None]) -> Path:
    """Return the directory, which `make` has filled: now or in an earlier run, but always to the end."""
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".new-") as name:
            fresh = Path(name) / "files"
            fresh.mkdir()
            make(fresh)
            try:
                fresh.rename(folder)
            except OSError:
                # Another process was quicker.
                if not folder.is_dir():
                    raise
    return folder


def _fetch(source: Source, folder: Path) -> None:
    with tempfile.TemporaryDirectory(dir=folder.parent) as name:
        download = Path(name)
        # Debian's client downloads as a user of its own, where it can.
        download.chmod(0o755)
        _download(source, download)
        files = [path for path in download.iterdir() if path.is_file()]
        if len(files) != 1:
            raise RuntimeError(f"{source.name} {source.version}: {len(files)} files were downloaded, not one")
        with files[0].open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != source.sha256:
            raise RuntimeError(f"{source.name} {source.version}: SHA-256 is {found}, not {source.sha256}")
        _unpack(files[0], folder)


def _download(source: Source, folder: Path) -> None:
    wanted = f"{source.name}=={source.version}"
    commands = {
        "pypi": [sys.executable, "-m", "benchmarks.corpus.sdist", wanted, str(folder)],
        "npm": [str(NODE), str(NPM), "pack", "--silent", "--ignore-scripts", wanted.replace("==", "@")],
        "debian": ["apt-get", "download", "-qq", wanted.replace("==", "=")],
    }
    # Our own package is found from where this runs.
    where = Path.cwd() if source.kind == "pypi" else folder
    try:
        done = subprocess.run(
            commands[source.kind],
            cwd=where,
            capture_output=True,
            text=True,
            timeout=_PATIENCE_SECONDS,
            check=False,
        )
    except FileNotFoundError as error:
        raise RuntimeError(
            f"{source.name} is a package of {source.kind}: {error.filename} is missing"
        ) from error
    if done.returncode:
        raise RuntimeError(
            f"{source.kind} has no {wanted}, or cannot be reached: {done.stderr.strip()[-500:]}"
        )


def _unpack(file: Path, folder: Path) -> None:
    """Unpack the regular files."""
    if file.suffix == ".deb":
        subprocess.run(["dpkg-deb", "--extract", str(file), str(folder)], check=True)
        return
    # The first part of a path is the package's name and version.
    if file.suffix == ".zip":
        with zipfile.ZipFile(file) as archive:
            for entry in archive.infolist():
                if not entry.is_dir() and (path := _inside(entry.filename, folder)):
                    with archive.open(entry) as content, path.open("wb") as out:
                        shutil.copyfileobj(content, out)
        return
    with tarfile.open(file) as tar:
        for member in tar:
            if member.isreg() and (path := _inside(member.name, folder)):
                content_of = tar.extractfile(member)
                assert content_of is not None
                with path.open("wb") as out:
                    shutil.copyfileobj(content_of, out)


def _inside(name: str, folder: Path) -> Path | None:
    parts = PurePosixPath(name).parts[1:]
    if not parts or ".." in parts:
        return None
    path = folder.joinpath(*parts)
    path.parent.mkdir(parents=True, exist_ok=True)
    return path

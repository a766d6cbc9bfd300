"""How many ordinary files the attachments pipeline refuses wrongly.

    python -m benchmarks.corpus [--store STORE] [--sample N] [--family NAME] [--list FOLDER] [--cache FOLDER]

Thousands of files of other people (`sources.toml`: test images, documents, fonts, sources and so on of
packages of PyPI, npm and Debian, pinned by SHA-256), films and sounds by FFmpeg, archives by zip, 7-Zip,
libarchive and Node's archiver. They are downloaded into a cache outside the repository and go, each once,
through a real worker with real servers: uploaded to the store, inserted as a row, enqueued. A file's declared
type is what a browser would send for its name (`declared.py`). `judgements.toml` says which of them may be
refused, and why; all others must be served.

Prints one line, and to standard error a table of the families.
"""

import argparse
import sys
from pathlib import Path

from benchmarks import _harness as harness
from benchmarks._harness import TINY, Aim, Result
from benchmarks.corpus import cache, corpus, judgements, report
from benchmarks.corpus.feed import STORES, feed, platform, test_program
from benchmarks.corpus.files import sample

#: The samples' seed.
SEED = 1
_TINY_FILES = 40


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.corpus", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument(
        "--cache", type=Path, default=cache.default(), help="where downloads are kept (%(default)s)"
    )
    parser.add_argument("--store", choices=STORES, help="one store only")
    parser.add_argument("--sample", type=int, metavar="N", help="so many of the files, of all families")
    parser.add_argument("--family", help="one family only")
    parser.add_argument(
        "--list", type=Path, metavar="FOLDER", help="write what became of each file to FOLDER/STORE.tsv"
    )
    return parser.parse_args()


def measure(arguments: argparse.Namespace) -> Result:
    """Feed the corpus to the pipeline on each store."""
    files = corpus.gather(arguments.cache, tiny=TINY)
    classes = judgements.load()
    if not TINY:
        for pattern in judgements.unused(classes, [one.key for one in files]):
            sys.stderr.write(f"corpus: no file fits {pattern!r} of judgements.toml\n")
    malware = test_program(files)
    if arguments.family:
        files = [one for one in files if one.family == arguments.family]
    # All families in turn: a run that is broken off has seen something of each.
    files = sample(files, arguments.sample or (_TINY_FILES if TINY else len(files)), SEED)
    lines: list[str] = []
    aims: list[Aim] = []
    for store in [arguments.store] if arguments.store else STORES[:1] if TINY else STORES:
        with platform(store, malware) as made:
            outcomes = feed(made, files, store)
        if arguments.list:
            report.listed(outcomes, classes, arguments.list / f"{store}.tsv")
        counts = report.count(outcomes, classes)
        if not TINY:
            report.show(store, counts)
        lines.append(report.line(store, counts))
        aims += report.aims(store, counts)
    return Result(f"corpus: {'; '.join(lines)}", tuple(aims))


if __name__ == "__main__":
    given = _arguments()
    harness.run(lambda: measure(given))

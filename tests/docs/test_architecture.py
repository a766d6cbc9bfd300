"""docs/architecture.md: the files that it names exist, and import each other as its call trees say."""

import re
from itertools import pairwise

import pytest

from tests import fast
from tests.docs.blocks import ROOT, block, blocks

DOCUMENT = ROOT / "docs/architecture.md"
MODULES = {fast.module_of(path): path for path in fast.sources(ROOT)}
NAMES = {path.relative_to(ROOT).as_posix(): name for name, path in MODULES.items()}
#: A path has at most so many files, and goes back up at most so often.
MOST_FILES, MOST_RETURNS = 10, 2


def tree(name: str) -> list[tuple[int, str]]:
    """Return the depth and the file of each line of a call tree."""
    lines = [re.fullmatch(r"( *)(\S+\.py) +\S.*", line) for line in block(name).splitlines()]
    assert all(lines), f"{name}: a line is not a file and what it does"
    return [(len(line[1]) // 2, line[2]) for line in lines if line]


PATHS = {
    "attachment": tree("path-attachment"),
    "status": tree("path-status"),
    "sweep": tree("path-sweep"),
    "retention": tree("path-retention"),
    "analytics": tree("path-analytics"),
}


def test_every_file_that_is_named_exists() -> None:
    named = set(
        re.findall(r"\b(?:commands|models|stack|tasks|workers)/[\w/]*(?:\.py)?", DOCUMENT.read_text())
    )
    assert named
    assert [name for name in named if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
def test_a_file_imports_those_below_it(path: list[tuple[int, str]]) -> None:
    above: list[str] = []
    for depth, file in path:
        assert depth <= len(above), f"{file} is indented too far"
        del above[depth:]
        if above:
            found = fast.imports(ROOT / above[-1], MODULES)
            assert NAMES[file] in found, f"{above[-1]} does not import {file}"
        above.append(file)


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
def test_a_path_is_short(path: list[tuple[int, str]]) -> None:
    depths = [depth for depth, _ in path]
    assert depths[0] == 0 < min(depths[1:])
    assert len({file for _, file in path}) == len(path) <= MOST_FILES
    returns = sum(later < earlier for earlier, later in pairwise(depths))
    assert returns <= MOST_RETURNS


def test_it_has_one_picture() -> None:
    found = [each for each in blocks() if each.place.startswith("docs/architecture.md")]
    assert [each.language for each in found].count("mermaid") == 1

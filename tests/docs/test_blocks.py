"""Every code block of README.md and docs/ is run by a test, parsed by the command line, or a sketch."""

import re
import shlex
from collections import Counter
from pathlib import Path

import pytest
import yaml
from typer.exceptions import TyperException

from commands.main import ENTRIES
from tests.docs.blocks import DOCUMENTS, ROOT, SKETCH, Block, block, blocks
from workers.settings import load

SHELL = [each for each in blocks() if each.language == "sh" and not each.name]
NAMED = [each for each in blocks() if each.name not in {"", SKETCH}]
#: What shell blocks may do beside calling `roomkeeper` and `make` and exporting settings.
OTHER_COMMANDS = {". .roomkeeper/run/env"}
VARIABLES = {"$ID": "0b0f7a1e-2f0c-4c6e-9f0a-8d9a1b2c3d4e", "$HASH": "0" * 64}
MINIMUM = {"DATABASE_URL": "postgresql://127.0.0.1/chat"}


def test_every_fence_is_read() -> None:
    for document in DOCUMENTS:
        fences = len(re.findall(r"^\s*```", document.read_text(), re.MULTILINE))
        found = [each for each in blocks() if each.place.startswith(f"{document.relative_to(ROOT)}:")]
        assert 2 * len(found) == fences, f"{document.name} has a fence that is indented or not closed"


@pytest.mark.parametrize("each", blocks(), ids=lambda each: each.place)
def test_a_block_is_run_or_marked_as_a_sketch(each: Block) -> None:
    if each.language in {"sh", "mermaid"}:
        return
    assert each.name, "write <!-- run: NAME --> before it and a test that runs it, or <!-- sketch -->"


def test_every_named_block_is_fetched_by_a_test() -> None:
    assert max(Counter(each.name for each in NAMED).values()) == 1, "two blocks have the same name"
    # This file's own pattern is none.
    tests = "\n".join(path.read_text() for path in ROOT.glob("tests/**/test_*.py"))
    fetched = set(re.findall(r'\b(?:block|statements|tree)\(\s*"([\w-]+)"', tests))
    assert {each.name for each in NAMED} == fetched


@pytest.mark.parametrize("each", SHELL, ids=lambda each: each.place)
def test_shell_commands_exist_with_these_arguments(each: Block) -> None:
    for line in each.text.replace("\\\n", " ").splitlines():
        for command in _commands(line):
            _check(command)


def _commands(line: str) -> list[list[str]]:
    """Return the words of each command of a line, without comments, and with variables replaced."""
    found: list[list[str]] = [[]]
    lexer = shlex.shlex(line, posix=True, punctuation_chars=";")
    lexer.whitespace_split = True
    for word in lexer:
        if word == ";":
            found.append([])
        else:
            found[-1].append(VARIABLES.get(word, word))
    return [words for words in found if words]


def _check(words: list[str]) -> None:
    match words:
        case ["roomkeeper" | ".venv/bin/roomkeeper", name, *arguments]:
            _parse(name, arguments)
        case ["make", target]:
            assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE), target
        case ["export", setting]:
            variable, _, value = setting.partition("=")
            load(MINIMUM | {variable: value})
        case _:
            assert shlex.join(words) in OTHER_COMMANDS, f"mark as a sketch: {shlex.join(words)}"


def _parse(name: str, arguments: list[str]) -> None:
    """Parse arguments as the command line would, and run nothing; wrong ones raise its usage error."""
    command = ENTRIES[name].load(name)
    while hasattr(command, "commands"):
        name, *arguments = arguments
        command = command.commands[name]
    command.make_context(name, arguments)


@pytest.mark.parametrize(
    "line",
    [
        "roomkeeper check --strictly",
        "roomkeeper hold ad",
        "roomkeeper run",
        "roomkeeper attachments show x y",
    ],
)
def test_what_the_command_line_refuses_is_noticed(line: str) -> None:
    with pytest.raises((TyperException, KeyError)):
        _check(shlex.split(line))


def test_alerts_are_on_metrics_that_exist() -> None:
    known = set(
        re.findall(r"^\| `(roomkeeper_\w+)`", (ROOT / "docs/operations.md").read_text(), re.MULTILINE)
    )
    rules = [rule for group in yaml.safe_load(block("prometheus-rules"))["groups"] for rule in group["rules"]]
    assert rules
    for rule in rules:
        assert set(re.findall(r"roomkeeper_\w+", rule["expr"])) <= known


def test_links_lead_somewhere() -> None:
    for document in [*DOCUMENTS, ROOT / "CONTRIBUTING.md"]:
        for link in re.findall(r"\]\(([^)\s]+)\)", document.read_text()):
            if re.match(r"\w+:", link):
                continue
            path, _, anchor = link.partition("#")
            target = (document.parent / path).resolve() if path else document
            assert target.exists(), f"{document.name}: {link}"
            if anchor:
                assert anchor in _anchors(target), f"{document.name}: {link}"


def _anchors(document: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", document.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_document_is_linked() -> None:
    readme = (ROOT / "README.md").read_text()
    for document in (ROOT / "docs").glob("*.md"):
        assert f"docs/{document.name}" in readme, f"README.md has no link to {document.name}"

"""Names and words are those of the field: what was renamed does not come back."""

import ast
import re
import tokenize
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CODE = ("beat_schedule.py", "benchmarks", "commands", "models", "roomkeeper", "stack", "tasks", "workers")

#: Identifiers that are gone, and what is called instead.
IDENTIFIERS = {
    "Goes": "Cascade",
    "Stays": "Restrict",
    "Changes": "SetValues",
    "Along": "Related",
    "Stopped": "ApprovalRequired",
    "Retiring": "RetentionBatches",
    "Doomed": "PendingDeletion",
    "DoomedObject": "PendingDeletion",
    "Desk": "AttemptContext",
    "Story": "EventLog",
    "_Judge": "_PolicyMatch",
    "_Sheet": "_PartitionQuery",
    "Asked": "TableFacts",
    "Jailed": "SandboxFailure",
    "Ledger": "JobHistory",
    "Position": "Checkpoint",
    "SweepPosition": "SweepCheckpoint",
    "Mirror": "AppColumns",
    "conclude": "commit_outcome",
    "Standing": "RollupStatus",
    "untold": "emit_failed",
    "address_expires_at": "url_expires_at",
    "renew_addresses": "renew_urls",
    "surveyed_at": "daily_snapshot_at",
    "revisited_at": "recomputed_at",
}
#: No variable, parameter, attribute, function or class is called so: what it holds has a noun.
PRONOUNS = {
    "desk", "doomed", "figures", "gone", "hers", "him", "his", "its", "mine", "nobody", "ours", "said",
    "somebody", "theirs", "told", "twin", "twins", "whoever",
}  # fmt: skip
#: Nor has any of these as one of its words.
NEVER = {"desk", "doomed", "figures", "nobody", "somebody", "told", "twin", "twins", "whoever"}
#: Fields of records that are gone: as a keyword of the record's name, and what is given instead.
FIELDS = {
    "then": "action",
    "guard": "where",
    "quick": "indexed",
    "walk": "full_pass_every",
    "along": "related",
    "parent": "lock_first",
    "settle": "grace",
    "revisit": "recompute_for",
    "observe": "snapshot",
    "survey": "daily_snapshot",
    "zeros": "empty_values",
    "feeds": "source_tables",
}
RECORDS = {"Sweep", "Retention", "Rollup", "Related", "replace"}
#: Modules that are gone.
MODULES = (
    "tasks/engines",
    "tasks/partitions",
    "tasks/brake.py",
    "tasks/live.py",
    "tasks/cleanup.py",
    "workers/jail.py",
    "workers/ledger.py",
    "tests/living",
    "stack/aged.py",
    "stack/ephemeral.py",
)
#: What no sentence says any more: in comments, docstrings, messages, documents, and on the command line.
PHRASES = {
    r"\bperiodic twins?\b": "recovery job",
    r"\bbrakes?\b": "safety limit",
    r"\bdoomed\b": "pending deletion",
    r"\bin good hands\b": "leased by a live worker",
    r"\bcan not\b": "cannot",
    r"\b([Ss]ome|[Nn]o)body\b|\b[Ww]hoever\b": "the user, no worker, the caller",
    r"\bjails?\b": "sandbox",
    r"\bstrangers' (bytes|files)\b": "untrusted input",
    r"\b[Tt]he ledger\b": "the job history",
    r"\bparked\b": "failed",
    r"\blive\.untold\b": "socketio.emit_failed",
    r"\b(addresses|rescan|audit|delivery)\.put_off\b": "….postponed",
    r"\bledger\.not_written\b": "job_history.not_written",
    r"\btask\.again_later\b": "task.postponed",
    r"\brollup\.not_surveyed\b": "rollup.daily_snapshot_failed",
}
#: Those whose errors docstrings name.
PACKAGES = {"av"}
#: Files of others, and ones that a reader is to write.
NOT_OURS = {"sixth.py"}
#: What tells of the past is left as it was.
HISTORY = {"CHANGELOG.md"}


def sources() -> Iterator[Path]:
    for name in CODE:
        path = ROOT / name
        yield from [path] if path.is_file() else path.rglob("*.py")


@cache
def texts() -> tuple[tuple[Path, int, str], ...]:
    """Return each piece of prose with its file and line."""
    return tuple(_texts())


def _texts() -> Iterator[tuple[Path, int, str]]:
    for path in sources():
        with path.open("rb") as file:
            for token in tokenize.tokenize(file.readline):
                if token.type in {tokenize.STRING, tokenize.COMMENT}:
                    yield path, token.start[0], token.string
    documents = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    for path in [*documents, *(ROOT / "tests" / "commands" / "__snapshots__").glob("*.ambr")]:
        if path.name not in HISTORY:
            for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
                yield path, number, line


def names(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield every identifier with its line."""
    for node in ast.walk(tree):
        line = getattr(node, "lineno", 0)
        if isinstance(node, ast.Name):
            yield line, node.id
        elif isinstance(node, ast.Attribute):
            yield line, node.attr
        elif isinstance(node, ast.ClassDef | ast.FunctionDef):
            yield line, node.name
        elif isinstance(node, ast.arg):
            yield line, node.arg
        elif isinstance(node, ast.alias):
            yield line, node.asname or node.name


def fields(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield every keyword that a record is made with."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in RECORDS:
            yield from ((word.value.lineno, word.arg) for word in node.keywords if word.arg)


def found(old: dict[str, str], look: Callable[[ast.AST], Iterator[tuple[int, str]]]) -> list[str]:
    """Return each place where `look` finds an old name, with the name to use instead."""
    return [
        f"{path.relative_to(ROOT)}:{line}: {name}; call it {old[name]}"
        for path in sources()
        for line, name in look(ast.parse(path.read_text(encoding="utf-8")))
        if name in old
    ]


def test_no_identifier_has_its_old_name() -> None:
    assert found(IDENTIFIERS, names) == []


def test_variables_are_called_by_what_they_hold() -> None:
    assert [
        f"{path.relative_to(ROOT)}:{line}: {name}"
        for path in [*sources(), *(ROOT / "tests").rglob("*.py")]
        for line, name in names(ast.parse(path.read_text(encoding="utf-8")))
        if not name.startswith("test_")
        if (word := name.strip("_").lower()) in PRONOUNS or not NEVER.isdisjoint(word.split("_"))
    ] == []


def test_no_field_of_a_record_has_its_old_name() -> None:
    assert found(FIELDS, fields) == []


@pytest.mark.parametrize("path", MODULES)
def test_no_module_has_its_old_name(path: str) -> None:
    # Of a folder that was left, compiled modules may still lie about.
    assert not [file for file in (ROOT / path, *(ROOT / path).rglob("*.py")) if file.is_file()]


@pytest.mark.parametrize("phrase", PHRASES)
def test_no_sentence_has_an_old_word(phrase: str) -> None:
    assert [
        f"{path.relative_to(ROOT)}:{line}: say {PHRASES[phrase]!r}"
        for path, line, text in texts()
        if re.search(phrase, text)
    ] == []


def test_errors_that_docstrings_name_are_there() -> None:
    """`module.SomeError`: the module is one of ours that defines or imports it, or a package's."""
    modules = {path.stem: path.read_text(encoding="utf-8") for path in sources()}
    assert [
        f"{path.relative_to(ROOT)}:{line}: there is no {module}.{name}"
        for path, line, text in texts()
        for module, name in re.findall(r"(?<![\w.])([a-z_]+)\.([A-Z]\w*Error)\b", text)
        if name not in modules.get(module, "") and module not in PACKAGES
    ] == []


def test_files_that_sentences_name_are_there() -> None:
    there = {path.name for path in ROOT.rglob("*.py") if ".venv" not in path.parts}
    assert [
        f"{path.relative_to(ROOT)}:{line}: there is no {name}"
        for path, line, text in texts()
        for name in re.findall(r"\b[a-z_0-9]+\.py\b", text)
        if name not in there | NOT_OURS
    ] == []

"""Mutants: small faults, each of which breaks one rule of the platform, and the tests that notice it."""

import ast
import re
import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

LIST = Path(__file__).with_name("mutants.toml")
_TOKEN = re.compile(r"\w+|[^\w\s]")


class MutantError(Exception):
    """A mutant does not fit the code. The message names it, and says what is wrong."""


@dataclass(frozen=True, slots=True)
class Mutant:
    """One fault.

    Attributes:
        name: in small letters, with hyphens.
        rule: the rule that it breaks, in a sentence.
        file: the source file, from the root of the repository.
        old: a snippet of that file that occurs once; white space and trailing commas do not count.
        new: what stands in its place, indented as that is.
        tests: those that are to fail, as pytest's node ids.
    """

    name: str
    rule: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]

    def applied(self, source: str) -> str:
        """Return the source with the fault in it.

        Raises:
            MutantError: the old snippet does not occur exactly once, or the result is no Python.
        """
        found = list(_pattern(self.old).finditer(source))
        if len(found) != 1:
            raise MutantError(
                f"{self.name}: its old snippet occurs {len(found)} times in {self.file}, not once"
            )
        start, end = found[0].span()
        mutated = source[:start] + _indented(self.new, source, start) + source[end:]
        if self.file.endswith(".py"):
            try:
                compile(mutated, self.file, "exec")
            except SyntaxError as error:
                raise MutantError(f"{self.name}: {self.file} does not compile with it: {error}") from error
        if _TOKEN.findall(self.new) == _TOKEN.findall(self.old):
            raise MutantError(f"{self.name}: it changes nothing")
        return mutated


def load() -> list[Mutant]:
    """Return all mutants, in the order of the list."""
    entries = tomllib.loads(LIST.read_text("utf-8"))["mutant"]
    return [Mutant(**entry | {"tests": tuple(entry["tests"])}) for entry in entries]


def missing_tests(root: Path, mutant: Mutant) -> list[str]:
    """Return those of the mutant's tests that are not there. Parameters in brackets are not looked at."""
    return [test for test in mutant.tests if not _exists(root, test)]


def _exists(root: Path, test: str) -> bool:
    path, _, name = test.partition("[")[0].partition("::")
    file = root / path
    return file.is_file() and (not name or name in _functions(file))


@cache
def _functions(file: Path) -> frozenset[str]:
    body = ast.parse(file.read_text("utf-8")).body
    return frozenset(node.name for node in body if isinstance(node, ast.FunctionDef))


def _indented(new: str, source: str, at: int) -> str:
    """Return the lines that are to stand at a place, indented as what is there."""
    lines = new.strip("\n").splitlines()
    if not lines:
        return new
    line = source[source.rfind("\n", 0, at) + 1 : at]
    more = len(line) - len(line.lstrip()) - (len(lines[0]) - len(lines[0].lstrip()))
    rest = [" " * (more + len(one) - len(one.lstrip())) + one.lstrip() for one in lines[1:]]
    return "\n".join([lines[0].lstrip(), *rest])


def _pattern(snippet: str) -> re.Pattern[str]:
    """Return a pattern of the snippet, however it is formatted."""
    tokens = _TOKEN.findall(snippet)
    parts: list[str] = []
    for before, token, after in zip(["", *tokens], tokens, [*tokens[1:], ""], strict=False):
        if token == "," and after in {")", "]", "}"}:
            continue
        if token in {")", "]", "}"}:
            parts.append(r"\s*,?")
        words = _is_word(before) and _is_word(token)
        parts.append((r"\s+" if words else r"\s*" if before else "") + re.escape(token))
    # A snippet that begins or ends with a word does not begin or end within one.
    head = r"(?<!\w)" if tokens and _is_word(tokens[0]) else ""
    tail = r"(?!\w)" if tokens and _is_word(tokens[-1]) else ""
    return re.compile(head + "".join(parts) + tail)


def _is_word(token: str) -> bool:
    return bool(token) and (token[0].isalnum() or token[0] == "_")

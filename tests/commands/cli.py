"""The `roomkeeper` command in this process, where one of its own would only take seconds."""

import io
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from datetime import UTC, date, datetime

from commands.main import main
from tests.platform import Platform, environment

#: What differs from run to run, and what a snapshot has instead.
_VOLATILE = (
    (r"/[\w/.-]*pytest-of-[^/\s]+/pytest-\d+/(?:popen-gw\d+/)?\w+", "<folder>"),
    (r"127\.0\.0\.1:\d+", "127.0.0.1:<port>"),
    (r"\bport \d+", "port <port>"),
    (r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", "<uuid>"),
    (r"\b[0-9a-f]{64}\b", "<hash>"),
    (r"\b[\d,]+\.\d s\b", "<seconds> s"),
)
_DAY = r"\d{4}-\d\d-\d\d"
_TIME = rf"\b{_DAY}[ T]\d\d:\d\d(?::\d\d(?:\.\d+)?(?:\+00:00)?)?"


@dataclass(frozen=True)
class Outcome:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def faults(self) -> list[tuple[str, str]]:
        """What it complains of: each fault's sentence and advice."""
        lines = (self.out + self.err).splitlines()
        return [
            (line.removeprefix("✗ "), advice.strip())
            for line, advice in zip(lines, [*lines[1:], ""], strict=True)
            if line.startswith("✗ ")
        ]


def stable(output: Outcome | str, **known: object) -> str:
    """Return what was printed as it is printed in every run, for a snapshot.

    Folders of tests, ports, UUIDs, hashes and durations are replaced. What the test knows goes by its name:
    `stable(outcome, writer=key)` has `<writer>` in place of that key.
    """
    text = output if isinstance(output, str) else output.out + output.err
    for name, value in sorted(known.items(), key=lambda one: len(str(one[1])), reverse=True):
        text = text.replace(str(value), f"<{name.replace('_', ' ')}>")
    for pattern, instead in _VOLATILE:
        text = re.sub(pattern, instead, text)
    return text


def timeless(text: str) -> str:
    """Replace each date with a time of day."""
    return re.sub(_TIME, "<time>", text)


def relative(text: str) -> str:
    """Replace each date by its distance from today, in UTC: `<today - 3>`."""
    return re.sub(rf"\b{_DAY}", lambda found: _distance(date.fromisoformat(found[0])), text)


def _distance(day: date) -> str:
    days = (day - datetime.now(UTC).date()).days
    return f"<today {'+' if days > 0 else '-'} {abs(days)}>" if days else "<today>"


def refused(outcome: Outcome, *names: str, **known: object) -> str:
    """Return the sentence of a command that did nothing else, for a snapshot; these names are in it."""
    assert (outcome.code, outcome.out) == (1, "")
    (sentence,) = outcome.err.splitlines()
    for name in names:
        assert name in sentence
    return stable(sentence, **known)


def roomkeeper(*arguments: str) -> Outcome:
    """Run `roomkeeper ARGUMENTS` with this process's environment. An exception that it lets through fails."""
    out, err = io.StringIO(), io.StringIO()
    code = 0
    with _arguments(arguments), redirect_stdout(out), redirect_stderr(err):
        try:
            main()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(bool(end.code))
    return Outcome(code, out.getvalue(), err.getvalue())


def on(platform: Platform, *arguments: str) -> Outcome:
    """Run `roomkeeper ARGUMENTS` with the platform's settings as they are now."""
    names = ("DATABASE_URL", "ROOMKEEPER_")
    own_settings = {name: value for name, value in platform.environment.items() if name.startswith(names)}
    with environment(own_settings):
        return roomkeeper(*arguments)


@contextmanager
def _arguments(arguments: tuple[str, ...]) -> Iterator[None]:
    before = sys.argv
    sys.argv = ["roomkeeper", *arguments]
    try:
        yield
    finally:
        sys.argv = before

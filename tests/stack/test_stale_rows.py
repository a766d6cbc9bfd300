"""The stale rows that the local stack feeds: some for each policy, swept when they are due, not before."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from commands import check_retention
from commands import stack as command
from models.echoroom import TypingIndicator
from stack.demo import settings as demo_settings
from stack.demo.rollups import RollupDemo
from stack.demo.rows import SOON
from stack.demo.stale_rows import FEEDS, Ephemera
from tasks.analytics import task as analytics
from tasks.apps import APPS, POLICIES, ROLLUPS, every, policies, rollups
from tasks.policies.retention import Retention
from tasks.retention import task as retention
from tasks.sweeps import task as cleanup
from tests.platform import Platform, environment
from tests.sweeps.sweeping import rows
from workers.db import clock
from workers.settings import load

pytestmark = pytest.mark.system

#: The job history has rows enough of its own.
NAMES = [name for name in POLICIES if name != "roomkeeper.runs"]
RETAINED = [name for name, policy in POLICIES.items() if isinstance(policy, Retention)]
#: What is due without waiting: it is wrong, not old.
AT_ONCE = {
    "echoroom.counts",
    "connect.chat_rooms",
    "audiorooms.stays",
    "audiorooms.duplicates",
    "audiorooms.backwards",
}


@pytest.fixture(autouse=True)
def with_periods(platform: Platform) -> None:
    """As the stack has it: every policy runs, what it takes is archived, and what is old has been counted."""
    platform.set(
        retention_days=demo_settings.IMPATIENT["ROOMKEEPER_RETENTION_DAYS"],
        archive_root=platform.folder / "archive",
    )
    RollupDemo().furnish(platform.settings)


def sweep(platform: Platform, now: datetime, names: Sequence[str] = NAMES) -> None:
    for name in names:
        policy = POLICIES[name]
        if isinstance(policy, Retention):
            assert retention.run(policy, platform.settings, now=now) is not None
        else:
            assert cleanup.run(policy, platform.settings, now=now) is not None


def swept(ephemera: Ephemera) -> set[str]:
    return {effect.case.policy.name for effect in ephemera.look()}


def test_there_are_rows_for_every_policy() -> None:
    assert sorted(FEEDS) == sorted(NAMES), "feed stale rows for it in stack/demo/stale_rows.py"


@pytest.mark.parametrize("names", [NAMES, NAMES[::-1]], ids=["forth", "back"])
def test_they_are_swept_and_others_stay(platform: Platform, names: list[str]) -> None:
    ephemera = Ephemera(platform.engine, platform.settings)
    assert ephemera.feed() == len(NAMES)
    assert all(case.rows >= 1 and case.fed.stays for case in ephemera.waiting)
    for name in names:
        sweep(platform, clock() + SOON, [name])
        # By its own policy, and by none of those before it: or one that does nothing would pass.
        assert swept(ephemera) == {name}
    assert ephemera.waiting == []
    assert ephemera.harmed() == []
    # Each is told once.
    assert ephemera.look() == []


def test_nothing_is_swept_before_it_is_due(platform: Platform) -> None:
    ephemera = Ephemera(platform.engine, platform.settings)
    before = clock()
    ephemera.feed()
    sweep(platform, before)
    assert swept(ephemera) == AT_ONCE
    for case in ephemera.waiting:
        assert timedelta(0) < case.fed.due_at - before
    assert ephemera.harmed() == []


def test_it_is_told_how_late_they_were_swept(platform: Platform) -> None:
    platform.set(apps="echoroom")
    ephemera = Ephemera(platform.engine, platform.settings)
    began = clock()
    ephemera.feed()
    sweep(platform, clock() + SOON)
    for effect in ephemera.look():
        late = effect.seconds + (0 if effect.case.policy.name in AT_ONCE else SOON.total_seconds())
        assert 0 < late < (clock() - began).total_seconds() + 1


def test_rows_of_an_earlier_time_are_in_nobodys_way(platform: Platform) -> None:
    for _ in range(2):
        ephemera = Ephemera(platform.engine, platform.settings)
        ephemera.feed()
        before = ephemera.verified().receipts
        sweep(platform, clock() + SOON)
        effects = ephemera.look()
        assert {effect.case.policy.name for effect in effects} == set(NAMES)
        # Each has its own, and not one of those of the time before.
        numbers = [effect.receipt for effect in effects if effect.receipt is not None]
        assert len(set(numbers)) == len(RETAINED)
        assert min(numbers) > before
        assert ephemera.harmed() == []


def test_only_what_runs_is_fed(platform: Platform) -> None:
    platform.set(apps="connect,pern", sweep_off="pern.keys")
    ephemera = Ephemera(platform.engine, platform.settings)
    ephemera.feed()
    fed = {case.policy.name for case in ephemera.waiting}
    assert fed == {name for name in NAMES if name.startswith(("connect.", "pern.", "roomkeeper."))} - {
        "pern.keys"
    }


def test_a_period_that_is_set_holds(platform: Platform) -> None:
    platform.set(apps="echoroom", sweep_after="echoroom.ghosts=86400")
    ephemera = Ephemera(platform.engine, platform.settings)
    ephemera.feed()
    sweep(platform, clock() + SOON, ["echoroom.ghosts"])
    assert swept(ephemera) == {"echoroom.ghosts"}


def test_the_stack_runs_every_policy_and_rollup_every_few_seconds() -> None:
    settings = load({"DATABASE_URL": "postgresql://h/d"} | demo_settings.IMPATIENT)
    assert policies(settings).keys() == POLICIES.keys()
    assert {every(one, settings) for one in ROLLUPS.values()} == {
        timedelta(seconds=demo_settings.ROLLUP_SECONDS)
    }
    # As `roomkeeper check` wants it.
    assert not [fault for fault in check_retention.faults(settings) if "archive" not in fault.sentence]
    assert {every(POLICIES[name], settings) for name in NAMES} == {
        timedelta(seconds=demo_settings.SWEEP_SECONDS)
    }
    assert 1 <= demo_settings.SWEEP_SECONDS <= 5
    assert demo_settings.SWEEP_SECONDS <= demo_settings.ROLLUP_SECONDS <= 10


# -- what is said of them --------------------------------------------------------------------------------


class Group:
    """Stands for the group of programs: at the first wait, what is not left out runs, rollups before."""

    def __init__(
        self,
        platform: Platform,
        names: Sequence[str] = NAMES,
        harm: str = "",
        after: str = "",
        rolled: Sequence[str] = tuple(ROLLUPS),
    ) -> None:
        self.settings = platform.settings
        self.addresses = {"database": "here"}
        self.logs = Path("logs")
        self._platform = platform
        self._names = names
        self._rollups = [one for name, one in rollups(platform.settings).items() if name in rolled]
        self._harm = harm
        self._after = after

    def wait(self, seconds: float) -> None:
        if self._harm:
            self._platform.sql(self._harm)
        for rollup in self._rollups:
            assert analytics.run(rollup, self._platform.settings) is not None
        sweep(self._platform, clock() + SOON, self._names)
        self._rollups, self._names = [], ()
        if self._after:
            self._platform.sql(self._after)


@contextmanager
def showing(
    platform: Platform, monkeypatch: pytest.MonkeyPatch, patience_seconds: int = 60
) -> Iterator[None]:
    # Files need more servers; `make demo` shows them.
    monkeypatch.setattr("stack.demo.samples.SAMPLES", ())
    monkeypatch.setattr(command, "PATIENCE_SECONDS", patience_seconds)
    platform.set(s3_bucket="unused", s3_region="us-east-1", s3_access_key="x", s3_secret_key="x")
    own_settings = {
        k: v for k, v in platform.environment.items() if k.startswith(("ROOMKEEPER_", "DATABASE_URL"))
    }
    with environment(own_settings):
        yield


def shown(
    group: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> tuple[bool, str]:
    monkeypatch.setattr(command.console, "_file", None)
    right = command._show(group, RollupDemo())
    return right, capsys.readouterr().out


def test_each_effect_is_said(
    platform: Platform, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with showing(platform, monkeypatch):
        right, output = shown(Group(platform, NAMES), capsys, monkeypatch)
    assert right
    for name in NAMES:
        receipt = r", receipt \d+" if name in RETAINED else ""
        assert re.search(rf"^✓ {name}: 1 row, \S+ s after it was due{receipt} \(", output, re.MULTILINE)
    ((last,),) = platform.sql("SELECT hash FROM roomkeeper.receipts ORDER BY number DESC LIMIT 1")
    assert f"✓ {len(RETAINED)} receipts, all as written; the last: {last}\n" in output
    assert f"the rows of {len(NAMES)} of {len(NAMES)} policies swept" in output
    for name, rollup in ROLLUPS.items():
        assert re.search(
            rf"^✓ {name}: \d+ .*, \d+ (days?|hours?) \(in {rollup.table.fullname}\)$", output, re.M
        )
    assert f"\n{len(ROLLUPS)} of {len(ROLLUPS)} rollups have run, and have their statistics. " in output
    assert f"roomkeeper report APP --html FILE (APP: {', '.join(APPS)})\n" in output


def test_what_is_not_swept_is_wrong(
    platform: Platform, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with showing(platform, monkeypatch, patience_seconds=5):
        right, output = shown(Group(platform, NAMES[1:]), capsys, monkeypatch)
    assert not right
    assert re.search(rf"^✗ {NAMES[0]}: not in \d+ s: a user stops typing without sending$", output, re.M)
    assert re.search(rf"^waiting for {NAMES[0]}, \d+ s so far\.$", output, re.M)


def test_a_rollup_without_its_figures_is_wrong(
    platform: Platform, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with showing(platform, monkeypatch, patience_seconds=5):
        right, output = shown(Group(platform, rolled=[*ROLLUPS][:-1]), capsys, monkeypatch)
    assert not right
    assert re.search(rf"^✗ {[*ROLLUPS][-1]}: its statistics are not there in \d+ s\.$", output, re.M)


@pytest.mark.parametrize(
    ("harm", "sentence"),
    [
        # As if rows without a receipt had been deleted by another program.
        (
            "DELETE FROM roomkeeper.receipts",
            "✗ pern.audit_info: 1 row, .* s after it was due, without a receipt",
        ),
        ("UPDATE roomkeeper.receipts SET rows = 7", "✗ Receipt 1 is not what was written."),
    ],
)
def test_what_is_not_proven_is_wrong(
    platform: Platform,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    harm: str,
    sentence: str,
) -> None:
    platform.set(apps="pern")
    platform.sql("ALTER TABLE roomkeeper.receipts DISABLE TRIGGER ALL")
    names = [name for name in NAMES if name.startswith(("pern.", "roomkeeper."))]
    with showing(platform, monkeypatch):
        right, output = shown(Group(platform, names, after=harm), capsys, monkeypatch)
    assert not right
    assert re.search(sentence, output)


def test_what_had_to_stay_and_did_not_is_wrong(
    platform: Platform, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with showing(platform, monkeypatch):
        harm = "DELETE FROM echoroom.typing_indicators"
        right, output = shown(Group(platform, NAMES, harm), capsys, monkeypatch)
    assert rows(platform, TypingIndicator) == {}
    assert not right
    assert "✗ echoroom.typing: a row that had to stay was changed." in output

"""The rules that hold for every policy, whatever it sweeps: one scenario, one run, one more.

Times and NULLs decide as the example says, to the microsecond. What a run takes is what was counted before;
nothing else in the whole database changes, and a second run changes nothing. Rows that retention takes come
back from the archive as they were.
"""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import select

from models.platform import Receipt
from tasks.apps import after
from tasks.policies.columns import model_of, parts_of
from tasks.policies.retention import Cascade, Restrict, Retention, SetValues
from tasks.policies.sweep import AFTER, NOW, Sweep
from tasks.retention import receipts
from tasks.retention import task as retention
from tasks.retention.preview import preview
from tasks.retention.restore import restore
from tasks.sweeps import task as cleanup
from tasks.sweeps.eligible_rows import eligible, samples
from tasks.sweeps.engine import SweepProgress
from tasks.sweeps.index_shapes import first_columns, served
from tasks.sweeps.statements import key_of
from tests.contract.example import Example, case
from tests.contract.scenario import Database, Scenario, build, column_of, period_of, snapshot
from tests.platform import Platform
from tests.sweeps.sweeping import NOW as MOMENT
from tests.sweeps.sweeping import close_rollups

#: Tables of ours in which every run leaves something.
_RUN_TABLES = {
    "roomkeeper.job_runs",
    "roomkeeper.sweep_checkpoints",
    "roomkeeper.rollups",
    "roomkeeper.future_timestamps",
    "roomkeeper.receipts",
    "roomkeeper.deletion_events",
    "roomkeeper.pern_facts",
    "roomkeeper.attachment_facts",
}
_MOST = 1_000


def check_complete(policy: Sweep, example: Example) -> None:
    """Fail if an example does not say all that the contract must know; AssertionError names what."""
    missing = "; ".join(sorted(_forgotten(policy, example)))
    assert not missing, f"The Example of {policy.name} is not complete: {missing}."


def check_indexed(policy: Sweep) -> None:
    """Fail if no index of the models serves a policy; AssertionError says what to do."""
    faults = "; ".join(_unindexed(policy))
    assert not faults, f"{policy.name}: {faults}."


def _unindexed(policy: Sweep) -> Iterator[str]:
    table = policy.table
    advice = (
        f"Compare the first column of one of the table's indexes ({', '.join(first_columns(table))}) in it "
        "with NOW or with plain values"
    )
    if policy.indexed is not None and not served(policy.indexed, table):
        yield f"no index of {table.fullname} serves `indexed`. {advice}"
    if policy.full_pass_every is None and not served(policy.due, table):
        yield (
            f"no index of {table.fullname} serves `due`. {advice}, or say in `full_pass_every` in how long "
            "the table is to be looked through"
        )


def _forgotten(policy: Sweep, example: Example) -> Iterator[str]:
    nulls = {column_of(column) for column in (*example.null_due, *example.null_stays)}
    for given in (*example.due, *example.stays):
        nulls |= {column_of(column) for column, value in case(given).values.items() if value is None}
    for column in parts_of(policy.due):
        nullable = getattr(column, "table", None) is policy.table and column.nullable
        if nullable and column not in nulls:
            yield f"say in null_due or null_stays what NULL in {column} means"
    decides = any(part is NOW or part is AFTER for part in parts_of(policy.due))
    if decides and not (example.limits or example.timeless):
        yield "name in limits the time that decides"
    if not isinstance(policy, Retention):
        return
    ways = {
        Cascade: {row.by for row in example.related if row.deleted},
        SetValues: {row.by for row in example.related if not row.deleted},
        Restrict: {row.by for row in example.protected_by},
    }
    for one in policy.refers:
        if one.by not in ways[type(one)]:
            yield f"give a row that refers by {one.by}, with what becomes of it"
    named = {(entity, column) for entity, columns in example.held.items() for column in columns}
    for model in (policy.model, *(model_of(path[-1].by) for path in policy.cascade_paths())):
        for entity, owners in policy.owners[model].items():
            for owner in owners:
                if hasattr(owner, "property") and (entity, owner) not in named:
                    yield f"name {owner} in held: a hold on its {entity} keeps the row"


def sweep_keeps_contract(platform: Platform, policy: Sweep, example: Example) -> None:
    """Test a sweep: AssertionError says in what it breaks the contract."""

    def run(by_hand: bool) -> SweepProgress | None:
        return cleanup.run(policy, platform.settings, now=MOMENT, by_hand=by_hand)

    close_rollups(platform)
    _test(platform, build(platform, policy, example), run)


def retention_keeps_contract(platform: Platform, policy: Retention, example: Example) -> None:
    """Test a retention policy, with its archive: AssertionError says in what it breaks the contract."""

    def run(by_hand: bool) -> SweepProgress | None:
        return retention.run(policy, platform.settings, now=MOMENT, by_hand=by_hand)

    close_rollups(platform)
    platform.set(archive_root=platform.folder / "archive")
    if policy.off_until_set:
        period = period_of(policy, example)
        platform.set(retention_days=f"{policy.name}={period.days}")
    earlier = _receipts(platform)
    scenario = build(platform, policy, example)
    foreseen = preview(policy, platform.settings, now=MOMENT)
    assert (foreseen.rows, foreseen.held) == (len(scenario.keys(due=True)), scenario.on_hold), (
        f"{policy.name}: its preview counts {foreseen.rows} rows that go and {foreseen.held} on hold"
    )
    before = _test(platform, scenario, run)
    with platform.engine.begin() as connection:
        verified = receipts.verify(connection)
    written = [number for number in _receipts(platform) if number not in earlier]
    assert (verified.faults, verified.receipts) == ([], len(earlier) + len(written))
    assert written, f"{policy.name}: rows have gone without a receipt"
    if policy.archive:
        for number in written:
            restore(number, platform.settings, operator="ada", reason="a test")
        _same(scenario, before, snapshot(platform), "what is restored is not what was taken")


def _receipts(platform: Platform) -> list[int]:
    """Return the numbers of all receipts, the latest first."""
    with platform.engine.begin() as connection:
        return list(connection.execute(select(Receipt.number).order_by(Receipt.number.desc())).scalars())


def _test(platform: Platform, scenario: Scenario, run: Callable[[bool], SweepProgress | None]) -> Database:
    """Run it twice; return the database as it was before."""
    policy, due = scenario.policy, scenario.keys(due=True)
    before = snapshot(platform)
    _by_index(platform, scenario)
    # Counted and named before: what operators look at.
    counted = eligible(policy, platform.settings, _MOST, now=MOMENT)
    named = set(samples(policy, platform.settings, _MOST, now=MOMENT))
    began = datetime.now(UTC)
    done = run(False)
    ended = datetime.now(UTC)
    after_run = snapshot(platform)
    expected = scenario.expected(before)
    _fates(scenario, expected, after_run)
    for table, key, column in scenario.stamps:
        stamp = after_run[table][key][column]
        aware = stamp if stamp.tzinfo else stamp.replace(tzinfo=UTC)
        assert began <= aware <= ended, f"{policy.name}: {table}.{column} is {stamp}"
    _same(scenario, expected, after_run, "a run leaves other rows than it should")
    assert done is not None, "another run is under way"
    assert (done.rows, done.remaining, done.error) == (len(due), 0, None), done
    assert counted == len(due), f"{policy.name}: {counted} were counted, {len(due)} taken"
    assert named == due, f"{policy.name}: the samples are not what is taken"
    again = run(True)
    assert again is not None
    assert (again.rows, again.remaining) == (0, 0), f"{policy.name}: a second run takes {again.rows} rows"
    assert _comparable(policy, snapshot(platform), after_run) == _comparable(policy, after_run, after_run)
    return before


def _by_index(platform: Platform, scenario: Scenario) -> None:
    policy, past = scenario.policy, scenario.past
    if policy.indexed is None or past is None or not scenario.example.indexed:
        return
    key = key_of(policy.table)
    values: dict[str, Any] = {"now": MOMENT, "after": after(policy, platform.settings)}
    with platform.engine.begin() as connection:
        found = connection.execute(select(key).where(policy.indexed, key == past.key), values).first()
    assert found is not None, f"{policy.name}: `indexed` does not find the row just past its limit"


def _fates(scenario: Scenario, expected: Database, after_run: Database) -> None:
    """Compare the policy's own rows, case by case."""
    policy, wrong = scenario.policy, []
    hidden = {column for table, _, column in scenario.stamps if table == policy.table.fullname}
    for one in scenario.made:
        wanted, found = (
            None
            if (row := database[policy.table.fullname].get((one.key,))) is None
            else {name: value for name, value in row.items() if name not in hidden or not one.due}
            for database in (expected, after_run)
        )
        if wanted != found:
            differ = (
                "is gone"
                if found is None
                else "is there"
                if wanted is None
                else f"has {_differences(wanted, found)}"
            )
            wrong.append(f"a row that {'is due' if one.due else 'must stay'} {differ}: {one.what}")
    assert not wrong, f"{policy.name}: " + "; ".join(wrong)


def _differences(wanted: dict[str, Any], found: dict[str, Any]) -> str:
    return ", ".join(
        f"{name} = {found[name]!r}, not {value!r}" for name, value in wanted.items() if found[name] != value
    )


def _same(scenario: Scenario, wanted: Database, found: Database, what: str) -> None:
    """Compare whole databases, but for what every run leaves and what triggers stamp."""
    found = {table: dict(rows) for table, rows in found.items()}
    for table, key, column in scenario.stamps:
        if key in found[table] and key in wanted[table]:
            found[table][key] = {**found[table][key], column: wanted[table][key][column]}
    policy = scenario.policy
    left, right = _comparable(policy, wanted, wanted), _comparable(policy, found, wanted)
    tables = [table for table in left if left[table] != right[table]]
    assert not tables, f"{policy.name}: {what}: " + "; ".join(
        f"{table}: {_rows_apart(left[table], right[table])}" for table in tables
    )


def _rows_apart(wanted: Any, found: Any) -> str:
    missing, more = sorted(set(wanted) - set(found), key=repr), sorted(set(found) - set(wanted), key=repr)
    changed = [
        _differences(row, found[key]) for key, row in wanted.items() if key in found and row != found[key]
    ]
    return f"{len(missing)} missing, {len(more)} too many, changed: {changed}"


def _comparable(policy: Sweep, database: Database, earlier: Database) -> Database:
    """Return what is compared: of a table that runs write to and this policy sweeps, the rows from before."""
    own = policy.table.fullname
    return {
        table: {key: row for key, row in rows.items() if table not in _RUN_TABLES or key in earlier[table]}
        for table, rows in database.items()
        if table not in _RUN_TABLES or table == own
    }

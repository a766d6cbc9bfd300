"""The sweep engine, on real locks, backlogs, kills and crowds."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar

import pytest
from sqlalchemy import Connection, Engine, event, insert, make_url, select

from models.echoroom import ChatSession, SessionParticipant, TypingIndicator, User, VoiceStatus
from models.platform import JobRun, SweepCheckpoint
from tasks.analytics import rollup_guard
from tasks.apps import POLICIES
from tasks.policies.retention import Retention
from tasks.policies.sweep import Delete, Sweep
from tasks.sweeps import batch, engine
from tasks.sweeps import task as cleanup
from tasks.sweeps.batch import Batches, Seen, Taken
from tests.platform import Platform, environment, eventually
from tests.sweeps.sweeping import INSTANT, NOW, add, ago, rows, sweep
from workers import job_history
from workers.db import transaction

TYPING = POLICIES["echoroom.typing"]


def typing(platform: Platform, count: int, *, expired: str = "true") -> None:
    """Insert so many indicators, each of another person; `expired` is a condition on their number, `n`."""
    platform.sql(
        f"""
        WITH room AS (
            INSERT INTO echoroom.chat_sessions (category) VALUES ('Calm') RETURNING id
        ), people AS (
            INSERT INTO echoroom.users (username) SELECT 'Ada' FROM generate_series(1, :count) RETURNING id
        )
        INSERT INTO echoroom.typing_indicators (session_id, user_id, username, expires_at)
        SELECT room.id, people.id, 'Ada',
               CAST(:now AS timestamptz) + CASE WHEN {expired} THEN -1 ELSE 1 END * interval '1 second'
          FROM room, (SELECT id, row_number() OVER () AS n FROM people) AS people
        """,
        count=count,
        now=NOW,
    )


def left(platform: Platform) -> int:
    return int(platform.sql("SELECT count(*) FROM echoroom.typing_indicators")[0][0])


def run(policy: Sweep = TYPING, seconds: float = 60, share: float = 1.0, **pace: int) -> engine.SweepProgress:
    paced = engine.Pace(**pace)
    return engine.SweepRun(Batches(policy, NOW, policy.after), seconds, share=share, pace=paced).go()


class Watched(Batches):
    """Batches that remember how they were asked for."""

    asked: ClassVar[list[tuple[str, int]]] = []

    def by_index(self, at_most: int) -> Taken:
        self.asked.append(("index", at_most))
        return Batches.by_index(self, at_most)

    def on_pages(self, first: int, last: int) -> Taken:
        self.asked.append(("pages", last - first))
        return Batches.on_pages(self, first, last)

    def look(self, at_most: int) -> tuple[Seen, bool]:
        self.asked.append(("look", at_most))
        return Batches.look(self, at_most)

    def look_on_pages(self, first: int, last: int) -> Seen:
        self.asked.append(("look on pages", last - first))
        return Batches.look_on_pages(self, first, last)

    def take(self, seen: Seen) -> Taken:
        self.asked.append(("take", len(seen)))
        return Batches.take(self, seen)


def watched(
    policy: Sweep = TYPING, *, seconds: float = 60, share: float = 1.0, target: float = 0.05
) -> tuple[list[tuple[str, int]], engine.SweepProgress]:
    """Run a policy; return how its batches were asked for, and what it did."""
    Watched.asked.clear()
    done = engine.SweepRun(
        Watched(policy, NOW, policy.after), seconds, share=share, pace=engine.Pace(seconds=target)
    ).go()
    return list(Watched.asked), done


@contextmanager
def held(platform: Platform, statement: Any) -> Iterator[Connection]:
    """Hold the locks that `statement` takes."""
    with platform.engine.connect() as connection, connection.begin():
        connection.execute(statement)
        yield connection


def on_delete(platform: Platform, table: str, name: str, does: str, when: str = "true") -> None:
    """Give a table of `echoroom` a trigger, as an application may have one."""
    platform.sql(f"CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {does} END $$")
    platform.sql(
        f"CREATE TRIGGER {name} BEFORE DELETE ON echoroom.{table} FOR EACH ROW WHEN ({when})"
        f" EXECUTE FUNCTION {name}()"
    )


def dawdle(platform: Platform, seconds: float) -> None:
    """Let each indicator take so long to delete."""
    on_delete(platform, "typing_indicators", "dawdle", f"PERFORM pg_sleep({seconds}); RETURN OLD;")


def refuse(platform: Platform, table: str, when: str = "true") -> None:
    """Let the database refuse to delete rows."""
    on_delete(platform, table, "refuse", "RAISE EXCEPTION 'no';", when)


def test_a_few_go_by_index_and_a_backlog_by_heap_range(platform: Platform) -> None:
    typing(platform, engine.Pace().rows)
    asked, done = watched()
    assert (done.rows, left(platform)) == (engine.Pace().rows, 0)
    assert {kind for kind, _ in asked} == {"index"}

    # One in fifty is due: less than three on a page.
    typing(platform, 60_000, expired="n % 50 = 0")
    asked, done = watched()
    assert (done.rows, left(platform)) == (1200, 58_800)
    assert {kind for kind, _ in asked} == {"index"}

    platform.sql("DELETE FROM echoroom.typing_indicators")
    typing(platform, 20_000, expired="n % 2 = 0")
    asked, done = watched()
    assert (done.rows, left(platform)) == (10_000, 10_000)
    assert [kind for kind, _ in asked][:2] == ["index", "pages"]
    assert "index" not in [kind for kind, _ in asked][1:]


def test_a_batch_tunes_itself_to_its_time(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    typing(platform, 5_000)
    monkeypatch.setattr(engine, "ROWS_A_PAGE", 1_000_000)
    asked, _ = watched(target=1000.0)
    assert [size for _, size in asked][:3] == [500, 1000, 2000]
    typing(platform, 1_000)
    asked, _ = watched(target=0.0)
    assert [size for _, size in asked][:4] == [500, 125, 31, 7]
    assert min(size for _, size in asked) == 1
    assert left(platform) == 0


@pytest.mark.parametrize("count", [1, 20_000])
def test_what_somebody_holds_is_left_and_told(platform: Platform, count: int) -> None:
    typing(platform, count)
    one = select(TypingIndicator.id).limit(1).with_for_update()
    with held(platform, one):
        done = run()
        assert left(platform) == 1
        assert (done.rows, done.remaining) == (count - 1, 1)
    assert run().rows == 1
    assert left(platform) == 0


def test_a_run_ends_with_its_time_and_the_next_one_goes_on(platform: Platform) -> None:
    typing(platform, 1_200)
    platform.set(sweep_seconds=0.000001)
    found = []
    while left(platform):
        done = sweep(platform, "echoroom.typing", by_hand=False)
        found.append((done.rows, done.more))
    assert found[0] == (500, True)
    assert sum(count for count, _ in found) == 1_200
    outcomes = platform.sql("SELECT outcome, rows, batches FROM roomkeeper.job_runs ORDER BY id")
    assert tuple(outcomes[0]) == ("more", 500, 1)
    assert outcomes[-1].outcome == "done"


def test_one_run_at_a_time(platform: Platform) -> None:
    typing(platform, 1)
    with job_history.run("echoroom.typing") as other:
        assert other is not None
        assert cleanup.run(TYPING, platform.settings, now=NOW) is None
        # Of another policy there may be one.
        assert cleanup.run(POLICIES["echoroom.voice"], platform.settings, now=NOW) is not None
    assert left(platform) == 1
    skipped = platform.sql("SELECT job FROM roomkeeper.job_runs WHERE outcome = 'skipped'")
    assert [row.job for row in skipped] == ["echoroom.typing"]


def test_a_run_is_one_row_of_the_ledger(platform: Platform) -> None:
    typing(platform, 1_000)
    slot = datetime(2026, 3, 1, 11, 59, tzinfo=UTC)
    cleanup.run(TYPING, platform.settings, now=NOW, slot=slot)
    cleanup.run(TYPING, platform.settings, now=NOW)
    first, second = platform.sql("SELECT * FROM roomkeeper.job_runs ORDER BY id")
    assert (first.job, first.slot, first.rows, first.outcome) == ("echoroom.typing", slot, 1_000, "done")
    assert first.batches >= 2
    assert first.started_at < first.finished_at
    assert (second.slot, second.rows, second.batches, second.remaining) == (None, 0, 0, 0)


def test_the_moment_is_the_database_s_own_and_one_for_the_whole_run(platform: Platform) -> None:
    """What expires while a run goes on is the next one's."""
    typing(platform, 600, expired="false")
    platform.sql(
        "UPDATE echoroom.typing_indicators SET expires_at = clock_timestamp() + interval '2 seconds'"
    )
    assert cleanup.run(TYPING, platform.settings).rows == 0  # type: ignore[union-attr]
    platform.sql("UPDATE echoroom.typing_indicators SET expires_at = clock_timestamp() - interval '1 second'")

    def expire_more(_progress: engine.SweepProgress) -> None:
        typing(platform, 1)
        platform.sql("UPDATE echoroom.typing_indicators SET expires_at = clock_timestamp()")

    # All of them are set anew after the first batch, to a moment after the run's own.
    done = cleanup.run(TYPING, platform.settings, watch=expire_more)
    assert done is not None
    assert done.rows == 500
    eventually(lambda: cleanup.run(TYPING, platform.settings) and left(platform) == 0)


def test_a_row_that_the_database_refuses_does_not_stop_the_others(platform: Platform) -> None:
    typing(platform, 700)
    refuse(platform, "typing_indicators", "OLD.username = 'Eve'")
    one = platform.sql("SELECT id FROM echoroom.typing_indicators LIMIT 1")[0].id
    platform.sql("UPDATE echoroom.typing_indicators SET username = 'Eve' WHERE id = :one", one=one)
    done = sweep(platform, "echoroom.typing", by_hand=False)
    assert (done.rows, left(platform)) == (699, 1)
    error = "RaiseException: raised by PL/pgSQL function refuse() line 1 at RAISE"
    assert done.error == error
    entry = platform.sql("SELECT * FROM roomkeeper.job_runs")[0]
    assert (entry.outcome, entry.remaining, entry.error) == ("done", 1, error)


def test_a_run_that_fails_says_what_it_had_done(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    typing(platform, 600)

    def fall(_progress: engine.SweepProgress) -> None:
        raise RuntimeError("fell")

    with pytest.raises(RuntimeError):
        cleanup.run(TYPING, platform.settings, now=NOW, watch=fall)
    entry = platform.sql("SELECT * FROM roomkeeper.job_runs")[0]
    assert (entry.outcome, entry.rows, entry.batches, entry.error) == ("failed", 500, 1, "RuntimeError: fell")
    assert left(platform) == 100


def test_a_killed_run_leaves_whole_batches_and_the_next_one_finishes(platform: Platform) -> None:
    typing(platform, 40_000)
    dawdle(platform, 0.0005)
    worker = platform.worker("maintenance")
    platform.send("echoroom.typing", queue="cleanup")
    eventually(lambda: left(platform) < 40_000)
    worker.kill()
    # Its connections may take a moment to notice.
    busy = "SELECT count(*) FROM pg_stat_activity WHERE state <> 'idle' AND pid <> pg_backend_pid()"
    eventually(lambda: platform.sql(f"{busy} AND datname = current_database()")[0][0] == 0)
    between = left(platform)
    assert 0 < between < 40_000
    platform.sql("DROP TRIGGER dawdle ON echoroom.typing_indicators")
    assert sweep(platform, "echoroom.typing", by_hand=False).rows == between
    assert left(platform) == 0


def test_where_no_index_serves_each_run_walks_its_share(platform: Platform) -> None:
    policy = Sweep(
        name="echoroom.test",
        model=VoiceStatus,
        rule="what is muted is deleted",
        why="For this test (echoroom.md, voice_status).",
        due=VoiceStatus.is_muted.is_(True),
        full_pass_every=timedelta(minutes=1),
        action=Delete(),
        every=timedelta(seconds=5),
    )
    platform.sql(
        "INSERT INTO echoroom.voice_status (is_muted, last_updated) "
        "SELECT n % 9000 = 1, now() FROM generate_series(1, 30000) AS n"
    )
    pages = platform.sql("SELECT pg_relation_size('echoroom.voice_status') / 8192")[0][0]
    assert pages > 200

    def place() -> int:
        with platform.engine.begin() as connection:
            found = connection.scalar(
                select(SweepCheckpoint.page).where(SweepCheckpoint.policy == policy.name)
            )
            return found or 0

    # A row here and there keeps no run going on.
    asked, done = watched(policy, share=0.1)
    assert done.rows == 1
    assert sum(size for _, size in asked) == place() < pages * 0.11
    runs, found = 1, 1
    while found < 4:
        found += run(policy, share=0.1).rows
        runs += 1
        assert runs <= 10
    # A crowd does, to its end.
    platform.sql("UPDATE echoroom.voice_status SET is_muted = true WHERE ctid < '(150,0)'")
    # The update has put them behind all others.
    platform.sql("UPDATE roomkeeper.sweep_checkpoints SET page = :pages", pages=pages)
    crowd = platform.sql("SELECT count(*) FROM echoroom.voice_status WHERE is_muted")[0][0]
    assert run(policy, share=0.1).rows > crowd * 0.9
    # By hand through all of it, whatever the position.
    platform.sql("UPDATE echoroom.voice_status SET is_muted = true")
    there = platform.sql("SELECT count(*) FROM echoroom.voice_status")[0][0]
    assert run(policy).rows == there


def test_a_small_table_is_walked_as_a_whole(platform: Platform) -> None:
    add(platform, VoiceStatus, is_speaking=True, last_updated=ago(days=1))
    done = run(POLICIES["echoroom.voice_speaking"], share=0.001)
    assert done.rows == 1


def test_a_walk_ends_at_its_beginning_and_survives_a_table_that_shrinks(platform: Platform) -> None:
    policy = POLICIES["echoroom.voice_speaking"]
    add(platform, VoiceStatus, is_speaking=True, last_updated=ago(days=1))
    platform.sql("INSERT INTO roomkeeper.sweep_checkpoints VALUES (:name, 1000000)", name=policy.name)
    done = sweep(platform, policy.name, by_hand=False)
    assert done.rows == 1
    platform.sql("TRUNCATE echoroom.voice_status")
    assert sweep(platform, policy.name, by_hand=False).rows == 0


def test_a_partitioned_table_is_swept_as_a_whole(platform: Platform) -> None:
    """Rows of different partitions lie at the same places; only what is due may go."""
    platform.sql("ALTER TABLE echoroom.voice_status RENAME TO old")
    platform.sql(
        "CREATE TABLE echoroom.voice_status (LIKE echoroom.old INCLUDING DEFAULTS) PARTITION BY HASH (id)"
    )
    for part in range(3):
        platform.sql(
            f"CREATE TABLE echoroom.voice_{part} PARTITION OF echoroom.voice_status "
            f"FOR VALUES WITH (MODULUS 3, REMAINDER {part})"
        )
    platform.sql(
        "INSERT INTO echoroom.voice_status (is_speaking, last_updated) "
        "SELECT true, CAST(:now AS timestamptz) - CASE WHEN n % 2 = 0 THEN interval '1 day' ELSE '0' END "
        "FROM generate_series(1, 900) AS n",
        now=NOW,
    )
    assert sweep(platform, "echoroom.voice_speaking", by_hand=False).rows == 450
    speaking = platform.sql("SELECT last_updated FROM echoroom.voice_status WHERE is_speaking")
    assert {row.last_updated for row in speaking} == {NOW}


def test_a_sign_of_life_that_comes_in_between_is_not_overlooked(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user speaks between the look at the rows and their change."""
    room = add(platform, ChatSession, category="Calm")
    who = add(platform, User, username="Ada", last_active=None)
    add(platform, SessionParticipant, session_id=room, user_id=who, joined_at=ago(days=1))
    real = Batches._lock_parents

    def speak(self: Batches, *arguments: Any) -> list[Any]:
        platform.sql("UPDATE echoroom.users SET last_active = :now", now=NOW)
        return real(self, *arguments)

    monkeypatch.setattr(Batches, "_lock_parents", speak)
    done = sweep(platform, "echoroom.ghosts")
    assert (done.rows, done.remaining) == (0, 0)


def test_a_sign_of_life_that_comes_under_the_lock_is_not_overlooked(platform: Platform) -> None:
    """Between the lock of a row and its change its user shows a sign of life elsewhere."""
    room = add(platform, ChatSession, category="Calm")
    who = add(platform, User, username="Ada", last_active=None)
    add(platform, SessionParticipant, session_id=room, user_id=who, joined_at=ago(days=1))
    seen: list[str] = []

    def speak(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if statement.startswith("UPDATE echoroom.session_participants"):
            seen.append(statement)
            platform.sql("UPDATE echoroom.users SET last_active = :now", now=NOW)

    event.listen(Engine, "before_cursor_execute", speak)
    try:
        done = sweep(platform, "echoroom.ghosts")
    finally:
        event.remove(Engine, "before_cursor_execute", speak)
    assert seen
    assert done.rows == 0
    assert [row["is_active"] for row in rows(platform, SessionParticipant).values()] == [True]


def test_a_room_that_somebody_holds_is_left_while_others_are_free_and_waited_for_alone(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = sorted(add(platform, ChatSession, category="Calm") for _ in range(2))
    for room in both:
        who = add(platform, User, username="Ada", last_active=None)
        add(platform, SessionParticipant, session_id=room, user_id=who, joined_at=ago(days=1))
    hold = select(ChatSession.id).where(ChatSession.id == both[0]).with_for_update()
    with held(platform, hold):
        assert sweep(platform, "echoroom.ghosts", by_hand=False).rows == 1
        monkeypatch.setattr(batch, "PARENT_PATIENCE_MS", 50)
        done = sweep(platform, "echoroom.ghosts", by_hand=False)
        assert (done.rows, done.remaining) == (0, 1)
    with platform.engine.connect() as connection, connection.begin():
        connection.execute(hold)
        monkeypatch.setattr(batch, "PARENT_PATIENCE_MS", 20_000)
        found: list[int] = []
        thread = threading.Thread(
            target=lambda: found.append(sweep(platform, "echoroom.ghosts", by_hand=False).rows)
        )
        thread.start()
        waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
        eventually(lambda: platform.sql(waiting)[0][0] == 1)
        connection.rollback()
        thread.join()
    assert found == [1]
    states = {row["session_id"]: row["is_active"] for row in rows(platform, SessionParticipant).values()}
    assert set(states.values()) == {False}
    assert {row["current_participants"] for row in rows(platform, ChatSession).values()} == {0}


def test_the_ledger_ages_out_by_itself(platform: Platform) -> None:
    with platform.engine.begin() as connection:
        for started in (ago(days=7), ago(days=7, than=INSTANT)):
            connection.execute(
                insert(JobRun).values(
                    job="x", started_at=started, finished_at=started, rows=0, outcome="done"
                )
            )
    assert sweep(platform, "roomkeeper.runs").rows == 1
    kept = platform.sql("SELECT started_at FROM roomkeeper.job_runs WHERE job = 'x'")
    assert [row.started_at for row in kept] == [ago(days=7)]


def test_a_role_with_the_rights_that_a_policy_names_can_run_it(platform: Platform) -> None:
    """Or `roomkeeper check` would pass a database on which it fails."""
    url = make_url(platform.environment["DATABASE_URL"])
    platform.sql("DROP ROLE IF EXISTS sweeper")
    platform.sql("CREATE ROLE sweeper LOGIN BYPASSRLS PASSWORD 'sweeper'")
    try:
        platform.sql("GRANT USAGE ON SCHEMA roomkeeper TO sweeper")
        platform.sql("GRANT ALL ON ALL TABLES IN SCHEMA roomkeeper TO sweeper")
        role_settings = {
            "DATABASE_URL": url.set(username="sweeper", password="sweeper").render_as_string(False)
        }
        for policy in POLICIES.values():
            if isinstance(policy, Retention):
                continue
            for need in policy.needs():
                named = f'{need.table.schema}."{need.table.name}"'
                platform.sql(f"GRANT USAGE ON SCHEMA {need.table.schema} TO sweeper")
                platform.sql(f"GRANT {', '.join(sorted(need.privileges))} ON {named} TO sweeper")
            with environment(platform.environment | role_settings):
                for way in (False, True):
                    assert cleanup.run(policy, platform.settings, now=NOW, by_hand=way) is not None
                with transaction() as connection:
                    rolled_up = rollup_guard.ask(connection, [policy], platform.settings, NOW)
                run_by = Batches(policy, NOW, policy.after, closed=rolled_up)
                if policy.index_condition is not None:
                    run_by.by_index(5)
                run_by.on_pages(0, 1)
            platform.sql("DROP OWNED BY sweeper")
            platform.sql("GRANT USAGE ON SCHEMA roomkeeper TO sweeper")
            platform.sql("GRANT ALL ON ALL TABLES IN SCHEMA roomkeeper TO sweeper")
    finally:
        platform.sql("DROP OWNED BY sweeper")
        platform.sql("DROP ROLE sweeper")


def test_a_policy_that_walks_goes_by_no_index() -> None:
    """Even if one would serve it: nearly all rows may be in it."""
    assert POLICIES["connect.chat_rooms"].index_condition is None
    assert POLICIES["connect.calls"].index_condition is POLICIES["connect.calls"].indexed
    assert POLICIES["echoroom.typing"].index_condition is POLICIES["echoroom.typing"].due


def test_rows_that_are_refused_do_not_stand_in_the_way_of_those_behind_them(platform: Platform) -> None:
    typing(platform, 2_000)
    refuse(platform, "typing_indicators", "OLD.username = 'Eve'")
    # The first that an index finds.
    platform.sql(
        "UPDATE echoroom.typing_indicators SET username = 'Eve', expires_at = expires_at - interval '1 day'"
        " WHERE id IN (SELECT id FROM echoroom.typing_indicators LIMIT 600)"
    )
    done = sweep(platform, "echoroom.typing")
    assert (done.rows, done.remaining, left(platform)) == (1_400, 600, 600)


def test_a_refused_row_costs_a_run_no_more_than_its_time(platform: Platform) -> None:
    typing(platform, 5_000)
    refuse(platform, "typing_indicators", "OLD.username = 'Eve'")
    platform.sql("UPDATE echoroom.typing_indicators SET username = 'Eve'")
    # All of them take far longer, on any machine; a first one takes less on a busy one.
    done = run(seconds=2)
    assert done.more
    assert 0 < done.remaining < 5_000


def test_rows_that_somebody_holds_do_not_stand_in_the_way(platform: Platform) -> None:
    """Of a policy that looks its rows up before it takes them."""
    room = add(platform, ChatSession, category="Calm")
    platform.sql("INSERT INTO echoroom.users (username) SELECT 'Ada' FROM generate_series(1, 60)")
    platform.sql("UPDATE echoroom.users SET last_active = NULL")
    platform.sql(
        "INSERT INTO echoroom.session_participants (session_id, user_id, joined_at)"
        " SELECT :room, id, CAST(:now AS timestamptz) - interval '1 day' FROM echoroom.users",
        room=room,
        now=NOW,
    )
    first = select(SessionParticipant.id).limit(30).with_for_update()
    with held(platform, first):
        done = run(POLICIES["echoroom.ghosts"], look=20)
    assert (done.rows, done.remaining > 0) == (30, True)
    assert run(POLICIES["echoroom.ghosts"], look=20).rows == 30


def test_rows_that_were_looked_up_go_in_batches_that_tune_themselves(platform: Platform) -> None:
    rooms = [add(platform, ChatSession, category="Calm") for _ in range(3)]
    platform.sql("INSERT INTO echoroom.users (username) SELECT 'Ada' FROM generate_series(1, 300)")
    platform.sql("UPDATE echoroom.users SET last_active = NULL")
    platform.sql(
        "INSERT INTO echoroom.session_participants (session_id, user_id, joined_at)"
        " SELECT room.id, who.id, CAST(:now AS timestamptz) - interval '1 day'"
        " FROM echoroom.users AS who, echoroom.chat_sessions AS room",
        now=NOW,
    )
    asked, done = watched(POLICIES["echoroom.ghosts"], target=1000.0)
    assert done.rows == 300 * len(rooms)
    # One look, however dear it is, and the sizes of what was changed.
    assert [kind for kind, _ in asked] == ["look", *["take"] * 4]
    assert [size for _, size in asked][1:] == [100, 200, 400, 200]


def test_what_takes_too_long_is_taken_in_smaller_parts(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    typing(platform, 100)
    dawdle(platform, 0.005)
    monkeypatch.setattr(batch, "CHANGE_MS", 100)
    done = run()
    assert (done.rows, done.error, left(platform)) == (100, None, 0)
    typing(platform, 100)
    monkeypatch.setattr(engine, "ROWS_A_PAGE", 0)
    assert run(rows=1).rows == 100


def test_a_run_by_pages_goes_on_where_the_last_one_stopped(platform: Platform) -> None:
    platform.sql(
        "INSERT INTO echoroom.voice_status (is_speaking) SELECT false FROM generate_series(1, 20000)"
    )
    platform.sql(
        "INSERT INTO echoroom.voice_status (is_speaking, last_updated)"
        " SELECT true, NULL FROM generate_series(1, 500)"
    )
    policy = POLICIES["echoroom.voice_speaking"]
    runs = 0
    while platform.sql("SELECT count(*) FROM echoroom.voice_status WHERE is_speaking")[0][0]:
        # Time for one range of pages each.
        run(policy, seconds=0.0001)
        runs += 1
        assert runs < 20
    assert runs > 1


def test_who_goes_along_and_is_refused_does_not_keep_the_row(platform: Platform) -> None:
    room = add(platform, ChatSession, category="Calm")
    who = add(platform, User, username="Ada", last_active=None)
    add(platform, SessionParticipant, session_id=room, user_id=who, joined_at=ago(days=1))
    add(platform, VoiceStatus, session_id=room, user_id=who, last_updated=ago(days=1))
    refuse(platform, "voice_status")
    assert sweep(platform, "echoroom.ghosts").rows == 1
    assert [row["is_active"] for row in rows(platform, SessionParticipant).values()] == [False]


def test_a_run_that_hangs_does_not_keep_others_from_running_for_ever(platform: Platform) -> None:
    with platform.engine.connect() as connection, job_history.run("echoroom.typing") as other:
        assert other is not None
        kept = "SELECT current_setting('idle_in_transaction_session_timeout')"
        assert other.connection.exec_driver_sql(kept).scalar() == "10min"
        assert connection.exec_driver_sql(kept).scalar() == "0"


def test_a_run_that_is_broken_off_by_hand_leaves_its_row(platform: Platform) -> None:
    typing(platform, 600)

    def stop(_progress: engine.SweepProgress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cleanup.run(TYPING, platform.settings, now=NOW, watch=stop)
    entry = platform.sql("SELECT * FROM roomkeeper.job_runs")[0]
    assert (entry.outcome, entry.rows) == ("failed", 500)

"""What must be true at the end, counted from the applications' own tables with plain SQL."""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from sqlalchemy import Connection, bindparam, text

from stack.demo.samples import SAMPLES
from stack.soak.traffic import Traffic, small
from stack.soak.watch import Work

_FILES = text("""
    SELECT file.app, file.name, job.state, job.outcome, job.verdict, job.reason, count(*) AS files
      FROM (SELECT 'openchat' AS app, id, original_filename AS name FROM openchat.attachment
            UNION ALL SELECT 'pern', id, file_name FROM pern.attachments) AS file
      LEFT JOIN roomkeeper.attachment_jobs AS job ON job.app = file.app AND job.attachment_id = file.id
     WHERE file.name IN :names
     GROUP BY 1, 2, 3, 4, 5, 6
""").bindparams(bindparam("names", expanding=True))
_READ = {
    "pern": text("""
        SELECT message_id, user_id, status = 'read' AND read_at IS NOT NULL FROM pern.message_statuses
    """),
    "connect": text("""
        SELECT message_id, user_id, read_at IS NOT NULL FROM communication_schema.message_read_status
    """),
    "openchat": text("""
        SELECT message.id, member.user_id, message.status = 'read' AND member.unread_count = 0
          FROM openchat.message AS message
          JOIN openchat.conversation_participant AS member USING (conversation_id)
         WHERE member.last_read_message_id = message.id
    """),
}
_LEFT = text("""
    SELECT (SELECT count(*) FROM roomkeeper.outbox WHERE published_at IS NULL) AS outbox,
           (SELECT count(*) FROM roomkeeper.status_inbox) AS inbox,
           -- Not those that were left behind for a policy.
           (SELECT count(*) FROM roomkeeper.dead_letters WHERE task <> 'stack.example') AS dead_letters
""")
_WORK = text("""
    SELECT (SELECT count(*) FROM roomkeeper.status_inbox) AS inbox,
           (SELECT max(id) FROM roomkeeper.job_runs WHERE outcome IN ('done', 'more')) AS run
""")


def files(connection: Connection) -> Iterator[str]:
    """Yield what is wrong with the files: each has the fate that its sample must meet, none is left over."""
    expected = {(one.app, one.name): one for one in (*SAMPLES, small(0))}
    rows = connection.execute(_FILES, {"names": [name for _, name in expected]})
    for row in rows:
        sample = expected.get((row.app, row.name))
        if sample is None:
            continue
        fate = (row.outcome, row.verdict, row.reason)
        if fate != (sample.outcome, sample.verdict, sample.reason):
            yield f"{row.files} × {row.app}/{row.name}: {row.state or 'unknown to Roomkeeper'}, {fate}"


def unfinished(connection: Connection) -> int:
    """Return how many files have no outcome yet."""
    names = [one.name for one in (*SAMPLES, small(0))]
    rows = connection.execute(_FILES, {"names": names})
    return sum(row.files for row in rows if row.state not in {"finished", "failed"})


def work(connection: Connection, sent: Mapping[str, int]) -> dict[str, Work]:
    """Return what is done, and what waits, of each kind of work."""
    files, found = unfinished(connection), connection.execute(_WORK).one()
    return {
        "files": Work(sent["files"] - files, files),
        "calls with statuses": Work(sent["calls"] - found.inbox, found.inbox),
        # They are always due.
        "periodic jobs": Work(found.run or 0, 1),
    }


def statuses(connection: Connection, traffic: Traffic) -> Iterator[str]:
    """Yield, for each application, how many readings are missing that were committed in SQL."""
    wrong: Counter[str] = Counter()
    for app, query in _READ.items():
        read = {(message, user) for message, user, is_read in connection.execute(query) if is_read}
        wrong[app] = len({(m, u) for name, m, u, _ in traffic.reads if name == app} - read)
    yield from (f"{number} readings of {app} are missing" for app, number in wrong.items() if number)


def left(connection: Connection) -> Any:
    """Return what still waits in the outbox and the inbox, and the dead letters."""
    return connection.execute(_LEFT).one()

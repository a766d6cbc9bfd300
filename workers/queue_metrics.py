"""What waits in tables, by application and state: how many rows, how old, and how many are done.

The length of a queue of the broker counts messages: some are of the same row, and not each row has one.
"""

from collections.abc import Iterator

from prometheus_client.core import GaugeMetricFamily
from sqlalchemy import Connection, text

#: Of each kind of work: its name, and a query for application, state, number of rows, and age of the oldest
#: in seconds, NULL for what is not late. Each reads an index of the rows that are not finished.
_WAITING = {
    "attachments": text("""
        SELECT app, CASE WHEN due <= now() THEN 'due' ELSE 'later' END AS state, count(*),
               extract(epoch FROM now() - min(due) FILTER (WHERE due <= now()))
          FROM (SELECT app, coalesce(not_before, updated_at) AS due
                  FROM roomkeeper.attachment_jobs WHERE state = 'waiting') AS waiting
         GROUP BY 1, 2
        UNION ALL
        SELECT app, CASE WHEN lease_until < now() THEN 'abandoned' ELSE 'running' END, count(*),
               extract(epoch FROM now() - min(lease_until) FILTER (WHERE lease_until < now()))
          FROM roomkeeper.attachment_jobs WHERE state = 'running'
         GROUP BY 1, 2
        UNION ALL
        SELECT app, 'failed', count(*), extract(epoch FROM now() - min(updated_at))
          FROM roomkeeper.attachment_jobs WHERE state = 'failed'
         GROUP BY 1
    """),
    "outbox": text("""
        SELECT coalesce(payload->>'app', ''), 'due', count(*),
               extract(epoch FROM clock_timestamp() - min(created_at))
          FROM roomkeeper.outbox WHERE published_at IS NULL
         GROUP BY 1
    """),
    "statuses": text("""
        SELECT app, CASE WHEN due_at <= now() THEN 'due' ELSE 'later' END, count(*),
               extract(epoch FROM now() - min(due_at) FILTER (WHERE due_at <= now()))
          FROM roomkeeper.status_inbox
         GROUP BY 1, 2
    """),
}
#: And a query for application and number of rows that were done in the last five minutes.
_DONE = {
    "attachments": text("""
        SELECT app, count(*) FROM roomkeeper.attachment_jobs
         WHERE finished_at > now() - interval '5 minutes'
         GROUP BY 1
    """),
    "outbox": text("""
        SELECT coalesce(payload->>'app', ''), count(*) FROM roomkeeper.outbox
         WHERE published_at > now() - interval '5 minutes'
         GROUP BY 1
    """),
    # Rows that are merged are deleted; the runs say how many, of all applications together.
    "statuses": text("""
        SELECT '', coalesce(sum(rows), 0) FROM roomkeeper.job_runs
         WHERE job = 'delivery.drain' AND started_at > now() - interval '5 minutes'
    """),
}


def collect(connection: Connection) -> Iterator[GaugeMetricFamily]:
    """Return the gauges."""
    rows = GaugeMetricFamily(
        "roomkeeper_queue_rows",
        "Rows that are not done, by kind of work, application and state: 'due', 'later', 'running', "
        "'abandoned' or 'failed'.",
        labels=["work", "app", "state"],
    )
    age = GaugeMetricFamily(
        "roomkeeper_queue_rows_age_seconds",
        "How long the oldest of these rows has been due, abandoned or failed; absent if there is none.",
        labels=["work", "app", "state"],
    )
    done = GaugeMetricFamily(
        "roomkeeper_queue_rows_done",
        "Rows that were done in the last five minutes; statuses of all applications together.",
        labels=["work", "app"],
    )
    for work, waiting in _WAITING.items():
        for app, state, number, seconds in connection.execute(waiting):
            rows.add_metric([work, app, state], number)
            if seconds is not None:
                age.add_metric([work, app, state], max(0.0, float(seconds)))
    for work, finished in _DONE.items():
        for app, number in connection.execute(finished):
            done.add_metric([work, app], float(number))
    yield rows
    yield age
    yield done

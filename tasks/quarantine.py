"""`dead_letters.collect`: makes dead letters of what could not be one, because the database was away."""

from workers import job_history, quarantine
from workers.app import task
from workers.queues import MAINTENANCE

JOB = "dead_letters.collect"


# Not tried again by itself when the database is away: the next turn is a minute ahead.
@task(name=JOB, queue=MAINTENANCE, autoretry_for=(), send_events=False)
def collect() -> None:
    """Empty the quarantine, the broker's list of messages that cannot be read."""
    with job_history.run(JOB, quiet=True) as run:
        if run is not None:
            run.rows, run.remaining = quarantine.collect()

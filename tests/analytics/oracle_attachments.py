"""What the statistics of attachments have to be, written down as plainly as their rule is."""

import random
from collections import defaultdict
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from models.analytics import AttachmentFact
from models.platform import AttachmentJob
from tests.analytics.figuring import (
    LEAPS,
    MEDIAN,
    P95,
    Place,
    Row,
    Rows,
    day_of,
    near,
    quantile,
    seconds_between,
)

APPS = ["openchat", "pern"]
VERDICTS = ["clean", "infected", "suspicious", "opaque", None]


def job(rows: Rows, taken_up: datetime, finished: datetime | None = None, **values: Any) -> UUID:
    """Add a job, which waits unless it is finished; or once more, after it was, with `state="waiting"`."""
    state = values.pop("state", None) or ("waiting" if finished is None else "finished")
    key = UUID(int=rows.chance.getrandbits(128), version=4)
    given = {"app": "openchat", "verdict": None, "size_bytes": None} | values
    rows.add(
        AttachmentJob,
        attachment_id=key,
        state=state,
        outcome="accepted" if state == "finished" else None,
        created_at=taken_up,
        finished_at=finished,
        **given,
    )
    return key


def fact(rows: Rows, at: datetime) -> UUID:
    """Add a fact of a job that was deleted early."""
    given = {"app": "pern", "verdict": "clean", "size_bytes": 5, "seconds": 2.5}
    return rows.add(AttachmentFact, at=at, **given)


def history(chance: random.Random, zone: str) -> Rows:
    """Make up some days around a leap of the zone's clocks."""
    rows, day = Rows(), LEAPS[zone]
    for _ in range(chance.randint(0, 40)):
        taken_up = near(chance, day, zone)
        soon = taken_up + timedelta(microseconds=chance.choice([0, 1, 900_000, 61_234_567]))
        finished = chance.choice([None, soon, soon, near(chance, day, zone)])
        again = finished is not None and chance.random() < 0.2
        job(
            rows,
            taken_up,
            finished,
            app=chance.choice(APPS),
            verdict=None if again else chance.choice(VERDICTS),
            state=chance.choice(["waiting", "failed"]) if again or finished is None else "finished",
            size_bytes=chance.choice([None, 0, 1, 10_000_000_000]),
        )
    return rows


def daily(rows: Rows, zone: str) -> dict[Place, Row]:
    """Return the rows of `roomkeeper.attachments_daily` by day, application and verdict."""
    those = defaultdict(list)
    for row in rows.of(AttachmentJob):
        those[day_of(row["created_at"], zone), row["app"], row["verdict"] or "none"].append(row)
    found: dict[Place, Row] = {}
    for key, group in those.items():
        took = [
            seconds_between(row["created_at"], row["finished_at"])
            for row in group
            if row["state"] == "finished"
        ]
        found[key] = {
            "attachments": len(group),
            "finished": len(took),
            "size_bytes": sum(row["size_bytes"] or 0 for row in group),
            "processing_median_seconds": quantile(took, MEDIAN),
            "processing_p95_seconds": quantile(took, P95),
        }
    return found

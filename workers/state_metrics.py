"""What the database, the broker and the scanner know, as Prometheus metrics: asked at each scrape."""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import redis
import structlog
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from sqlalchemy import Connection, func, select
from sqlalchemy.exc import SQLAlchemyError

from models.platform import DeadLetter, Hold, JobRun, PendingDeletion, Receipt
from workers import health, liveness, queue_lengths, queue_metrics
from workers.db import takes_writes, transaction
from workers.queues import QUARANTINE, REFUSED, UNKNOWN
from workers.scanner import Scanner, ScannerUnavailable
from workers.settings import Settings

log = structlog.get_logger(__name__)

#: A scrape does not wait long for a scanner that is busy.
SCANNER_SECONDS = 5


@dataclass(frozen=True, slots=True)
class Lag:
    """How far a rollup has come.

    Attributes:
        limit: a lag beyond that is a fault.
        lag: for how long its next bucket should have been closed; None if it has never run.
        watermark: the end of its last closed bucket; None if it has never run.
    """

    rollup: str
    limit: timedelta
    lag: timedelta | None
    watermark: datetime | None


class State(Collector):
    """Gauges of the platform's state. What cannot be asked is left out, and `roomkeeper_up` says so.

    Args:
        periods: how often each policy and rollup runs.
        lags: finds out how far the rollups have come.
        served: finds out of each policy that needs an index whether one serves it.
        disabled: says of each enabled application whether its jobs are switched off.
    """

    def __init__(
        self,
        settings: Settings,
        periods: Mapping[str, timedelta] = {},
        lags: Callable[[Connection], Sequence[Lag]] = lambda _connection: (),
        served: Callable[[Connection], Mapping[str, bool]] = lambda _connection: {},
        disabled: Callable[[], Mapping[str, bool]] = dict,
    ) -> None:
        self._settings = settings
        self._periods = periods
        self._lags = lags
        self._served = served
        self._disabled = disabled
        self._taken = Taken()

    def collect(self) -> Iterator[Metric]:
        """Ask everything; see `Collector`."""
        up = GaugeMetricFamily("roomkeeper_up", "Whether a part answers.", labels=["part"])
        parts: dict[str, Callable[[], Sequence[Metric]]] = {
            "database": self._database,
            "broker": lambda: _broker(self._settings),
            "scanner": lambda: _scanner(self._settings),
        }
        for name, ask in parts.items():
            try:
                yield from ask()
                up.add_metric([name], 1)
            except (SQLAlchemyError, redis.RedisError, ScannerUnavailable) as error:
                log.warning("metrics.part_away", part=name, error=type(error).__name__)
                up.add_metric([name], 0)
        yield up

    def _database(self) -> list[Metric]:
        disabled = _applications(self._disabled())
        with transaction() as connection:
            return [
                _writable(connection),
                *queue_metrics.collect(connection),
                _dead_letters(connection),
                *_workers(connection),
                *_periodic(connection),
                *_policies(connection, self._periods),
                *_rollups(self._lags(connection)),
                _indexes(self._served(connection)),
                disabled,
                *_retention(connection, self._taken),
            ]


@dataclass(slots=True)
class Taken:
    """Rows that retention took, by policy, up to receipt `number`: receipts are only added."""

    number: int = 0
    rows: dict[str, int] = field(default_factory=dict)
    # A scrape may come while another is answered.
    lock: threading.Lock = field(default_factory=threading.Lock)

    def read(self, connection: Connection) -> None:
        """Add up what receipts say that were written since."""
        sums = select(Receipt.policy, func.sum(Receipt.rows), func.max(Receipt.number)).group_by(
            Receipt.policy
        )
        with self.lock:
            new = sums.where(Receipt.number > self.number, Receipt.kind.in_(["taken", "dropped"]))
            for policy, rows, number in connection.execute(new):
                self.rows[policy] = self.rows.get(policy, 0) + int(rows)
                self.number = max(self.number, number)


def _writable(connection: Connection) -> GaugeMetricFamily:
    # For alerts: while it is 0 all work waits, and no error says why.
    return GaugeMetricFamily(
        "roomkeeper_database_writable",
        "Whether the database takes writes: it is no replica, and not set to read-only.",
        value=float(takes_writes(connection)),
    )


def _dead_letters(connection: Connection) -> GaugeMetricFamily:
    return GaugeMetricFamily(
        "roomkeeper_dead_letters",
        "Dead letters that are kept.",
        connection.scalar(select(func.count(DeadLetter.id))),
    )


def _workers(connection: Connection) -> Iterator[GaugeMetricFamily]:
    up = GaugeMetricFamily(
        "roomkeeper_worker_up",
        "1 if a worker of this kind, or beat, has written a heartbeat within a minute.",
        labels=["kind"],
    )
    number = GaugeMetricFamily(
        "roomkeeper_workers", "Workers of this kind, or beats, that are alive.", labels=["kind"]
    )
    for kind, running in liveness.alive(liveness.read(connection)).items():
        up.add_metric([kind], int(running > 0))
        number.add_metric([kind], running)
    yield up
    yield number


def _periodic(connection: Connection) -> Iterator[GaugeMetricFamily]:
    last = GaugeMetricFamily(
        "roomkeeper_job_last_run_timestamp_seconds", "When a periodic job last ended well.", labels=["job"]
    )
    for job, ended in connection.execute(
        select(JobRun.job, func.extract("epoch", func.max(JobRun.finished_at)))
        .where(
            JobRun.outcome.in_(["done", "more"]),
            JobRun.started_at > func.now() - func.make_interval(0, 0, 0, 1),
        )
        .group_by(JobRun.job)
    ):
        last.add_metric([job], float(ended))
    yield last


def _policies(connection: Connection, periods: Mapping[str, timedelta]) -> Iterator[GaugeMetricFamily]:
    overdue = GaugeMetricFamily(
        "roomkeeper_policy_overdue",
        "1 if a policy or a rollup has not run well for three of its periods.",
        labels=["policy"],
    )
    stuck = GaugeMetricFamily(
        "roomkeeper_policy_stuck_rows",
        "Rows that a policy's last run saw, and could not change a single one of.",
        labels=["policy"],
    )
    stopped = GaugeMetricFamily(
        "roomkeeper_policy_stopped",
        "1 if a policy's last run would have taken what it should not, and waits for an operator.",
        labels=["policy"],
    )
    for policy, found in health.ask(connection, periods).jobs.items():
        overdue.add_metric([policy], int(found.overdue))
        stuck.add_metric([policy], found.stuck_rows)
        stopped.add_metric([policy], int(found.stopped))
    yield overdue
    yield stuck
    yield stopped


def _rollups(lags: Sequence[Lag]) -> Iterator[GaugeMetricFamily]:
    lag = GaugeMetricFamily(
        "roomkeeper_rollup_lag_seconds",
        "For how long a rollup's next bucket should have been closed; 0 if it is not yet to be.",
        labels=["rollup"],
    )
    limit = GaugeMetricFamily(
        "roomkeeper_rollup_lag_limit_seconds", "A lag beyond that is a fault.", labels=["rollup"]
    )
    watermark = GaugeMetricFamily(
        "roomkeeper_rollup_watermark_timestamp_seconds",
        "The end of a rollup's last closed bucket.",
        labels=["rollup"],
    )
    for one in lags:
        limit.add_metric([one.rollup], one.limit.total_seconds())
        # Of one that has never run there is nothing to say but that it is overdue, in time.
        if one.lag is not None and one.watermark is not None:
            lag.add_metric([one.rollup], one.lag.total_seconds())
            watermark.add_metric([one.rollup], one.watermark.timestamp())
    yield lag
    yield limit
    yield watermark


def _indexes(served: Mapping[str, bool]) -> GaugeMetricFamily:
    without = GaugeMetricFamily(
        "roomkeeper_policy_without_index",
        "1 if no index serves a policy: each of its runs reads its whole table.",
        labels=["policy"],
    )
    for policy, is_served in served.items():
        without.add_metric([policy], int(not is_served))
    return without


def _applications(disabled: Mapping[str, bool]) -> GaugeMetricFamily:
    off = GaugeMetricFamily(
        "roomkeeper_application_disabled",
        "1 if an application's jobs are switched off, for its tables lack what they need.",
        labels=["app"],
    )
    for app, is_off in disabled.items():
        off.add_metric([app], int(is_off))
    return off


def _retention(connection: Connection, taken: Taken) -> Iterator[Metric]:
    taken.read(connection)
    rows = CounterMetricFamily(
        "roomkeeper_retention_rows", "Rows that a retention policy took, by its receipts.", labels=["policy"]
    )
    for policy, number in taken.rows.items():
        rows.add_metric([policy], number)
    yield rows
    holds = GaugeMetricFamily("roomkeeper_holds", "Legal holds in force.", labels=["app"])
    in_force = select(Hold.app, func.count()).where(Hold.lifted_at.is_(None)).group_by(Hold.app)
    for app, number in connection.execute(in_force):
        holds.add_metric([app], number)
    yield holds
    yield from _pending_deletions(connection)


def _pending_deletions(connection: Connection) -> Iterator[Metric]:
    files = GaugeMetricFamily(
        "roomkeeper_pending_deletions",
        "Attachments whose rows are deleted, and whose objects are still to be deleted.",
        labels=["store"],
    )
    age = GaugeMetricFamily(
        "roomkeeper_pending_deletions_age_seconds",
        "How long ago the row of the oldest of them was deleted.",
        labels=["store"],
    )
    attempts = GaugeMetricFamily(
        "roomkeeper_pending_deletions_attempts",
        "How many attempts to delete the objects of one of them have failed, at most.",
        labels=["store"],
    )
    since = func.extract("epoch", func.clock_timestamp() - func.min(PendingDeletion.created_at))
    found = select(PendingDeletion.store, func.count(), since, func.max(PendingDeletion.attempts))
    for store, number, seconds, failed in connection.execute(found.group_by(PendingDeletion.store)):
        files.add_metric([store], number)
        age.add_metric([store], max(0.0, float(seconds)))
        attempts.add_metric([store], failed)
    yield files
    yield age
    yield attempts


def _broker(settings: Settings) -> list[GaugeMetricFamily]:
    length = GaugeMetricFamily("roomkeeper_queue_length", "Messages that no worker has.", labels=["queue"])
    with redis.Redis.from_url(
        settings.broker_url.get_secret_value(), socket_timeout=5, socket_connect_timeout=5
    ) as client:
        for queue, number in queue_lengths.of(client).items():
            length.add_metric([queue], number)
        quarantine = GaugeMetricFamily(
            "roomkeeper_quarantine_length",
            "Messages that wait in the broker to become dead letters, which they do each minute.",
            int(client.llen(QUARANTINE)),
        )
        refused = GaugeMetricFamily(
            "roomkeeper_quarantine_refused",
            "Messages in the broker whose dead letters the database refuses: for an operator.",
            int(client.llen(REFUSED)),
        )
        unknown = GaugeMetricFamily(
            "roomkeeper_unknown_tasks",
            "Messages whose task no worker knows yet: each is offered again once a minute, for a day.",
            int(client.llen(UNKNOWN)),
        )
        found = [length, quarantine, refused, unknown]
        # A hosted broker may keep its memory to itself.
        with suppress(redis.ResponseError):
            memory = client.info("memory")
            found.append(
                GaugeMetricFamily(
                    "roomkeeper_broker_memory_ratio",
                    "How much of the broker's memory is in use: from 1 on it takes nothing. 0: no limit.",
                    memory["used_memory"] / memory["maxmemory"] if memory.get("maxmemory") else 0,
                )
            )
    return found


def _scanner(settings: Settings) -> list[GaugeMetricFamily]:
    version = Scanner(settings.clamd, SCANNER_SECONDS).versions()
    if version.released is None:
        return []
    return [
        GaugeMetricFamily(
            "roomkeeper_signature_age_seconds",
            "How old the virus signatures are.",
            (datetime.now(UTC) - version.released).total_seconds(),
        )
    ]

"""The scheduler that beat runs: RedBeat, one holding the lock and others standing by."""

import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import structlog
from celery.beat import SchedulingError
from celery.schedules import BaseSchedule
from celery.signals import beat_init
from redbeat import RedBeatScheduler, RedBeatSchedulerEntry
from redbeat.decoder import to_timestamp
from redbeat.schedulers import LUA_EXTEND_TO_SCRIPT, acquire_distributed_beat_lock, get_redis
from redis.exceptions import LockError, ResponseError

from workers import installation
from workers.broker_errors import BROKER_AWAY, described
from workers.queued_tasks import queued_tasks
from workers.steps import touch_health_file

log = structlog.get_logger(__name__)

# It would wait for the lock, however long, before the first turn: each turn looks whether it is free.
beat_init.disconnect(acquire_distributed_beat_lock)

#: Beat is ill that holds the lock, has a broker, and has sent nothing for so many of the shortest periods of
#: its timetable, and for so long.
PERIODS = 3
LEAST_SECONDS = 60.0
#: A queue that is so long gets no periodic messages, whatever is in it: it is not read each second.
PILE = 1000
#: What may keep a beat from giving its lock back.
_NOT_RELEASED: tuple[type[Exception], ...] = (LockError, *BROKER_AWAY)
#: A clock that is set back by less is none that was set: NTP moves it so, in seconds.
SET_BACK_SECONDS = 1.0
#: A last run so far in the future is worth a line of the log, in seconds.
NOTICED_SECONDS = 5.0


class Entry(RedBeatSchedulerEntry):  # type: ignore[misc]  # RedBeat has no types
    """An entry of the schedule, as RedBeat keeps it. What cannot be one is refused as it is read."""

    @classmethod
    def from_key(cls, key: str, app: Any = None) -> "Entry":
        """Read an entry.

        Raises:
            KeyError: there is none.
            Exception: it is no entry; strangers may have written anything.
        """
        entry: Entry = super().from_key(key, app=app)
        if not isinstance(entry.schedule, BaseSchedule):
            raise ValueError("its schedule is of no known type")
        if not (isinstance(entry.options, Mapping) and isinstance(entry.kwargs, Mapping)):
            raise ValueError("its options, or arguments, are not a mapping")
        if not isinstance(entry.task, str):
            raise ValueError("its task is not a name")
        if not isinstance(entry.options.get("headers", {}), Mapping):
            raise ValueError("its headers are not a mapping")
        if entry.key != key:
            raise ValueError("its name is another's")
        entry.is_due()
        return entry


class Scheduler(RedBeatScheduler):  # type: ignore[misc]
    """RedBeat that waits for its broker, survives what it finds there, and trusts no clock but the present.

    The health file is touched by a beat that sends, that stands by while another has the lock, or that waits
    for its broker, and says so. One that could send, and sends nothing, does not touch it.

    Each message carries in its header `slot` when it was due, in ISO 8601: the job history keeps it.
    """

    Entry = Entry
    lock: Any = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        #: Whether the timetable is in the broker, as this process knows it.
        self._installed = False
        #: Messages that were due, and could not be sent: name → entry.
        self._unsent: dict[str, Any] = {}
        self._well_at = time.monotonic()
        self._clock = time.time() - time.monotonic()
        super().__init__(*args, **kwargs)

    def setup_schedule(self) -> None:
        """Do nothing yet: the beat that holds the lock writes the timetable, once there is a broker."""

    # -- a turn -----------------------------------------------------------------------------------------

    def tick(self, *_args: Any, **_kwargs: Any) -> float:
        """Send what is due; return the seconds until the next turn."""
        pause: float = self.max_interval
        try:
            if self._locked():
                self._install()
                pause = self._turn()
            else:
                self._well_at = time.monotonic()
        except BROKER_AWAY as error:
            log.warning("beat.turn_failed", error=described(error))
            self._well_at = time.monotonic()
        except LockError:
            # It ran out within the turn; the next one tries for it.
            log.warning("beat.lock_lost")
        except ResponseError as error:
            # A key of the schedule is not what it should be.
            log.error("beat.schedule_unreadable", error=described(error))
            self._installed = False
        if time.monotonic() - self._well_at < self._patience():
            touch_health_file()
        return pause

    def _locked(self) -> bool:
        """Take the lock, or prolong it; return whether this process has it."""
        if self.lock is not None and self.lock.owned():
            self.lock.extend(int(self.lock_timeout))
            return True
        client = get_redis(self.app)
        lock = client.lock(self.lock_key, timeout=self.lock_timeout)
        # Redis-py's own adds to the time that is left.
        lock.lua_extend = client.register_script(LUA_EXTEND_TO_SCRIPT)
        if not lock.acquire(blocking=False):
            if client.type(self.lock_key) not in ("string", "none") or client.ttl(self.lock_key) == -1:
                log.error("beat.lock_unreadable", key=self.lock_key)
                client.delete(self.lock_key)
            return False
        log.info("beat: Acquired lock")
        self.lock = lock
        # Another has had it, or the broker has lost it, and all else with it.
        self._installed = False
        self._well_at = time.monotonic()
        return True

    def _turn(self) -> float:
        pauses: list[float] = [self.max_interval]
        due = []
        for entry in self.schedule.values():
            is_due, pause = entry.is_due()
            if is_due:
                due.append(entry)
            if pause:
                pauses.append(pause)
        waiting = queued_tasks(get_redis(self.app), {self._queue(entry) for entry in due}, PILE)
        for entry in due:
            tasks = waiting[self._queue(entry)]
            if tasks is not None and tasks.get(entry.task) is False:
                # Its message has expired, so this run has not been: it is sent when that is discarded. A job
                # that runs once a day would else be silent for another day after an outage of one.
                continue
            message = self._reserved(entry)
            # A job waits once. So a queue holds no more messages than there are jobs, and each has its turn.
            # If all were sent whenever they are due, the last of a long queue would expire, always the same.
            if tasks is not None and entry.task not in tasks:
                self._unsent[entry.name] = message
        if due and not self._unsent:
            # That nothing is taken is the workers' illness.
            self._well_at = time.monotonic()
        if piled := [queue for queue, tasks in waiting.items() if tasks is None]:
            log.warning("beat.queue_too_long", queues=piled)
        for name, message in list(self._unsent.items()):
            self._send(message)
            del self._unsent[name]
        return min(pauses)

    def _queue(self, entry: Any) -> str:
        task = self.app.tasks.get(entry.task)
        named = entry.options.get("queue") or getattr(task, "queue", None)
        return named if isinstance(named, str) else str(self.app.conf.task_default_queue)

    def _reserved(self, entry: Any) -> Any:
        """Note that an entry runs now; return it with its slot."""
        slot = _due(entry)
        entry = self.reserve(entry)
        # One of its own, made when the other has been saved: the slot must not get into Redis with it.
        headers = {**entry.options.get("headers", {}), "slot": slot.isoformat()}
        return self.Entry(**{**dict(entry), "options": {**entry.options, "headers": headers}})

    def _send(self, entry: Any) -> None:
        try:
            # By a connection of the application's pool. Beat's own would wait for the broker for ever.
            self.apply_async(entry, producer=None, advance=False)
        except SchedulingError as error:
            if isinstance(error.__context__, BROKER_AWAY):
                raise error.__context__ from error
            log.error("beat.not_sent", entry=ascii(entry.name), error=str(error)[:300])
            if entry.name in self.app.redbeat_conf.schedule:
                self._replace(entry.key)
        else:
            log.info("beat.sent", entry=entry.name, task=entry.task)
            self._well_at = time.monotonic()

    def _patience(self) -> float:
        periods = [
            every.total_seconds()
            for entry in self.app.redbeat_conf.schedule.values()
            if isinstance(every := entry["schedule"], timedelta)
        ]
        return max(LEAST_SECONDS, PERIODS * min(periods, default=0.0))

    # -- what is in the broker --------------------------------------------------------------------------

    @property
    def schedule(self) -> dict[str, Any]:
        """What is due, or will be within a turn, by key."""
        now = to_timestamp(self.app.now())
        key = self.app.redbeat_conf.schedule_key
        with get_redis(self.app).pipeline() as pipe:
            pipe.zrangebyscore(key, 0, now + self.max_interval)
            pipe.zcard(key)
            due, count = pipe.execute()
        if count < len(self.app.redbeat_conf.schedule):
            # Entries were removed from the schedule.
            self._installed = False
        return {key: entry for key in due if (entry := self._load(key)) is not None}

    def _install(self) -> None:
        """Write the timetable, and correct what another clock has written, if that may be necessary."""
        clock, self._clock = self._clock, time.time() - time.monotonic()
        if clock - self._clock > SET_BACK_SECONDS:
            log.warning("beat.clock_set_back", seconds=round(clock - self._clock, 1))
            self._installed = False
        if self._installed:
            return
        config = self.app.redbeat_conf
        client = get_redis(self.app)
        installation.confirm(client)
        for key, kind in ((config.schedule_key, "zset"), (config.statics_key, "set")):
            if client.type(key) not in (kind, "none"):
                log.error("beat.key_unreadable", key=key)
                client.delete(key)
        for name in client.smembers(config.statics_key) - config.schedule.keys():
            # What an earlier version's timetable had.
            key = self.Entry.generate_key(self.app, name)
            client.zrem(config.schedule_key, key)
            if key not in (config.schedule_key, config.statics_key, config.lock_key):
                client.delete(key)
            client.srem(config.statics_key, name)
        self.update_from_dict(config.schedule)
        client.sadd(config.statics_key, *config.schedule)
        for key in client.zrange(config.schedule_key, 0, -1):
            entry = self._load(key)
            if entry is not None:
                client.zadd(config.schedule_key, {key: entry.score})
        self._installed = True

    def update_from_dict(self, dict_: Mapping[str, Any]) -> None:
        """Write entries, each with the time of its last run, if it has run before."""
        client = get_redis(self.app)
        for name, given in dict_.items():
            entry = self._maybe_entry(name, given)
            if client.type(entry.key) != "none":
                stored = self._load(entry.key)
                if stored is None:
                    continue
                entry.last_run_at = stored.last_run_at
            entry.save()

    def _load(self, key: str) -> Any:
        """Return an entry; None for one that cannot be read, and has been replaced."""
        try:
            entry = self.Entry.from_key(key, app=self.app)
            last = entry.last_run_at
            now = entry.default_now()
            ahead = (last - now).total_seconds() if last is not None else 0.0
        except BROKER_AWAY:
            raise
        except Exception as error:  # noqa: BLE001 - content from outside: each kind fails in its own way
            log.error("beat.entry_unreadable", key=ascii(key), error=type(error).__name__)
            self._replace(key)
            return None
        if ahead > 0:
            # A clock that was ahead has written this; it would be silent for as long again. The run was
            # before now.
            if ahead > NOTICED_SECONDS:
                log.warning("beat.run_in_the_future", entry=ascii(entry.name), seconds=round(ahead, 1))
            entry.reschedule(now)
        return entry

    def _replace(self, key: str) -> None:
        """Write an entry anew, as the timetable has it, to run at once; one that is not in it goes."""
        config = self.app.redbeat_conf
        client = get_redis(self.app)
        name = key.removeprefix(config.key_prefix)
        if name in config.schedule:
            client.delete(key)
            entry = self._maybe_entry(name, config.schedule[name])
            entry.last_run_at = None
            entry.save()
        else:
            # What is there under this name may be something else.
            client.zrem(config.schedule_key, key)

    def close(self) -> None:
        """Give the lock back; if that cannot be done it runs out by itself."""
        try:
            super().close()
        except _NOT_RELEASED as error:
            log.warning("beat.lock_not_released", error=type(error).__name__)


def _due(entry: Any) -> datetime:
    """Return when the entry was due: after an outage that is some time ago."""
    now: datetime = entry.default_now()
    if entry.last_run_at is not None:
        now += min(entry.schedule.remaining_estimate(entry.last_run_at), timedelta(0))
    return now.astimezone(UTC)

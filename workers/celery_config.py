"""Celery's configuration, each setting with the reason why it is not the stock one.

Loaded by `workers.app` at the first use of its configuration.
"""

from kombu import Queue
from kombu.transport import TRANSPORT_ALIASES
from redis.backoff import NoBackoff
from redis.retry import Retry

from workers.queues import KINDS, UNNAMED
from workers.settings import get_settings

_settings = get_settings()
_broker = _settings.broker_url.get_secret_value()

# -- What is sent ---------------------------------------------------------------------------------------
broker_url = _broker
# Redis still, but for messages that would end a worker. Under the usual names: Flower goes by them.
TRANSPORT_ALIASES.update(redis="workers.transport:Transport", rediss="workers.transport:Transport")
# JSON only: with pickle, every client that can reach the broker could run code in a worker.
task_serializer = "json"
result_serializer = "json"
accept_content = ["json"]
timezone = "UTC"
enable_utc = True
# Results live in our tables. A result backend would cost a write per task, and nothing reads it.
task_ignore_result = True
# Once more, for a connection that has gone stale. With the time-outs below a publish to a frozen broker fails
# after some seconds; without them it would block its caller for ever.
task_publish_retry_policy = {"max_retries": 1, "interval_start": 0.2}

# -- Queues ---------------------------------------------------------------------------------------------
task_queues = [Queue(name) for kind in KINDS.values() for name in kind.queues]
task_default_queue = UNNAMED
# A misspelt queue is an error at the sender, not a queue that no worker consumes.
task_create_missing_queues = False

# -- Taken once, acknowledged late ----------------------------------------------------------------------
# A killed worker's task runs again. Attempts are counted in Postgres, for these two requeue without bound.
task_acks_late = True
task_reject_on_worker_lost = True
# What a worker has not begun stays in the queue for others.
worker_prefetch_multiplier = 1
broker_transport_options = {
    # How long a silent worker keeps its messages. `workers.visibility` refreshes those of a live one, so
    # this may be short without long tasks running twice.
    "visibility_timeout": _settings.visibility_timeout_seconds,
    # The stock restore scan runs every 100 s (10 × 10), so a killed worker's messages would come back
    # 100 s after their visibility timeout.
    "unacked_restore_interval": 2,
    "unacked_restore_throttle": 1,
    "socket_timeout": 5,
    "socket_connect_timeout": 5,
    "socket_keepalive": True,
    "health_check_interval": 10,
}
broker_connection_retry_on_startup = True
# A worker outlives any outage of its broker, and any answer of it: it connects again, which sets aside what
# is in the way. See `workers.broker_errors` and `workers.transport`.
broker_connection_max_retries = None
broker_channel_error_retry = True
# A task goes on through a reconnect: its claim in Postgres makes the redelivered message a no-op.
worker_cancel_long_running_tasks_on_connection_loss = False

# -- Bounds ---------------------------------------------------------------------------------------------
task_soft_time_limit = _settings.task_soft_limit_seconds
task_time_limit = _settings.task_hard_limit_seconds
# Libraries that decode untrusted input leak: replace children from time to time.
worker_max_tasks_per_child = 1000

# -- Shutdown -------------------------------------------------------------------------------------------
# SIGTERM begins a warm shutdown, which `workers.app` limits. Celery's own soft shutdown would sleep for all
# of its time, however soon the tasks are done.
worker_soft_shutdown_timeout = 0

# -- Seen -----------------------------------------------------------------------------------------------
worker_send_task_events = True
worker_hijack_root_logger = False
worker_redirect_stdouts = False

# -- Beat -----------------------------------------------------------------------------------------------
# What is sent when is said by `roomkeeper beat`: the timetable knows the definitions, which stand above
# `workers`.
beat_scheduler = "workers.beat:Scheduler"
# One beat holds a lock, others stand by: with the stock lock of 25 minutes no beat would tick for so long.
beat_max_loop_interval = 1
redbeat_lock_timeout = 6
redbeat_redis_url = _broker
redbeat_key_prefix = "roomkeeper:beat:"
# Untrusted bytes in its keys come back as they are, and are reported as unreadable.
redbeat_redis_options = {
    "socket_timeout": 5,
    "socket_connect_timeout": 5,
    "encoding_errors": "surrogateescape",
    # Once more, for a connection that has gone stale. Longer waits are the scheduler's, which logs them.
    "retry": Retry(NoBackoff(), 1),
}

# The modules that define tasks. Names, not imports: `tasks` stands above `workers`.
include = [
    "tasks.attachments.process",
    "tasks.attachments.recover",
    "tasks.attachments.rescan",
    "tasks.attachments.urls",
    "tasks.delivery.record",
    "tasks.delivery.drain",
    "tasks.delivery.recount",
    "tasks.delivery.audit",
    "tasks.sweeps.task",
    "tasks.outbox",
    "tasks.quarantine",
    "tasks.retention.task",
    "tasks.retention.object_deletions",
    "tasks.analytics.task",
]

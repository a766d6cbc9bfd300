"""How the platform runs: the Celery application, settings, database, storage and the scanner's client."""

from workers.time_zones import use_pinned_rules

# Every program of ours imports this, before it reads a zone.
use_pinned_rules()

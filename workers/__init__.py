"""How the platform runs: the Celery application, settings, database, storage and the scanner's client."""

"""Real servers for development and tests: PostgreSQL, PgBouncer, Valkey, clamd, SeaweedFS."""

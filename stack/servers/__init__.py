"""Real servers for development and tests: PostgreSQL, Valkey, clamd, SeaweedFS."""

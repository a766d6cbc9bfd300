"""The local stack: real PostgreSQL, Valkey and clamd beside the workers, for development and tests."""

"""Alembic migrations of the platform's own schema, `roomkeeper`, and of nothing else."""

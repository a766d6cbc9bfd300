"""A rollup that counts something else has a higher `definition`: this test is the reminder."""

from hashlib import sha256

from sqlalchemy.dialects import postgresql
from syrupy.assertion import SnapshotAssertion

from tasks.apps import ROLLUPS
from tasks.policies.rollup import Rollup


def fingerprint(rollup: Rollup) -> str:
    """Return a hash of the statement that computes a bucket."""
    compiled = rollup.select.compile(dialect=postgresql.dialect())  # type: ignore[no-untyped-call]
    values = sorted(f"{name}={value!r}" for name, value in compiled.params.items())
    return sha256("\n".join([str(compiled), *values]).encode()).hexdigest()[:12]


def test_a_rollup_that_counts_something_else_has_another_definition(snapshot: SnapshotAssertion) -> None:
    """If this fails, and the rollup counts something else, increase its `definition`. Then, or if it counts
    the same as before: `pytest tests/analytics/test_rollup_definitions.py --snapshot-update`.
    """
    found = {name: f"{rollup.definition} {fingerprint(rollup)}" for name, rollup in ROLLUPS.items()}
    assert found == snapshot

"""Settings by which one sees within seconds what the jobs do."""

from tasks.apps import POLICIES, ROLLUPS
from tasks.policies.retention import Retention

#: How often each policy runs, and each rollup, so that one sees what it does.
SWEEP_SECONDS, ROLLUP_SECONDS = 5, 10
#: How long retention keeps rows where no document says it.
RETENTION_DAYS = 400
#: So that one sees the recovery job, the sweeps and the rollups at work without waiting long for them.
IMPATIENT = {
    "ROOMKEEPER_ATTACHMENT_GRACE_SECONDS": "3",
    "ROOMKEEPER_RECOVER_EVERY_SECONDS": "3",
    "ROOMKEEPER_SWEEP_EVERY": ",".join(
        [
            *(f"{name}={SWEEP_SECONDS}" for name in POLICIES if name != "roomkeeper.runs"),
            *(f"{name}={ROLLUP_SECONDS}" for name in ROLLUPS),
        ]
    ),
    "ROOMKEEPER_RETENTION_DAYS": ",".join(
        f"{name}={RETENTION_DAYS}"
        for name, policy in POLICIES.items()
        if isinstance(policy, Retention) and policy.off_until_set
    ),
}

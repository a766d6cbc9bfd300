"""Commands that messages advise. Each can be pasted into a shell as it is printed."""

#: Stands where the operator's own reason belongs; no command takes it for one.
REASON = "REASON"


def approve(policy: str) -> str:
    """Return the command that approves what a policy is about to take."""
    return f'roomkeeper retention approve {policy} --reason "{REASON}"'

"""How an attempt ends that reaches no verdict."""


class NotYetError(Exception):
    """The file waits, through no fault of its own: `reason` for machines, `detail` for people."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


class FailedError(NotYetError):
    """The attempt failed, perhaps through the file's fault: it counts."""

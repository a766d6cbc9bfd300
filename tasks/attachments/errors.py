"""How an attempt ends that reaches no verdict."""


class NotYetError(Exception):
    """The file waits, through no fault of its own: `reason` for machines, `detail` for people.

    `within` is the longest pause before it is tried again, in seconds; None if any will do.
    """

    def __init__(self, reason: str, detail: str, *, within: float | None = None) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail, self.within = reason, detail, within


class FailedError(NotYetError):
    """The attempt failed, perhaps through the file's fault: it counts."""


class GivenUpError(NotYetError):
    """The file has waited for as long as it may: it fails, however many attempts it has left."""

"""The error that the command line prints as a sentence; alone here, so that to catch it costs no import."""


class OperatorError(Exception):
    """Something that the operator can put right. The message says what is wrong, and what to do."""

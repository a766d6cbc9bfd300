"""What goes wrong in the local stack."""

from workers.errors import OperatorError


class StackError(OperatorError):
    """The local stack cannot start or go on. The message is for the person who typed the command."""


class PortTakenError(StackError):
    """A program found its port taken by another program between the choice and its start."""

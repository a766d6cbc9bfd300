"""What goes wrong in the local stack."""


class StackError(Exception):
    """The local stack cannot start or go on. The message is for the person who typed the command."""

"""Where Unix sockets go: beside the data, unless that path is too long for the kernel."""

import hashlib
import os
import tempfile
from pathlib import Path

from stack.errors import StackError

#: The kernel's limit is 107 bytes; supervisord first binds the name with a dot and its process id appended.
_LONGEST = 107 - len(".4194304")


def socket_path(directory: Path, name: str) -> Path:
    """Return where to put the socket `name` of the state directory `directory`, the same each time.

    Raises:
        StackError: someone else has taken the name that the directory for short paths must have.
    """
    path = directory.resolve() / name
    if len(os.fsencode(path)) <= _LONGEST:
        return path
    key = hashlib.sha256(os.fsencode(directory.resolve())).hexdigest()[:12]
    short = Path(tempfile.gettempdir()) / f"roomkeeper-{os.getuid()}-{key}"
    short.mkdir(mode=0o700, exist_ok=True)
    owner = short.lstat()
    # Anybody may write into the directory for temporary files: a stranger's directory is not to be trusted.
    if owner.st_uid != os.getuid() or owner.st_mode & 0o077 or short.is_symlink():
        raise StackError(f"{short} is not only yours; remove it, or choose a shorter state directory.")
    return short / name

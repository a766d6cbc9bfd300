"""Landlock: from now on this process reaches these files and nothing else, for good.

Needs no privilege. Kernels before 5.13, or built or started without it, have none: `restrict` then raises
`OSError`, and the caller says what is missing. What newer kernels can deny in addition is denied there.
"""

import ctypes
import os
import stat
from collections.abc import Iterable
from pathlib import Path

# The numbers are the same on every architecture that Landlock exists on.
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_PATH_BENEATH = 1
_VERSION = 1
_O_PATH = 0o10000000

# Rights to files, as in linux/landlock.h.
_WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 1, 1 << 2, 1 << 3
_TRUNCATE = 1 << 14
#: All rights that each version of the kernel's interface knows: what is handled is denied unless allowed.
_HANDLED_FILES = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 4: (1 << 15) - 1}
_ALL_FILES = (1 << 16) - 1
#: Since version 4: to bind a TCP socket, to connect one.
_ALL_NETWORK = 0b11
#: Since version 6: abstract sockets of others, signals to others.
_ALL_SCOPES = 0b11

_libc = ctypes.CDLL(None, use_errno=True)


class _Ruleset(ctypes.Structure):
    _fields_ = (("files", ctypes.c_uint64), ("network", ctypes.c_uint64), ("scopes", ctypes.c_uint64))


class _Beneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("rights", ctypes.c_uint64), ("descriptor", ctypes.c_int32))


def restrict(readable: Iterable[Path], writable: Iterable[Path]) -> int:
    """Confine this process to these files, and to what is beneath those that are directories.

    Args:
        readable: may be read. What cannot be reached is left out.
        writable: files that exist already and may be read, written and cut. None can be made or removed.

    Returns:
        The version of the kernel's interface.

    Raises:
        OSError: this kernel has no Landlock, or does not let us use it.
    """
    version = _call(_CREATE_RULESET, None, 0, _VERSION)
    handled = _HANDLED_FILES.get(version, _ALL_FILES)
    wanted = _Ruleset(handled, _ALL_NETWORK if version >= 4 else 0, _ALL_SCOPES if version >= 6 else 0)
    # An older kernel takes a longer record if what it does not know is zero.
    ruleset = _call(_CREATE_RULESET, ctypes.byref(wanted), ctypes.sizeof(wanted), 0)
    try:
        for path in readable:
            _allow(ruleset, path, _READ_FILE | _READ_DIR)
        for path in writable:
            _allow(ruleset, path, (_READ_FILE | _WRITE_FILE | _TRUNCATE) & handled)
        _call(_RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(ruleset)
    return version


def _allow(ruleset: int, path: Path, rights: int) -> None:
    try:
        descriptor = os.open(path, _O_PATH | os.O_CLOEXEC)
    except (FileNotFoundError, PermissionError):
        # What cannot be reached without walls cannot be reached with them.
        return
    try:
        if not stat.S_ISDIR(os.fstat(descriptor).st_mode):
            rights &= ~_READ_DIR
        _call(_ADD_RULE, ruleset, _PATH_BENEATH, ctypes.byref(_Beneath(rights, descriptor)), 0)
    finally:
        os.close(descriptor)


def _call(number: int, *arguments: object) -> int:
    # Without this a plain int is passed as 32 bits; the kernel reads 64.
    wide = (ctypes.c_long(a) if isinstance(a, int) else a for a in arguments)
    result = int(_libc.syscall(ctypes.c_long(number), *wide))
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return result

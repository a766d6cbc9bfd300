"""seccomp: from now on the kernel answers this process only these calls, for good.

A list of what decoders need, not of what is known to be dangerous: calls that a later kernel adds are denied
until they are listed here. Written as BPF by hand: the only Python package rests on a system library that
need not be there, and has had no release since 2021.
"""

import ctypes
import errno
import os
import platform
import struct

#: Calls that are answered, with their numbers on (x86_64, aarch64); None where there is no such call.
ALLOWED: dict[str, tuple[int | None, int | None]] = {
    "read": (0, 63),
    "write": (1, 64),
    "open": (2, None),
    "close": (3, 57),
    "stat": (4, None),
    "fstat": (5, 80),
    "lstat": (6, None),
    "poll": (7, None),
    "lseek": (8, 62),
    "mmap": (9, 222),
    "mprotect": (10, 226),
    "munmap": (11, 215),
    "brk": (12, 214),
    "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139),
    "pread64": (17, 67),
    "pwrite64": (18, 68),
    "readv": (19, 65),
    "writev": (20, 66),
    "access": (21, None),
    "sched_yield": (24, 124),
    "mremap": (25, 216),
    "madvise": (28, 233),
    "dup": (32, 23),
    "nanosleep": (35, 101),
    "getpid": (39, 172),
    "sendfile": (40, 71),
    "exit": (60, 93),
    "uname": (63, 160),
    "fcntl": (72, 25),
    "ftruncate": (77, 46),
    "getcwd": (79, 17),
    "readlink": (89, None),
    "gettimeofday": (96, 169),
    "getrlimit": (97, 163),
    "getrusage": (98, 165),
    "sysinfo": (99, 179),
    "times": (100, 153),
    "getuid": (102, 174),
    "getgid": (104, 176),
    "geteuid": (107, 175),
    "getegid": (108, 177),
    "getppid": (110, 173),
    "sigaltstack": (131, 132),
    "gettid": (186, 178),
    "time": (201, None),
    "futex": (202, 98),
    "sched_getaffinity": (204, 123),
    "getdents64": (217, 61),
    "set_tid_address": (218, 96),
    "restart_syscall": (219, 128),
    "fadvise64": (221, 223),
    "clock_gettime": (228, 113),
    "clock_getres": (229, 114),
    "clock_nanosleep": (230, 115),
    "exit_group": (231, 94),
    "openat": (257, 56),
    "newfstatat": (262, 79),
    "readlinkat": (267, 78),
    "faccessat": (269, 48),
    "ppoll": (271, 73),
    "set_robust_list": (273, 99),
    "getcpu": (309, 168),
    "getrandom": (318, 278),
    "membarrier": (324, 283),
    "copy_file_range": (326, 285),
    "statx": (332, 291),
    "rseq": (334, 293),
    "faccessat2": (439, 439),
}
#: Calls that are answered under a condition; see `_program`.
CLONE, CLONE3 = (56, 220), (435, 435)
PRLIMIT = (302, 261)
SIGNALS = ((62, 129), (234, 131))  # kill, tgkill

#: Audit numbers of the architectures, and their column above.
MACHINES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}

_LOAD, _EQUAL, _ANY_BIT, _RETURN = 0x20, 0x15, 0x45, 0x06
_ALLOW, _KILL = 0x7FFF0000, 0x80000000
_DENY = 0x00050000 | errno.EPERM
_UNKNOWN = 0x00050000 | errno.ENOSYS
_NUMBER_AT, _MACHINE_AT, _ARGUMENTS_AT = 0, 4, 16
_CLONE_THREAD = 0x10000
_PR_SET_SECCOMP, _MODE_FILTER = 22, 2

_libc = ctypes.CDLL(None, use_errno=True)


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def restrict() -> None:
    """Confine this process to the allowed calls. It must have given up new privileges before.

    Raises:
        OSError: this kernel has no seccomp, or the architecture's numbers are not known here.
    """
    if platform.machine() not in MACHINES:
        raise OSError(errno.ENOSYS, f"no table of calls for {platform.machine()}")
    code = _program(*MACHINES[platform.machine()], os.getpid())
    program = _Program(len(code) // 8, code)
    if _libc.prctl(_PR_SET_SECCOMP, _MODE_FILTER, ctypes.byref(program), 0, 0) != 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))


def _program(machine: int, column: int, own_pid: int) -> bytes:
    """Return the filter: what the kernel runs at each call, 8 bytes an instruction."""

    def only(number: int | None, *body: bytes) -> list[bytes]:
        """Run `body` for this call only; it must end in a return."""
        return [_step(_EQUAL, number, 0, len(body)), *body] if number is not None else []

    allow, deny = _step(_RETURN, _ALLOW), _step(_RETURN, _DENY)
    steps = [
        # Another architecture's calls have other numbers; no program here makes them by accident.
        _step(_LOAD, _MACHINE_AT),
        _step(_EQUAL, machine, 1, 0),
        _step(_RETURN, _KILL),
        _step(_LOAD, _NUMBER_AT),
    ]
    for numbers in ALLOWED.values():
        steps += only(numbers[column], allow)
    # Threads, but no processes.
    steps += only(
        CLONE[column], _step(_LOAD, _ARGUMENTS_AT), _step(_ANY_BIT, _CLONE_THREAD, 0, 1), allow, deny
    )
    # Its flags lie in memory, where a filter does not see them; the C library then uses the older call.
    steps += only(CLONE3[column], _step(_RETURN, _UNKNOWN))
    # Limits may be read, not set: the third argument, of 64 bits, is the new limit.
    steps += only(
        PRLIMIT[column],
        _step(_LOAD, _ARGUMENTS_AT + 2 * 8),
        _step(_EQUAL, 0, 0, 3),
        _step(_LOAD, _ARGUMENTS_AT + 2 * 8 + 4),
        _step(_EQUAL, 0, 0, 1),
        allow,
        deny,
    )
    # A process may signal itself, or `abort` would not end it.
    for numbers in SIGNALS:
        steps += only(numbers[column], _step(_LOAD, _ARGUMENTS_AT), _step(_EQUAL, own_pid, 0, 1), allow, deny)
    return b"".join([*steps, deny])


def _step(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, if_true, if_false, value)

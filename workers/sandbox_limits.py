"""Makes the calling process harmless, for good, before it opens a stranger's file."""

import ctypes
import os
import resource
import sys
import sysconfig
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path

from workers import landlock, syscalls

#: Files that a process may have open, and processes and threads of its user (the kernel asks root no such
#: thing; calls that make processes are denied besides).
OPEN_FILES = 64
PROCESSES = 4096

_PR_SET_DUMPABLE, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS, _PR_CAP_AMBIENT = 4, 24, 38, 47
_PR_CAP_AMBIENT_CLEAR_ALL = 4
_CAPABILITY_VERSION = 0x20080522

_libc = ctypes.CDLL(None, use_errno=True)


def restrict(
    source: Path, outputs: Sequence[Path], *, memory_bytes: int, seconds: int, file_bytes: int
) -> dict[str, str | None]:
    """Confine this process to one file and what it is to write.

    Args:
        source: the one file of a stranger that may be read.
        outputs: the files, existing, that may be written.
        memory_bytes: of address space.
        seconds: of CPU time.
        file_bytes: what each file that is written may grow to.

    Returns:
        Each protection, with None if it is in force or the reason why it is not.

    Raises:
        OSError, ValueError: not even the limits could be set; then nothing must be opened.
    """
    for limit, value in (
        (resource.RLIMIT_AS, memory_bytes),
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_FSIZE, file_bytes),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, OPEN_FILES),
        (resource.RLIMIT_NPROC, PROCESSES),
    ):
        # What is lower already stays.
        ceiling = resource.getrlimit(limit)[1]
        value = value if ceiling == resource.RLIM_INFINITY else min(value, ceiling)
        resource.setrlimit(limit, (value, value))
    # If memory runs short, this process goes first, and not the worker.
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    steps: dict[str, Callable[[], object]] = {
        "capabilities": _drop_capabilities,
        "undumpable": lambda: _prctl(_PR_SET_DUMPABLE, 0),
        "landlock": lambda: landlock.restrict((source, *installation()), outputs),
        # Last: it denies the calls that the others make.
        "seccomp": syscalls.restrict,
    }
    return {"limits": None, "no_new_privs": None} | {name: _attempt(step) for name, step in steps.items()}


@cache
def installation() -> tuple[Path, ...]:
    """Return what Python needs to import a module: its own library, packages, ours, shared libraries."""
    project = Path(__file__).resolve().parents[1]
    names = ("stdlib", "platstdlib", "purelib", "platlib")
    paths = {Path(sysconfig.get_path(name)) for name in names}
    paths |= {Path(entry) for entry in sys.path if Path(entry).is_dir()} - {project, Path("/")}
    # Not our whole directory: beside the packages a developer keeps a `.env`.
    paths |= {project / "tasks", project / "workers"}
    paths |= {Path(sysconfig.get_config_var("LIBDIR") or "/usr/lib")}
    paths |= {Path(name) for name in ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/etc/ld.so.cache")}
    # Fonts that a document names and does not bring.
    paths |= {Path(name) for name in ("/usr/share/fonts", "/usr/share/zoneinfo", "/dev/null", "/dev/urandom")}
    return tuple(sorted(paths))


def _drop_capabilities() -> None:
    """Give up every capability: root's own could lift the limits again."""
    last = int(Path("/proc/sys/kernel/cap_last_cap").read_text())
    with suppress(OSError):
        # Only who has the capability to may; who has not cannot regain any either: no new privileges.
        for number in range(last + 1):
            _prctl(_PR_CAPBSET_DROP, number)
    with suppress(OSError):
        _prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION, 0)
    none = (ctypes.c_uint32 * 6)()
    if _libc.capset(header, none) != 0:
        raise _error()


def _prctl(option: int, value: int) -> None:
    if _libc.prctl(option, ctypes.c_ulong(value), ctypes.c_ulong(0), ctypes.c_ulong(0), ctypes.c_ulong(0)):
        raise _error()


def _error() -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))


def _attempt(step: Callable[[], object]) -> str | None:
    try:
        step()
    except OSError as error:
        return str(error)
    return None

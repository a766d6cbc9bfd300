"""What a decoder that was taken over might do in the sandbox. Imported there by name, as work."""

import ctypes
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

_libc = ctypes.CDLL(None, use_errno=True)
#: Numbers of x86_64 and of aarch64.
_COLUMN = 0 if os.uname().machine == "x86_64" else 1
FORBIDDEN = {
    "socket": (41, 198),
    "connect": (42, 203),
    "clone3": (435, 435),
    "execve": (59, 221),
    "execveat": (322, 281),
    "tkill": (200, 130),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "mount": (165, 40),
    "unshare": (272, 97),
    "setns": (308, 268),
    "bpf": (321, 280),
    "io_uring_setup": (425, 425),
    "add_key": (248, 217),
    "keyctl": (250, 219),
    "setrlimit": (160, 164),
    "prctl": (157, 167),
    "seccomp": (317, 277),
    "capset": (126, 91),
    "setuid": (105, 146),
    "userfaultfd": (323, 282),
    "perf_event_open": (298, 241),
    "pidfd_open": (434, 434),
    "memfd_create": (319, 279),
    "landlock_create_ruleset": (444, 444),
    "chmod": (268, 53),
    "symlinkat": (266, 36),
    "unlinkat": (263, 35),
    "mknodat": (259, 33),
    "ioctl": (16, 29),
}


def look(source: Path, folder: Path, **options: Any) -> dict[str, Any]:
    """Read the file, as every decoder does."""
    return {"bytes": len(source.read_bytes()), "folder": str(folder), "cwd": str(Path.cwd())} | options


def environment(source: Path, folder: Path) -> dict[str, Any]:
    return {"environment": dict(os.environ), "open": _open_descriptors()}


def _open_descriptors() -> list[int]:
    found = []
    for number in range(64):
        try:
            os.fstat(number)
        except OSError:
            continue
        found.append(number)
    return found


def write(source: Path, folder: Path, text: str) -> dict[str, Any]:
    (folder / "wanted").write_text(text)
    return {}


def hang(source: Path, folder: Path) -> None:
    """Wait for ever, deaf to every signal that can be ignored or blocked."""
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    while True:
        time.sleep(1000)


def hang_in_c(source: Path, folder: Path) -> None:
    """Never come back to Python."""
    lock = threading.Lock()
    lock.acquire()
    # Without letting go of the interpreter's lock: no Python code runs again, no signal handler either.
    ctypes.PyDLL(None).sem_wait(ctypes.byref(ctypes.create_string_buffer(32)))


def hang_up_and_hang(source: Path, folder: Path) -> None:
    """Close the way to answer, and stay."""
    os.close(3)
    hang(source, folder)


def compute(source: Path, folder: Path) -> None:
    """Compute for ever, and survive the warning that computing time is over."""
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(number, signal.SIG_IGN)
    while True:
        pass


def crash(source: Path, folder: Path, number: int) -> None:
    os.kill(os.getpid(), number)


def abort(source: Path, folder: Path) -> None:
    _libc.abort()


def grow(source: Path, folder: Path) -> None:
    held = []
    while True:
        held.append(bytearray(1 << 20))


def fail(source: Path, folder: Path) -> None:
    raise LookupError("no such thing")


def nothing(source: Path, folder: Path) -> list[int]:
    return [1]


def say(source: Path, folder: Path, text: str) -> None:
    """Answer in its own words, and end as if all were well."""
    os.write(3, text.encode())
    os._exit(0)


def say_for_ever(source: Path, folder: Path) -> None:
    while True:
        os.write(3, bytes(65536))


def say_much(source: Path, folder: Path, length: int) -> dict[str, Any]:
    return {"text": "x" * length}


def fill_the_disk(source: Path, folder: Path) -> dict[str, Any]:
    """Write until it is stopped, everywhere that comes to mind; say where that was, and how much."""
    failed, wrote = [], 0
    for path in (folder / "another", folder / "a" / "b", Path("/tmp/flood"), Path("/dev/shm/flood"), source):
        try:
            path.open("wb").close()
        except OSError as error:
            failed.append([str(path), type(error).__name__])
    for path, flags in (
        (folder, os.O_TMPFILE | os.O_RDWR),
        (source, os.O_RDWR),
        (source, os.O_APPEND | os.O_WRONLY),
    ):
        try:
            os.open(path, flags)
        except OSError as error:
            failed.append([str(path), type(error).__name__])
    try:
        with (folder / "wanted").open("wb", buffering=0) as file:
            while True:
                wrote += file.write(bytes(1 << 20))
    except OSError as error:
        return {"wrote": wrote, "error": error.errno, "failed": failed}


def pry(source: Path, folder: Path, paths: list[str]) -> dict[str, Any]:
    """Try to read each, a file or a directory."""
    read = []
    for path in map(Path, paths):
        try:
            _ = path.read_bytes() if path.is_file() else list(path.iterdir())
        except OSError:
            continue
        read.append(str(path))
    return {"read": read}


def break_out(source: Path, folder: Path, victim: int) -> dict[str, Any]:
    """Try each forbidden thing; return those that worked, or were not even denied."""
    worked = []

    def attempt(name: str, action: Callable[[], object]) -> None:
        try:
            action()
        except (OSError, ValueError):
            return
        worked.append(name)

    for name, numbers in FORBIDDEN.items():
        ctypes.set_errno(0)
        result = _libc.syscall(ctypes.c_long(numbers[_COLUMN]), *[ctypes.c_long(0)] * 6)
        if result != -1 or ctypes.get_errno() not in (1, 38):
            worked.append(name)
    import resource

    attempt("fork", os.fork)
    attempt("run", lambda: subprocess.run(["/bin/true"], check=False))
    attempt("network", lambda: socket.socket())
    attempt("unix socket", lambda: socket.socketpair())
    attempt("limit", lambda: resource.setrlimit(resource.RLIMIT_CPU, (9999, 9999)))
    attempt("limit of others", lambda: resource.prlimit(victim, resource.RLIMIT_CORE, (0, 0)))
    for number in (victim, -1, 0, os.getppid()):
        attempt(f"kill {number}", partial(os.kill, number, 0))
    return {"worked": worked}


def live(source: Path, folder: Path) -> dict[str, Any]:
    """Do what decoders do: threads, the time, random numbers, limits that are read."""
    import resource

    done: list[int] = []
    threads = [threading.Thread(target=done.append, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    time.sleep(0.001)
    return {
        "threads": len(done),
        "random": len(os.urandom(8)),
        "cores": len(os.sched_getaffinity(0)),
        "cpu": list(resource.getrlimit(resource.RLIMIT_CPU)),
    }

"""Has a stranger's bytes decoded in a process that may crash, hang, blow up or be taken over.

Each thread of a worker process that needs it has one small helper (`sandbox_server.py`), started at the first
file, which forks a child for each file. The child confines itself (`sandbox_limits.py`) before it opens
anything, does one piece of work, says what came of it, and ends. Whatever it does costs this file an attempt
and nothing else.
"""

import io
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import weakref
from contextlib import suppress
from pathlib import Path
from time import monotonic
from typing import Any

from workers.sandbox_server import OUT_OF_MEMORY

_PICTURES = ("small.webp", "large.webp")
#: What may be done in the sandbox, and the files that it may write. There is no other work and no other file:
#: not even a decoder that was taken over can fill the disk.
WORKS: dict[str, tuple[str, ...]] = {
    "tasks.attachments.drawing.picture:draw": _PICTURES,
    "tasks.attachments.drawing.raw:draw": _PICTURES,
    "tasks.attachments.drawing.document:draw": _PICTURES,
    "tasks.attachments.drawing.video:draw": _PICTURES,
    "tasks.attachments.drawing.audio:draw": _PICTURES,
    "tasks.attachments.identify:inspect": ("opened",),
    "tasks.attachments.strip:strip": ("stripped",),
    "tasks.attachments.drawing.container:probe": (),
}
#: What a file that is written may be larger than the source.
OUTPUT_BYTES = 64 * 1024 * 1024
#: The longest answer that is read.
ANSWER_BYTES = 256 * 1024
#: How long the helper may take to start on a machine that is busy.
START_SECONDS = 60
#: How long the kernel may take to bury a process that was killed.
BURIAL_SECONDS = 10

#: Large buffers in large pages, if the kernel has them for who asks: a tenth of a picture's time went into
#: being given memory page by page.
ENVIRONMENT = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}

_HELPER = (
    "import sys; sys.path[:0] = [p for p in sys.argv[1:2] if p not in sys.path]\n"
    "from workers.sandbox_server import main; main()"
)


class SandboxFailure(Exception):
    """The work came to no end: that may be the file's doing or the machine's.

    Attributes:
        reason: for machines: `sandbox_died` (it crashed), `sandbox_killed` (by another program),
            `sandbox_timed_out`, `sandbox_out_of_memory`, `sandbox_raised` (the work raised an exception),
            `sandbox_nonsense` (no answer, one that is too long, or one that cannot be read), `sandbox_closed`
            (the helper does not start).
        detail: for people.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


def run(
    work: str, source: Path, folder: Path, options: dict[str, Any], *, seconds: float, memory_bytes: int
) -> dict[str, Any]:
    """Do `work` on one file in a process of its own.

    Args:
        work: one of `WORKS`, `module:function`; called with source, folder and the options as keywords.
        source: the file. It and what Python needs to import modules are all that can be read.
        folder: where the work's files are; those that it leaves empty are taken away again.
        options: must be as good as JSON.
        seconds: of wall-clock time, after which everything is killed.
        memory_bytes: of address space.

    Returns:
        What the function returned. It comes from where a stranger may rule: check every value.

    Raises:
        SandboxFailure: the process came to an end without an answer.
    """
    outputs = WORKS[work]
    source, folder = source.resolve(), folder.resolve()
    request = {
        "work": work,
        "source": str(source),
        "folder": str(folder),
        "outputs": outputs,
        "options": options,
        "memory_bytes": memory_bytes,
        # A process that is kept waiting is ended by the clock on the wall, one that computes by this one.
        "cpu_seconds": int(seconds) + 1,
        "file_bytes": OUTPUT_BYTES + source.stat().st_size,
    }
    answer = _ask(request, seconds)
    for name in outputs:
        with suppress(OSError):
            if (folder / name).lstat().st_size == 0:
                (folder / name).unlink()
    return answer


def protections() -> dict[str, str | None]:
    """Return each protection of the sandbox on this machine, with None if it is in force, or why it is not.

    Raises:
        SandboxFailure: there is no sandbox.
    """
    request = {
        "work": "",
        "source": os.devnull,
        "folder": "/",
        "outputs": (),
        "options": {},
        "memory_bytes": 1 << 30,
        "cpu_seconds": 10,
        "file_bytes": 0,
    }
    return _ask(request, 10)


def _ask(request: dict[str, Any], seconds: float) -> dict[str, Any]:
    helper: _Helper | None = getattr(_of_this_thread, "helper", None)
    if helper is None or not helper.usable():
        helper = _of_this_thread.helper = _Helper()
    return helper.ask(request, seconds)


#: A helper for each thread: the kernel ends it with the thread that started it, and no lock is needed, which
#: an exception out of a signal handler could leave locked.
_of_this_thread = threading.local()


class _Helper:
    """The helper process, and our end of its socket."""

    def __init__(self) -> None:
        self._owner = os.getpid()
        self._started = False
        # Whole messages, and an end that is noticed.
        self._control, helper_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        root = str(Path(__file__).resolve().parents[1])
        with helper_end:
            self._process = subprocess.Popen(
                # Isolated: neither the environment nor the current directory has a say in what is imported.
                [sys.executable, "-I", "-c", _HELPER, root, str(self._owner)],
                # None of our environment: it holds the database's password.
                env=ENVIRONMENT,
                cwd="/",
                stdin=helper_end.fileno(),
                stdout=subprocess.DEVNULL,
                # A session of its own: Ctrl-C in a terminal is for the worker alone.
                start_new_session=True,
            )
        # Also when the thread or the program ends.
        self._end = weakref.finalize(self, _end, self._process, self._control, self._owner)

    def usable(self) -> bool:
        """Return whether the helper is this process's own, and alive."""
        if self._owner == os.getpid() and self._end.alive and self._process.poll() is None:
            return True
        self._end()
        return False

    def ask(self, request: dict[str, Any], seconds: float) -> dict[str, Any]:
        """Have the child do what is requested, within `seconds` of wall-clock time, and return its answer."""
        reading: io.FileIO | None = None
        try:
            self._wait_until_started()
            deadline = monotonic() + seconds
            reading = self._send(request)
            content = _read(reading, deadline)
            status = self._ended(deadline)
        except BaseException as error:
            # Celery's time limit is an exception out of a signal handler, at any point: nothing is left
            # running. The kernel kills the child with the helper.
            self._end()
            if reading is not None:
                _wait_for_the_end(reading)
            if isinstance(error, TimeoutError):
                raise SandboxFailure("sandbox_timed_out", f"took longer than {seconds:g} s") from None
            raise
        finally:
            if reading is not None:
                reading.close()
        return _answer(content, status)

    def _wait_until_started(self) -> None:
        # Not at the file's expense: on a busy machine a cold start takes its time.
        if self._started:
            return
        self._control.settimeout(START_SECONDS)
        try:
            self._started = self._control.recv(16) == b"ready"
        except OSError as error:
            raise SandboxFailure("sandbox_closed", f"the helper did not start: {error}") from None
        if not self._started:
            raise SandboxFailure("sandbox_closed", "the helper ended as it started; why is in the log")

    def _send(self, request: dict[str, Any]) -> io.FileIO:
        """Have the child begin; return the pipe of its answer, which ends when the child ends."""
        descriptors = os.pipe()
        with io.FileIO(descriptors[1], "w") as writing:
            reading = io.FileIO(descriptors[0])
            self._control.settimeout(None)
            try:
                socket.send_fds(self._control, [json.dumps(request).encode()], [writing.fileno()])
            except OSError as error:
                reading.close()
                raise SandboxFailure("sandbox_killed", f"the helper is gone: {error}") from None
        return reading

    def _ended(self, deadline: float) -> int:
        """Return the child's status, as the kernel tells it to its parent."""
        self._control.settimeout(max(deadline - monotonic(), 0.001))
        try:
            status = self._control.recv(1024)
        except ConnectionError as error:
            raise SandboxFailure("sandbox_killed", f"the helper is gone: {error}") from None
        if not status:
            raise SandboxFailure("sandbox_killed", "the helper is gone")
        return int(status)


def _end(process: "subprocess.Popen[bytes]", control: socket.socket, owner: int) -> None:
    if owner == os.getpid():
        process.kill()
        process.wait()
    else:
        # This process was forked from the one whose child it is.
        process.returncode = 0
    control.close()


def _read(reading: io.FileIO, deadline: float) -> bytes:
    """Return what the child says, until it has said all; never much more than is allowed.

    Raises:
        TimeoutError: it has not ended by the deadline, on the monotonic clock.
    """
    content = b""
    poll = select.poll()
    poll.register(reading, select.POLLIN)
    while True:
        if not poll.poll(max(deadline - monotonic(), 0) * 1000):
            raise TimeoutError
        part = reading.read(64 * 1024)
        if not part:
            return content
        content += part
        if len(content) > ANSWER_BYTES:
            raise SandboxFailure("sandbox_nonsense", f"the answer is longer than {ANSWER_BYTES} bytes")


def _wait_for_the_end(reading: io.FileIO) -> None:
    """Wait until a child that was killed has closed its files: it can write nothing more."""
    with suppress(TimeoutError, SandboxFailure):
        _read(reading, monotonic() + BURIAL_SECONDS)


def _answer(content: bytes, status: int) -> dict[str, Any]:
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        if number == signal.SIGXCPU:
            raise SandboxFailure("sandbox_timed_out", "took too much computing time")
        killed = number in (signal.SIGKILL, signal.SIGTERM)
        reason = "sandbox_killed" if killed else "sandbox_died"
        raise SandboxFailure(reason, f"the process was ended by {signal.Signals(number).name}")
    try:
        answer = json.loads(content)
    except (ValueError, RecursionError):
        answer = None
    raised = answer.get("raised") if isinstance(answer, dict) else None
    if os.WEXITSTATUS(status) == OUT_OF_MEMORY:
        raise SandboxFailure("sandbox_out_of_memory", "the work needs more memory than it may use")
    if isinstance(raised, str):
        raise SandboxFailure("sandbox_raised", raised[:500])
    returned = answer.get("returned") if isinstance(answer, dict) else None
    if not isinstance(returned, dict):
        raise SandboxFailure(
            "sandbox_nonsense", f"the process ended with status {os.WEXITSTATUS(status)}, no answer"
        )
    return returned

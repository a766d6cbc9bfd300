"""The other side of `sandbox.py`: a small process that never reads untrusted input, and forks one that does.

Each worker process starts one, with an empty environment and the worker's socket as its standard input. It
has imported what nearly every file needs, so that a file costs a fork and not the start of an interpreter.
"""

import ctypes
import gc
import importlib
import json
import os
import signal
import socket
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from workers.sandbox_limits import installation, restrict

#: Imported beforehand, and called if a function is named: with the first Pillow and its most used codecs.
#: libmagic must be: it is looked for by starting other programs.
PRELOADED = ("tasks.attachments.drawing.picture", "tasks.attachments.identify:libmagic")
REQUEST_BYTES = 64 * 1024
#: How the child that found no memory ends, where it can still say so.
OUT_OF_MEMORY = 3

_PR_SET_PDEATHSIG = 1
_ANSWER = 3

_libc = ctypes.CDLL(None, use_errno=True)


def main() -> None:
    """Serve the worker whose process id is the last argument, until it is gone."""
    _die_with(int(sys.argv[-1]))
    # A terminal's Ctrl-C, or a supervisor's SIGTERM to the whole group, is for the worker, which may still
    # want to end its file. The end of the worker is the end of this process.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    control = socket.socket(fileno=0)
    for entry in PRELOADED:
        module, _, function = entry.partition(":")
        loaded = importlib.import_module(module)
        if function:
            getattr(loaded, function)()
    # Looked up once, here, and not by each child.
    installation()
    # A collection in a child would touch, and so copy, every object that it shares with this process.
    gc.collect()
    gc.freeze()
    # A worker that gave up meanwhile is no fault.
    with suppress(BrokenPipeError):
        control.send(b"ready")
        _obey(control)


def _obey(control: socket.socket) -> None:
    """Have one file after the other done, until the worker hangs up."""
    own = os.getpid()
    while True:
        payload, descriptors, _, _ = socket.recv_fds(control, REQUEST_BYTES, 1)
        if not payload:
            return
        child = os.fork()
        if child == 0:
            _serve(json.loads(payload), descriptors[0], own)
        os.close(descriptors[0])
        control.send(str(os.waitpid(child, 0)[1]).encode())


def _die_with(parent: int) -> None:
    """Be killed by the kernel when the parent ends, however it ends."""
    _libc.prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != parent:
        # It ended before we asked.
        os._exit(1)


def _serve(request: dict[str, Any], answer: int, parent: int) -> NoReturn:
    """Do the work of one file in this process, which ends here."""
    status = 1
    try:
        _die_with(parent)
        # Nothing else stays open, the worker's socket least of all.
        os.dup2(answer, _ANSWER)
        os.closerange(_ANSWER + 1, os.sysconf("SC_OPEN_MAX"))
        nothing = os.open(os.devnull, os.O_RDWR)
        for number in (0, 1, 2):
            os.dup2(nothing, number)
        os.close(nothing)
        status = _work(request)
    except MemoryError:
        status = OUT_OF_MEMORY
    finally:
        # Without the destructors, buffers and exit handlers of the process that it was forked from.
        os._exit(status)


def _work(request: dict[str, Any]) -> int:
    source, folder = Path(request["source"]), Path(request["folder"])
    outputs = [_made(folder / name) for name in request["outputs"]]
    # Our own code: it may be read before the walls are up.
    module, _, name = request["work"].partition(":")
    function = getattr(importlib.import_module(module), name) if module else None
    os.chdir(folder)
    walls = restrict(
        source,
        outputs,
        memory_bytes=request["memory_bytes"],
        seconds=request["cpu_seconds"],
        file_bytes=request["file_bytes"],
    )
    status = 0
    answer: dict[str, Any] = {"returned": walls}
    try:
        if function is not None:
            answer = {"returned": function(source, folder, **request["options"])}
    except MemoryError as error:
        status, answer = OUT_OF_MEMORY, {"raised": repr(error)}
    except Exception as error:  # noqa: BLE001 – whatever it is, the worker is told
        answer = {"raised": f"{type(error).__name__}: {error}"[:500]}
    _write(json.dumps(answer).encode())
    return status


def _made(path: Path) -> Path:
    """Make the empty file: once confined, the child can write it but make none."""
    os.close(os.open(path, os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_WRONLY, 0o600))
    return path


def _write(content: bytes) -> None:
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(_ANSWER, rest) :]

"""The sandbox, from inside: what a decoder that was taken over can do; it costs its own file only."""

import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from tests.platform import eventually
from tests.workers import hostile
from workers import sandbox
from workers.sandbox import SandboxFailure

MIB = 1 << 20
SOURCE = b"what a stranger sent"

Run = Callable[..., dict[str, Any]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """Do hostile work in the sandbox; nothing of it may be left, and the next file must be served."""
    for name, value in vars(hostile).items():
        if callable(value) and not name.startswith("_"):
            monkeypatch.setitem(sandbox.WORKS, f"tests.workers.hostile:{name}", ("wanted",))
    source, folder = tmp_path / "source", tmp_path / "folder"
    source.write_bytes(SOURCE)
    folder.mkdir()

    def work(name: str, *, seconds: float = 20, memory_bytes: int = 512 * MIB, **options: Any) -> Any:
        return sandbox.run(
            f"tests.workers.hostile:{name}",
            source,
            folder,
            options,
            seconds=seconds,
            memory_bytes=memory_bytes,
        )

    yield work
    assert not children(helper_pid()), "a child was left behind"
    assert work("look")["bytes"] == len(SOURCE)
    assert source.read_bytes() == SOURCE


def helper_pid() -> int | None:
    """Return this thread's helper's process id, if it has one that lives."""
    helper = getattr(sandbox._of_this_thread, "helper", None)
    return helper._process.pid if helper and helper.usable() else None


def children(pid: int | None) -> list[int]:
    if pid is None:
        return []
    with suppress(OSError):
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def alive(pid: int) -> bool:
    """Return whether the process runs; one that ended and was not buried does not."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    return False


def status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def confined(helper: int) -> list[int]:
    """Return the helper's children that have taken the last step to being confined."""
    found = []
    for child in children(helper):
        with suppress(OSError):
            found += [child] if status(child)["Seccomp"] == "2" else []
    return found


# -- Work ---------------------------------------------------------------------------------------------------


def test_work_is_done_with_its_options(run: Run, tmp_path: Path) -> None:
    folder = str(tmp_path / "folder")
    assert run("look", pages=3) == {"bytes": len(SOURCE), "folder": folder, "cwd": folder, "pages": 3}


def test_only_work_that_is_on_the_list_is_done(run: Run, tmp_path: Path) -> None:
    with pytest.raises(KeyError):
        sandbox.run("os:system", tmp_path / "source", tmp_path, {}, seconds=5, memory_bytes=MIB)


def test_what_is_written_stays_and_what_is_empty_goes(run: Run, tmp_path: Path) -> None:
    run("write", text="kept")
    assert (tmp_path / "folder" / "wanted").read_text() == "kept"
    run("write", text="")
    assert not list((tmp_path / "folder").iterdir())


def test_decoders_can_live_there(run: Run) -> None:
    assert run("live", seconds=9) == {
        "threads": 4,
        "random": 8,
        "cores": len(os.sched_getaffinity(0)),
        "cpu": [10, 10],
    }


def test_one_helper_serves_many_files(run: Run) -> None:
    run("look")
    first = helper_pid()
    for _ in range(5):
        run("look")
    assert helper_pid() == first


# -- What is in force ---------------------------------------------------------------------------------------


def test_every_protection_is_in_force_here_and_can_be_asked_for() -> None:
    assert sandbox.protections() == dict.fromkeys(
        ("limits", "no_new_privs", "capabilities", "undumpable", "landlock", "seccomp")
    )


@pytest.mark.parametrize(
    ("without", "missing"),
    [
        ("landlock._CREATE_RULESET = 9999", "landlock"),
        ("syscalls.MACHINES = {}", "seccomp"),
        ("sandbox_limits._CAPABILITY_VERSION = 1", "capabilities"),
    ],
)
def test_a_kernel_that_lacks_one_protection_still_gives_the_others(
    without: str, missing: str, tmp_path: Path
) -> None:
    script = (
        "import json, sys\nfrom pathlib import Path\nfrom workers import landlock, sandbox_limits, syscalls\n"
        f"{without}\n"
        "limits = dict(memory_bytes=1 << 30, seconds=9, file_bytes=9999)\n"
        "print(json.dumps(sandbox_limits.restrict(Path(sys.argv[1]), [], **limits)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], capture_output=True, check=True, timeout=60
    )
    walls = json.loads(done.stdout)
    assert walls.pop(missing)
    assert len(walls) == 5
    assert not any(walls.values())


def test_the_child_is_confined_as_the_kernel_sees_it(run: Run) -> None:
    run("look")
    helper = helper_pid()
    assert helper is not None
    seen: list[dict[str, str]] = []
    limits: list[str] = []

    def watch() -> None:
        child = eventually(lambda: confined(helper), 20)[0]
        seen.append(status(child))
        limits.extend(Path(f"/proc/{child}/limits").read_text().splitlines())

    watcher = threading.Thread(target=watch)
    watcher.start()
    with pytest.raises(SandboxFailure):
        run("hang", seconds=3, memory_bytes=300 * MIB)
    watcher.join()
    assert seen[0]["NoNewPrivs"] == "1"
    for kind in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        if kind != "CapBnd" or os.geteuid() == 0:
            assert int(seen[0][kind], 16) == 0, kind
    set_to = {line[:26].strip(): line[26:].split()[:2] for line in limits}
    assert set_to["Max address space"] == [str(300 * MIB)] * 2
    assert set_to["Max cpu time"] == ["4", "4"]
    assert set_to["Max core file size"] == ["0", "0"]
    assert set_to["Max file size"] == [str(sandbox.OUTPUT_BYTES + len(SOURCE))] * 2
    assert set_to["Max open files"] == ["64", "64"]


def test_there_are_no_secrets_inside(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://roomkeeper:hunter2@localhost/chat")
    monkeypatch.setenv("PYTHONPATH", "/nowhere")
    sandbox._of_this_thread.__dict__.clear()
    answer = run("environment")
    # Libraries that are found add their own paths; nothing comes from here.
    assert not {"DATABASE_URL", "PYTHONPATH", "PATH", "HOME"} & set(answer["environment"])
    # Its answer, and nothing of the worker's but /dev/null.
    assert answer["open"] == [0, 1, 2, 3]
    given = Path(f"/proc/{helper_pid()}/environ").read_text().split("\0")
    assert {line.partition("=")[0] for line in given if line} == set(sandbox.ENVIRONMENT)


def test_nothing_can_be_read_but_the_file_and_what_python_is_made_of(run: Run, tmp_path: Path) -> None:
    other, beside = tmp_path / "other", tmp_path / "folder" / "beside"
    for path in (other, beside):
        path.write_text("of another stranger")
    root = Path(sandbox.__file__).parents[1]
    paths = [
        *(other, beside, tmp_path, tmp_path / "folder", root / "pyproject.toml", root),
        *(
            f"/proc/{os.getpid()}/environ",
            f"/proc/{helper_pid()}/maps",
            "/proc/self/environ",
            "/proc",
            "/etc/passwd",
        ),
        *("/", "/root", "/tmp", "/dev", "/sys"),
    ]
    assert run("pry", paths=[str(path) for path in paths]) == {"read": []}
    readable = [str(tmp_path / "source"), json.__file__, pytest.__file__]
    assert run("pry", paths=readable) == {"read": readable}
    beside.unlink()


def test_nothing_can_be_written_but_the_wanted_file_and_not_without_end(run: Run, tmp_path: Path) -> None:
    (tmp_path / "folder" / "a").mkdir()
    answer = run("fill_the_disk")
    assert [name for _, name in answer["failed"]] == ["PermissionError"] * 8
    assert answer["error"] == errno.EFBIG
    assert answer["wrote"] == sandbox.OUTPUT_BYTES + len(SOURCE)
    assert {path.name for path in (tmp_path / "folder").iterdir()} == {"a", "wanted"}


def test_no_call_that_leads_outside_is_answered(run: Run) -> None:
    assert run("break_out", victim=os.getpid()) == {"worked": []}


# -- Work that comes to no good end -------------------------------------------------------------------------


def fails(run: Run, reason: str, name: str, **options: Any) -> SandboxFailure:
    with pytest.raises(SandboxFailure) as caught:
        run(name, **options)
    assert caught.value.reason == reason, caught.value
    return caught.value


@pytest.mark.parametrize("name", ["hang", "hang_in_c", "hang_up_and_hang", "compute"])
def test_work_that_hangs_is_ended_however_deaf_it_is(run: Run, name: str) -> None:
    run("look")
    begun = time.monotonic()
    fails(run, "sandbox_timed_out", name, seconds=0.5)
    assert 0.5 <= time.monotonic() - begun < 10


def test_a_worker_that_waits_for_too_long_does_not_wait_for_the_clock_on_the_wall(run: Run) -> None:
    """Where the worker itself was stopped for a while, the limit of computing time holds."""
    run("look")
    sandbox_pid = helper_pid()
    # 1 s of computing time, 60 s of patience.
    helper = sandbox._of_this_thread.helper
    request = {
        "work": "tests.workers.hostile:compute",
        "source": os.devnull,
        "folder": "/",
        "outputs": (),
        "options": {},
        "memory_bytes": 512 * MIB,
        "cpu_seconds": 1,
        "file_bytes": 0,
    }
    with pytest.raises(SandboxFailure) as caught:
        helper.ask(request, 60)
    assert caught.value.reason in ("sandbox_died", "sandbox_killed", "sandbox_timed_out")
    assert helper_pid() == sandbox_pid


def test_a_kill_by_another_program_is_no_crash(run: Run) -> None:
    assert "SIGKILL" in fails(run, "sandbox_killed", "crash", number=int(signal.SIGKILL)).detail


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGBUS, signal.SIGTRAP])
def test_a_crash_is_told(run: Run, number: signal.Signals) -> None:
    assert number.name in fails(run, "sandbox_died", "crash", number=int(number)).detail
    assert "SIGABRT" in fails(run, "sandbox_died", "abort").detail


def test_too_much_computing_time_is_told(run: Run) -> None:
    fails(run, "sandbox_timed_out", "crash", number=int(signal.SIGXCPU))


def test_too_much_memory_is_told(run: Run) -> None:
    fails(run, "sandbox_out_of_memory", "grow", memory_bytes=200 * MIB)


def test_memory_that_is_too_little_even_to_begin_is_told(run: Run) -> None:
    fails(run, "sandbox_out_of_memory", "grow", memory_bytes=1)


def test_an_exception_is_told(run: Run) -> None:
    assert fails(run, "sandbox_raised", "fail").detail == "LookupError: no such thing"


@pytest.mark.parametrize(
    "text",
    ["", "{", "nonsense", "[]", '{"returned": []}', '{"raised": 1}', "[" * 100_000, '"\\ud800"'],
    ids=lambda text: text[:10],
)
def test_an_answer_that_is_none_is_told(run: Run, text: str) -> None:
    fails(run, "sandbox_nonsense", "say", text=text[:60_000])
    fails(run, "sandbox_nonsense", "nothing")


def test_an_answer_is_read_up_to_a_limit(run: Run) -> None:
    around = len('{"returned": {"text": ""}}')
    assert len(run("say_much", length=sandbox.ANSWER_BYTES - around)["text"]) == sandbox.ANSWER_BYTES - around
    fails(run, "sandbox_nonsense", "say_much", length=sandbox.ANSWER_BYTES - around + 1)
    fails(run, "sandbox_nonsense", "say_for_ever")


# -- Interruptions ------------------------------------------------------------------------------------------


class SoftTimeLimit(Exception):
    """As Celery's: raised by a signal's handler, wherever the program is."""


@pytest.mark.parametrize("after", [0.0001, 0.001, 0.004, 0.02, 0.1, 0.3])
@pytest.mark.parametrize("warm", [True, False])
# What is cut off while it is made is closed when Python finds it, which it says.
@pytest.mark.filterwarnings("ignore:Exception ignored in:pytest.PytestUnraisableExceptionWarning")
def test_a_time_limit_in_the_middle_leaves_nothing_running(run: Run, after: float, warm: bool) -> None:
    def limit(number: int, frame: FrameType | None) -> None:
        raise SoftTimeLimit

    if warm:
        run("look")
    else:
        sandbox._of_this_thread.__dict__.clear()
    before = set(children(os.getpid()))
    old = signal.signal(signal.SIGALRM, limit)
    try:
        with pytest.raises(SoftTimeLimit):
            signal.setitimer(signal.ITIMER_REAL, after)
            run("hang")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)
    eventually(lambda: not any(map(alive, set(children(os.getpid())) - before - {helper_pid()})), 10)


def test_a_helper_that_died_is_replaced(run: Run) -> None:
    run("look")
    first = helper_pid()
    assert first is not None
    os.kill(first, signal.SIGKILL)
    eventually(lambda: not alive(first), 10)
    assert run("look")["bytes"] == len(SOURCE)
    assert helper_pid() != first


def test_a_helper_that_dies_in_the_middle_costs_one_file(run: Run) -> None:
    run("look")
    helper = helper_pid()
    assert helper is not None
    threading.Timer(0.3, os.kill, (helper, signal.SIGKILL)).start()
    fails(run, "sandbox_killed", "hang")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_to_the_whole_group_is_for_the_worker_alone(run: Run, number: signal.Signals) -> None:
    run("look")
    helper = helper_pid()
    assert helper is not None
    assert os.getpgid(helper) != os.getpgid(0)
    os.kill(helper, number)
    run("look")
    assert helper_pid() == helper


def test_a_forked_process_has_a_helper_of_its_own(run: Run) -> None:
    """As Celery's pool forks its processes."""
    run("look")
    own_helper = helper_pid()
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        helper = 0
        with suppress(BaseException):
            run("look")
            helper = helper_pid() or 0
        os.write(writing, str(helper).encode())
        os._exit(0)
    os.waitpid(pid, 0)
    child_helper = int(os.read(reading, 20))
    os.close(reading)
    os.close(writing)
    assert child_helper not in (0, own_helper)
    # Theirs ended with them, ours is as it was.
    eventually(lambda: not alive(child_helper), 10)
    run("look")
    assert helper_pid() == own_helper


def test_each_thread_has_a_helper_that_ends_with_it(run: Run) -> None:
    run("look")
    found: list[int | None] = []

    def work() -> None:
        run("look")
        found.append(helper_pid())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    thread_helper = found[0]
    assert thread_helper is not None
    assert thread_helper != helper_pid()
    eventually(lambda: not alive(thread_helper), 10)


def test_a_worker_that_is_killed_takes_helper_and_child_with_it(tmp_path: Path) -> None:
    script = (
        "import sys\nfrom pathlib import Path\nfrom workers import sandbox\n"
        "work = 'tests.workers.hostile:hang'\nsandbox.WORKS[work] = ()\n"
        "print('begun', flush=True)\n"
        "sandbox.run(work, Path('/dev/null'), Path(sys.argv[1]), {}, seconds=100, memory_bytes=1 << 29)"
    )
    root = Path(sandbox.__file__).parents[1]
    with subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)], cwd=root, stdout=subprocess.PIPE
    ) as worker:
        helper = eventually(lambda: children(worker.pid), 30)[0]
        try:
            child = eventually(lambda: confined(helper), 30)[0]
        finally:
            worker.kill()
    eventually(lambda: not alive(helper) and not alive(child), 10)

"""Work directories: those of other processes are not touched, those of dead ones are removed."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

from workers.workdir import sweep, workdir

HOLDER = """
import sys, pathlib
from workers.workdir import workdir
with workdir(pathlib.Path(sys.argv[1])) as folder:
    (folder / "content").write_bytes(b"a stranger's file")
    print(folder, flush=True)
    sys.stdin.read()
"""


def holder(parent: Path) -> "tuple[subprocess.Popen[str], Path]":
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(parent)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


def end(process: "subprocess.Popen[str]", number: signal.Signals | None = None) -> None:
    if number:
        process.send_signal(number)
    process.communicate()


def test_a_directory_goes_with_its_block(tmp_path: Path) -> None:
    with workdir(tmp_path) as folder:
        (folder / "content").write_bytes(b"x")
        assert folder.parent == tmp_path
        assert folder.stat().st_mode & 0o077 == 0
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_leaves_is_swept_and_nothing_else(tmp_path: Path) -> None:
    dead, left = holder(tmp_path)
    alive, kept = holder(tmp_path)
    (tmp_path / "of-another-program").mkdir()
    (tmp_path / "roomkeeper-work-file").write_bytes(b"no directory")
    try:
        end(dead, signal.SIGKILL)
        assert (left / "content").exists()
        with workdir(tmp_path) as own:
            assert sweep(tmp_path) == 1
            assert own.exists()
        assert not left.exists()
        assert (kept / "content").exists()
        assert (tmp_path / "of-another-program").exists()
        assert sweep(tmp_path) == 0
    finally:
        end(alive)
    assert not kept.exists()


def test_a_symbolic_link_is_not_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_bytes(b"x")
    parent = tmp_path / "parent"
    parent.mkdir()
    (parent / "roomkeeper-work-link").symlink_to(outside)
    assert sweep(parent) == 0
    assert (outside / "precious").exists()


def test_sweeping_while_others_make_their_directories_takes_nobodys(tmp_path: Path) -> None:
    stop = threading.Event()
    swept: list[int] = []

    def keep_sweeping() -> None:
        while not stop.is_set():
            swept.append(sweep(tmp_path))

    threads = [threading.Thread(target=keep_sweeping) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for number in range(300):
            with workdir(tmp_path) as folder:
                (folder / "content").write_bytes(os.urandom(number))
                assert (folder / "content").exists()
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert list(tmp_path.iterdir()) == []

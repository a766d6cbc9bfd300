"""`scripts/install-peers.sh` with a PATH on which only our own programs are."""

import subprocess
from pathlib import Path

import pytest

from tests.scripts.test_install_clamd import Machine

#: Each program and its package.
PACKAGES = {
    "vipsthumbnail": "libvips-tools",
    "clamdscan": "clamdscan",
    "pgbouncer": "pgbouncer",
    "zip": "zip",
    "7z": "p7zip-full",
    "bsdtar": "libarchive-tools",
}
ALL = " ".join(PACKAGES.values())
SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "install-peers.sh"


class PeersMachine(Machine):
    """A machine with `env`, run by a user of this number."""

    def __init__(self, directory: Path, number: int) -> None:
        super().__init__(directory)
        self.program("id", f"echo {number}")
        (self.programs / "env").symlink_to("/usr/bin/env")

    def run(self) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["/bin/sh", str(SCRIPT)],
            env={"PATH": str(self.programs), "SBIN": str(self.programs)},
            capture_output=True,
            text=True,
            check=False,
        )


def test_what_is_there_is_not_installed(tmp_path: Path) -> None:
    machine = PeersMachine(tmp_path, 0)
    machine.program("apt-get")
    for name in PACKAGES:
        machine.program(name)
    done = machine.run()
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert machine.calls == []


@pytest.mark.parametrize("missing", [*([name] for name in PACKAGES), [*PACKAGES]])
def test_root_installs_what_is_missing(tmp_path: Path, missing: list[str]) -> None:
    machine = PeersMachine(tmp_path, 0)
    machine.program("apt-get")
    for name in PACKAGES.keys() - set(missing):
        machine.program(name)
    assert machine.run().returncode == 0
    packages = " ".join(PACKAGES[name] for name in missing)
    assert machine.calls[-2:] == [
        "apt-get update -qq",
        f"apt-get install -y -qq --no-install-recommends {packages}",
    ]


def test_a_user_with_sudo_installs_it(tmp_path: Path) -> None:
    machine = PeersMachine(tmp_path, 1000)
    machine.program("apt-get")
    machine.program("true")
    # Called as `sudo -n COMMAND…`.
    machine.program("sudo", 'shift; exec "$@"')
    assert machine.run().returncode == 0
    assert f"apt-get install -y -qq --no-install-recommends {ALL}" in machine.calls


def test_without_rights_it_says_what_to_type_and_goes_on(tmp_path: Path) -> None:
    machine = PeersMachine(tmp_path, 1000)
    machine.program("apt-get")
    done = machine.run()
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr == (
        f"What system tests and benchmarks need is missing; type: sudo apt-get install {ALL}\n"
    )


@pytest.mark.parametrize("command", ["update", "install"])
def test_a_package_that_cannot_be_had_is_a_warning(tmp_path: Path, command: str) -> None:
    machine = PeersMachine(tmp_path, 0)
    machine.program("apt-get", f'[ "$1" != {command} ]')
    done = machine.run()
    assert done.returncode == 0
    assert done.stderr == (
        f"Debian's {ALL} could not be installed; benchmarks do without, and tests of PgBouncer and archives "
        "fail.\n"
    )

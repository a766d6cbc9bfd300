"""`scripts/install-postgresql-15.sh` with a PATH on which only our own programs are."""

import subprocess
from pathlib import Path

import pytest

from tests.scripts.test_install_clamd import Machine

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "install-postgresql-15.sh"
CONFIG = "#create_main_cluster = true\nssl = on\n"


class PostgresMachine(Machine):
    """A machine that has no PostgreSQL 15, and the configuration by which Debian makes clusters."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.installed = directory / "15"
        self.installed.mkdir()
        self.config = directory / "createcluster.conf"
        self.config.write_text(CONFIG)
        for name in ("cp", "mv", "sed", "env"):
            (self.programs / name).symlink_to(f"/usr/bin/{name}")

    def apt_get(self, *, delivers: bool = True) -> None:
        """An apt-get that installs it, or only pretends to, and notes how clusters are made meanwhile."""
        postgres = self.installed / "postgres"
        made = f'printf "#!/bin/sh\\n" > "{postgres}"; /bin/chmod +x "{postgres}"' if delivers else ":"
        note = f'while read -r line; do echo "$line" >> "{self.calls_file}"; done < "{self.config}"'
        self.program("apt-get", f'case "$*" in *postgresql-15) {note}; {made};; esac')

    def run(self) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["/bin/sh", str(SCRIPT)],
            env={
                "PATH": str(self.programs),
                "POSTGRESQL_15": str(self.installed),
                "CREATECLUSTER_CONF": str(self.config),
            },
            capture_output=True,
            text=True,
            check=False,
        )


@pytest.fixture
def machine(tmp_path: Path) -> PostgresMachine:
    return PostgresMachine(tmp_path)


INSTALL = "apt-get install -y -qq --no-install-recommends"
INSTALLED = [
    "apt-get update -qq",
    f"{INSTALL} postgresql-common",
    f"{INSTALL} postgresql-15",
    # As it is while the package is installed.
    "create_main_cluster = false",
    "ssl = on",
]


def test_what_is_there_is_not_installed(machine: PostgresMachine) -> None:
    (machine.installed / "postgres").touch(mode=0o755)
    done = machine.run()
    assert (done.returncode, done.stdout, done.stderr, machine.calls) == (0, "", "", [])


@pytest.mark.parametrize("sudo", [False, True])
def test_no_cluster_is_made_and_the_configuration_is_left_as_it_was(
    machine: PostgresMachine, sudo: bool
) -> None:
    machine.apt_get()
    machine.program("id", f"echo {1000 if sudo else 0}")
    if sudo:
        machine.program("sudo", 'shift; exec "$@"')
        machine.program("true")
    done = machine.run()
    assert (done.returncode, done.stderr) == (0, "")
    calls = [call for call in machine.calls if not call.startswith(("id", "sudo", "true"))]
    assert calls == INSTALLED
    assert machine.config.read_text() == CONFIG


def test_without_rights_it_says_what_to_type(machine: PostgresMachine) -> None:
    machine.program("id", "echo 1000")
    done = machine.run()
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "PostgreSQL 15, which tests run on, is missing; type: sudo apt-get install postgresql-15\n"
    )


def test_an_installation_that_brings_none_is_an_error(machine: PostgresMachine) -> None:
    machine.program("id", "echo 0")
    machine.apt_get(delivers=False)
    done = machine.run()
    assert done.returncode == 1
    assert "there is no" in done.stderr
    assert machine.config.read_text() == CONFIG

"""`scripts/install-clamd.sh` with a PATH on which only our own programs are."""

import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "install-clamd.sh"
SENTENCE = "The virus scanner is missing; type: sudo apt-get install clamav-daemon\n"


class Machine:
    """A directory of programs; each writes down how it was called."""

    def __init__(self, directory: Path) -> None:
        self.programs = directory / "bin"
        self.programs.mkdir()
        self.calls_file = directory / "calls"

    def program(self, name: str, then: str = "") -> None:
        file = self.programs / name
        file.write_text(f'#!/bin/sh\necho "{name} $*" >> "{self.calls_file}"\n{then}\n')
        file.chmod(0o755)

    def apt_get(self, *, delivers: bool = True) -> None:
        """An apt-get that installs clamd, or only pretends to."""
        clamd = self.programs / "clamd"
        made = f'printf "#!/bin/sh\\n" > "{clamd}"; /bin/chmod +x "{clamd}"' if delivers else ""
        self.program("apt-get", f'case "$1" in install) {made or ":"};; esac')

    @property
    def calls(self) -> list[str]:
        return self.calls_file.read_text().splitlines() if self.calls_file.exists() else []

    def run(self) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["/bin/sh", str(SCRIPT)],
            env={"PATH": str(self.programs)},
            capture_output=True,
            text=True,
            check=False,
        )


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def user(machine: Machine, number: int) -> None:
    machine.program("id", f"echo {number}")


def test_what_is_there_is_not_installed(machine: Machine) -> None:
    user(machine, 0)
    machine.apt_get()
    machine.program("clamd")
    done = machine.run()
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert machine.calls == []


def test_root_installs_it(machine: Machine) -> None:
    user(machine, 0)
    machine.apt_get()
    assert machine.run().returncode == 0
    assert machine.calls == [
        "id -u",
        "apt-get update -qq",
        "apt-get install -y -qq --no-install-recommends clamav-daemon",
    ]


def test_a_user_with_sudo_installs_it(machine: Machine) -> None:
    user(machine, 1000)
    machine.apt_get()
    # Called as `sudo -n COMMAND…`.
    machine.program("sudo", 'shift; exec "$@"')
    machine.program("env", 'shift; exec "$@"')
    machine.program("true")
    assert machine.run().returncode == 0
    assert "apt-get install -y -qq --no-install-recommends clamav-daemon" in machine.calls
    assert "sudo -n apt-get update -qq" in machine.calls


@pytest.mark.parametrize("sudo", [None, "exit 1"], ids=["no sudo", "sudo wants a password"])
def test_without_rights_it_says_what_to_type(machine: Machine, sudo: str | None) -> None:
    user(machine, 1000)
    machine.apt_get()
    if sudo:
        machine.program("sudo", sudo)
    done = machine.run()
    assert (done.returncode, done.stdout, done.stderr) == (1, "", SENTENCE)
    assert not any(call.startswith("apt-get") for call in machine.calls)


def test_root_without_apt_get_is_told_what_to_type(machine: Machine) -> None:
    user(machine, 0)
    done = machine.run()
    assert (done.returncode, done.stderr) == (1, SENTENCE)


def test_an_installation_that_brings_no_clamd_is_an_error(machine: Machine) -> None:
    user(machine, 0)
    machine.apt_get(delivers=False)
    done = machine.run()
    assert done.returncode == 1
    assert "there is no clamd" in done.stderr

"""Ports: kept, preferred, replaced."""

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from stack import ports


def test_a_port_is_kept_for_the_next_time(tmp_path: Path) -> None:
    file = tmp_path / "state" / "ports.json"
    first = ports.choose(file, {"postgres": None, "valkey": None})
    second = ports.choose(file, {"postgres": None, "valkey": None})
    assert second == first
    assert not second.taken
    assert first.numbers["postgres"] != first.numbers["valkey"]


def test_the_preferred_port_comes_first_even_if_another_was_kept(tmp_path: Path) -> None:
    file = tmp_path / "ports.json"
    kept = ports.choose(file, {"flower": None}).numbers["flower"]
    wish = ports.free_port()
    assert wish != kept
    assert ports.choose(file, {"flower": wish}) == ports.Ports({"flower": wish}, {})


def test_a_kept_port_that_is_taken_is_replaced_and_said(tmp_path: Path) -> None:
    file = tmp_path / "ports.json"
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        file.write_text(json.dumps({"valkey": port}))
        chosen = ports.choose(file, {"valkey": None})
    assert chosen.taken == {"valkey": port}
    assert chosen.numbers["valkey"] != port
    assert json.loads(file.read_text()) == chosen.numbers


def test_a_preferred_port_that_is_taken_gives_way_to_the_kept_one(tmp_path: Path) -> None:
    file = tmp_path / "ports.json"
    kept = ports.choose(file, {"flower": None}).numbers["flower"]
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        chosen = ports.choose(file, {"flower": port})
    assert chosen == ports.Ports({"flower": kept}, {"flower": port})


def test_two_never_get_the_same_port(tmp_path: Path) -> None:
    port = ports.free_port()
    chosen = ports.choose(tmp_path / "ports.json", {"one": port, "two": port})
    assert chosen.numbers["one"] == port
    assert chosen.numbers["two"] != port
    assert chosen.taken == {"two": port}


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"postgres": "x"}', '{"postgres": 70000}', '{"postgres": true}']
)
def test_a_damaged_file_is_ignored(tmp_path: Path, content: str) -> None:
    file = tmp_path / "ports.json"
    file.write_text(content)
    chosen = ports.choose(file, {"postgres": None})
    assert ports.is_free(chosen.numbers["postgres"])
    assert json.loads(file.read_text()) == chosen.numbers


def test_a_port_is_not_free_while_someone_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        assert not ports.is_free(port)
    assert ports.is_free(port)


def test_free_ports_are_different_ones() -> None:
    numbers = ports.free_ports(str(number) for number in range(50))
    assert len(set(numbers.values())) == 50
    assert all(ports.is_free(number) for number in numbers.values())


def test_no_client_is_given_a_servers_port_while_it_restarts() -> None:
    first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert {20_000 <= ports.free_port() < first for _ in range(50)} == {True}


@pytest.mark.parametrize("says", ["", "x y", "1024 65535", "20000 60999", None])
def test_where_clients_may_have_any_port_the_system_chooses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, says: str | None
) -> None:
    file = tmp_path / "range"
    if says is not None:
        file.write_text(says)
    monkeypatch.setattr(ports, "_OF_CLIENTS", file)
    assert ports.is_free(ports.free_port())


def test_where_all_ports_are_taken_the_system_chooses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "is_free", lambda _port: False)
    assert ports.free_port() > 0


def another(offer: int) -> int:
    """Return the port that another process is given, which tries this one first."""
    code = (
        "from itertools import chain, count; from stack import ports;"
        f"offers = chain([{offer} - ports._FIRST], count()); ports.randbelow = lambda _: next(offers);"
        "print(ports.free_port())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return int(done.stdout)


def test_what_one_process_was_given_no_other_is_until_it_ends(tmp_path: Path) -> None:
    given = ports.free_port()
    assert another(given) != given
    second = another(given)
    assert another(second) == second
    # Nor what was kept from the last time.
    (tmp_path / "ports.json").write_text(json.dumps({"valkey": second}))
    assert ports.choose(tmp_path / "ports.json", {"valkey": None}).numbers == {"valkey": second}
    assert another(second) != second

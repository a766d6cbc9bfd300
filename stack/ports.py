"""Ports: none is assumed to be free; one that was used before is used again where it can be."""

import json
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from secrets import randbelow

_LOCALHOST = "127.0.0.1"
#: First and last.
_OF_CLIENTS = Path("/proc/sys/net/ipv4/ip_local_port_range")
#: Those before it are where well-known servers are.
_FIRST = 20_000
_TRIES = 100
#: The ports that this process keeps for its servers → what keeps them.
_reserved: dict[int, int] = {}


@dataclass(frozen=True)
class Ports:
    """Who listens on which port."""

    numbers: Mapping[str, int]
    #: name → the port that it would have had, for those whose port was taken.
    taken: Mapping[str, int]


def is_free(port: int) -> bool:
    """Say whether a server could listen on `port` of 127.0.0.1 now."""
    with socket.socket() as probe:
        # Servers set it too: a port whose last connections are only just closing is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((_LOCALHOST, port))
        except OSError:
            return False
    return True


def free_port() -> int:
    """Return a port of 127.0.0.1 that is free now.

    Where the system keeps ports for clients apart, it is given to no other as long as this process lives: no
    client while its server restarts, and no other process that asks here.
    """
    below = _first_of_clients()
    for _ in range(_TRIES if below > _FIRST else 0):
        chosen = _FIRST + randbelow(below - _FIRST)
        if chosen not in _reserved and is_free(chosen) and _reserve(chosen):
            return chosen
    with socket.socket() as probe:
        probe.bind((_LOCALHOST, 0))
        port: int = probe.getsockname()[1]
        return port


def _reserve(port: int) -> bool:
    """Keep a port for this process as long as it lives; return whether it is its own now."""
    if port not in _reserved:
        name = socket.socket(socket.AF_UNIX)
        try:
            # One of Linux's abstract names, which leave no file behind.
            name.bind(f"\0roomkeeper-port-{port}")
        except OSError:
            name.close()
            return False
        # Open until the process ends.
        _reserved[port] = name.detach()
    return True


def _first_of_clients() -> int:
    """Return the first of the ports that the system gives to clients; 0 if that is unknown."""
    try:
        return int(_OF_CLIENTS.read_text(encoding="ascii").split()[0])
    except (OSError, ValueError, IndexError):
        return 0


def free_ports(names: Iterable[str]) -> dict[str, int]:
    """Return a port that is free now for each name, no two the same."""
    numbers: dict[str, int] = {}
    for name in names:
        numbers[name] = _unused(numbers)
    return numbers


def choose(file: Path, preferred: Mapping[str, int | None]) -> Ports:
    """Choose a port for each name of `preferred`, and keep them in `file` for the next time.

    The preferred one comes first, then the one kept in `file`, then any that is free.

    Args:
        file: a JSON object, name → port; made if it is missing, ignored if it is damaged.
        preferred: name → the port to begin with; None if any will do.
    """
    kept = _read(file)
    numbers: dict[str, int] = {}
    taken: dict[str, int] = {}
    for name, wish in preferred.items():
        candidates = [port for port in (wish, kept.get(name)) if port is not None]
        unused = (port for port in candidates if port not in numbers.values() and is_free(port))
        free = (port for port in unused if _reserve(port))
        port = next(free, None) or _unused(numbers)
        if candidates and port != candidates[0]:
            taken[name] = candidates[0]
        numbers[name] = port
    file.parent.mkdir(parents=True, exist_ok=True)
    fresh = file.with_suffix(".new")
    fresh.write_text(json.dumps(numbers, indent=2) + "\n", encoding="utf-8")
    fresh.replace(file)
    return Ports(numbers, taken)


def _unused(numbers: Mapping[str, int]) -> int:
    while (port := free_port()) in numbers.values():
        pass
    return port


def _read(file: Path) -> dict[str, int]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    if not isinstance(content, dict):
        return {}
    return {name: port for name, port in content.items() if type(port) is int and 0 < port < 65536}

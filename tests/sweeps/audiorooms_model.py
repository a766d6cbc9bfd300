"""What the sweeps of `audiorooms` must do, said once more in plain Python: of whole tables, at NOW."""

from collections import defaultdict
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from models.audiorooms import AudioRoom, AuditLog, RoomParticipant
from tests.platform import Platform
from tests.sweeps.sweeping import NOW, rows

Table = dict[UUID, dict[str, Any]]

SKEW = timedelta(days=1)
DEAD = timedelta(hours=12)
NEVER = datetime.min.replace(tzinfo=UTC)


def plausible(at: datetime | None) -> datetime | None:
    """Return the time, unless a wrong clock told it."""
    return None if at is None or at > NOW + SKEW else at


def latest(*times: datetime | None) -> datetime | None:
    return max((at for at in times if at is not None), default=None)


def earliest(*times: datetime | None) -> datetime | None:
    return min((at for at in times if at is not None), default=None)


def leave(stay: dict[str, Any], at: datetime | None) -> None:
    """End a stay then, as the trigger has it, and not before it began."""
    joined = stay["joined_at"]
    stay["left_at"] = latest(joined, at)
    stay["connection_duration"] = (
        None if joined is None else (stay["left_at"] - joined) // timedelta(seconds=1)
    )


@dataclass
class World:
    """The tables, by id."""

    rooms: Table
    stays: Table
    log: Table

    @classmethod
    def of(cls, platform: Platform) -> "World":
        """Return what is in the database."""
        return cls(rows(platform, AudioRoom), rows(platform, RoomParticipant), rows(platform, AuditLog))

    def after(self, policy: str) -> "World":
        """Return the world after a run of the policy; the times of its triggers are not foretold."""
        world = deepcopy(self)
        POLICIES[policy](world)
        return world

    def open(self) -> list[dict[str, Any]]:
        return [stay for stay in self.stays.values() if stay["left_at"] is None]

    def is_active(self, stay: Mapping[str, Any]) -> bool:
        room = self.rooms.get(stay["room_id"])
        return room is not None and room["active"] is True

    def signs(self, room: UUID) -> list[datetime]:
        """Return the room's signs of life, those that lie ahead too."""
        times = [self.rooms[room]["updated_at"]]
        times += [row["created_at"] for row in self.log.values() if row["room_id"] == room]
        for stay in self.stays.values():
            # Who left before they joined tells nothing by it.
            ended = latest(stay["joined_at"], stay["left_at"])
            times += [stay["joined_at"], ended] if stay["room_id"] == room else []
        return [at for at in times if at is not None]


def _suspended(world: World) -> None:
    for key, room in world.rooms.items():
        until = room["suspended_until"]
        if room["active"] is True and until is not None and until < NOW:
            room["active"] = False
            for stay in world.open():
                if stay["room_id"] == key:
                    leave(stay, until)


def _stays(world: World) -> None:
    for stay in world.open():
        if world.is_active(stay):
            continue
        room = world.rooms.get(stay["room_id"], {})
        end = earliest(room.get("updated_at"), room.get("suspended_until"))
        leave(stay, latest(stay["joined_at"], earliest(end, NOW) if end is not None else None) or NOW)


def _dead(world: World) -> None:
    signs = {room: world.signs(room) for room in world.rooms}
    for stay in world.open():
        if world.is_active(stay) and not any(at >= NOW - DEAD for at in signs[stay["room_id"]]):
            until = world.rooms[stay["room_id"]]["suspended_until"]
            leave(stay, earliest(NOW, latest(*signs[stay["room_id"]]), until))
    # Who has a sign ahead waits, and at NOW it has not been seen for long.


def _age(stay: Mapping[str, Any]) -> tuple[datetime, UUID]:
    return plausible(stay["joined_at"]) or NEVER, stay["id"]


def _duplicates(world: World) -> None:
    stays = defaultdict(list)
    for stay in world.stays.values():
        if stay["room_id"] is not None and stay["client_id"] is not None:
            stays[stay["room_id"], stay["client_id"]].append(stay)
    for of_client in stays.values():
        of_client.sort(key=_age)
        newest = max((n for n, stay in enumerate(of_client) if stay["left_at"] is None), default=0)
        for n, stay in enumerate(of_client[:newest]):
            if stay["left_at"] is None:
                leave(stay, earliest(NOW, *(plausible(other["joined_at"]) for other in of_client[n + 1 :])))


def _backwards(world: World) -> None:
    for stay in world.stays.values():
        if None not in (stay["joined_at"], stay["left_at"]) and stay["left_at"] < stay["joined_at"]:
            stay.update(left_at=stay["joined_at"], connection_duration=0)


POLICIES: dict[str, Callable[[World], None]] = {
    "audiorooms.suspended": _suspended,
    "audiorooms.stays": _stays,
    "audiorooms.dead": _dead,
    "audiorooms.duplicates": _duplicates,
    "audiorooms.backwards": _backwards,
}

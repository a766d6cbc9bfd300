"""From preview to proof in docs/retention.md: each command runs, and does what the text says."""

import shlex
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from sqlalchemy import insert

from models.openchat import Conversation, User
from tests.commands.cli import on
from tests.docs.blocks import block
from tests.platform import Platform
from tests.sweeps.sweeping import close_rollups

POLICY = "openchat.deleted_conversations"
#: The numbers in the text are examples; what is really meant.
EXAMPLES = {
    "24": "SELECT min(number) FROM roomkeeper.receipts",
    "1": "SELECT max(id) FROM roomkeeper.holds",
}


@pytest.fixture
def conversation(platform: Platform) -> UUID:
    """A conversation that was deleted 500 days ago, on a platform with the settings of `make run`."""
    close_rollups(platform)
    platform.set(archive_root=platform.folder / "archive")
    with platform.engine.begin() as connection:
        user = insert(User).values(name="Ada", email="ada@x.org", email_verified=True).returning(User.id)
        long_ago = datetime.now(UTC).replace(tzinfo=None) - timedelta(days=500)
        values = {"created_by": connection.execute(user).scalar_one(), "is_deleted": True}
        deleted = insert(Conversation).values(**values, created_at=long_ago, updated_at=long_ago)
        return connection.execute(deleted.returning(Conversation.id)).scalar_one()


def there(platform: Platform) -> bool:
    """Return whether the conversation exists."""
    return bool(platform.sql("SELECT FROM openchat.conversation"))


def walk(platform: Platform, lines: Sequence[str], conversation: UUID) -> list[tuple[list[str], str, bool]]:
    """Run the lines; return each command, what it printed, and whether the conversation existed then."""
    done: list[tuple[list[str], str, bool]] = []
    for line in lines:
        words = shlex.split(line.replace("$ID", str(conversation)), comments=True)
        match words:
            case [".", ".roomkeeper/run/env"]:
                platform.set(retention_days=f"{POLICY}=400")
            case ["export", setting]:
                name, _, value = setting.partition("=")
                platform.environment[name] = value
            case ["roomkeeper", *arguments]:
                arguments = [
                    str(platform.sql(EXAMPLES[word])[0][0]) if word in EXAMPLES else word
                    for word in arguments
                ]
                outcome = on(platform, *arguments)
                assert outcome.code == 0, f"{line}\n{outcome.out}{outcome.err}"
                done.append((arguments, outcome.out, there(platform)))
            case _:
                raise AssertionError(line)
    return done


@pytest.mark.system
def test_from_preview_to_proof(platform: Platform, conversation: UUID) -> None:
    previews = walk(platform, block("retention-walk-1").splitlines(), conversation)
    assert all(exists for *_, exists in previews), "a preview deletes nothing"
    assert str(conversation) in previews[-1][1]

    deleted = walk(platform, block("retention-walk-2").splitlines(), conversation)
    assert not any(exists for *_, exists in deleted)
    assert platform.sql("SELECT policy FROM roomkeeper.receipts") == [(POLICY,)]

    back = walk(platform, block("retention-walk-3").splitlines(), conversation)
    assert all(exists for *_, exists in back), "what is restored and on hold stays"
    assert platform.sql("SELECT count(*) FROM roomkeeper.holds WHERE lifted_at IS NULL") == [(0,)]

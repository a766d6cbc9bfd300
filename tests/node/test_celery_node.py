"""Node services with celery-node: workers do what they send; what `docs/enqueue.md` shows and warns of."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from models import openchat
from roomkeeper.payloads import QUEUES
from tests.client.snippets import BROKER
from tests.client.studio import studio
from tests.delivery.people import Pern
from tests.docs.blocks import block
from tests.node.programs import HERE, Node, Outcome
from tests.platform import Platform, eventually
from tests.servers import ValkeyServer

pytestmark = pytest.mark.system

SHOWN = block("enqueue-celery-node")
PLAIN = (HERE / "plain.mjs").read_text()
NAMES = "const { attachmentId, messageId, userId } = given;\n"


def shown(url: str) -> str:
    """Return the module that the page shows, for this broker."""
    assert SHOWN.count(BROKER) == 1
    return NAMES + SHOWN.replace(BROKER, url)


def test_workers_do_what_the_page_shows(platform: Platform, node: Node) -> None:
    platform.set(worker_processes=1)
    platform.worker("attachments")
    platform.worker("delivery")
    platform.worker("maintenance")
    room = studio(platform)
    room.close()
    row_id = platform.openchat_attachment(b"Milk\n", "notes.txt", "text/plain")
    with platform.engine.begin() as connection:
        people = Pern().people(connection, 2)
        (message,) = Pern().messages(connection, people[0], 1)
    given = {"attachmentId": str(row_id), "messageId": str(message), "userId": str(people[1])}
    before = datetime.now(UTC)
    code = shown(platform.environment["ROOMKEEPER_BROKER_URL"])
    outcome = node.run(code + "await celery.broker.disconnect();", given)
    assert outcome == Outcome(0, "", "")
    assert platform.finished(row_id).state == "finished"
    assert platform.row(openchat.Attachment, row_id).processing_status == "completed"

    def merged() -> Any:
        with platform.engine.begin() as connection:
            return Pern().rows(connection, [message])

    ((pair, (status, _, read_at)),) = eventually(merged).items()
    assert (pair, status) == ((message, people[1]), "read")
    # To the millisecond, which is all that Node has.
    assert before.timestamp() - 0.001 <= read_at.timestamp() <= datetime.now(UTC).timestamp()
    room.are_right()


def test_what_celery_node_itself_sends_is_done_without_a_queue_too(platform: Platform, node: Node) -> None:
    platform.set(worker_processes=1)
    platform.worker("maintenance")
    row_id = platform.pern_attachment(b"encrypted")
    given = {
        "url": platform.environment["ROOMKEEPER_BROKER_URL"],
        "task": "attachments.process",
        "calls": [[{"app": "pern", "id": str(row_id)}]],
        "wait": 500,
    }
    assert node.run(PLAIN, given).output == "still here"
    assert platform.finished(row_id).state == "finished"


STATUS = {"message_id": str(uuid4()), "user_id": str(uuid4()), "status": "read", "at": "2026-01-31T23:59:59Z"}
WRONG: list[tuple[str, list[Any], str]] = [
    ("attachments.process", [{"app": "pern"}], "id: Field required"),
    (
        "attachments.process",
        [{"app": "connect", "id": str(uuid4())}],
        "app: must be an application with attachments: openchat, pern",
    ),
    ("attachments.process", [{"app": "pern", "id": "secret"}], "id: Input should be a valid UUID"),
    ("attachments.process", ["pern", str(uuid4())], "TypeError: too many positional arguments"),
    (
        "delivery.record",
        [{"app": "pern", "events": [STATUS, STATUS | {"status": "secret"}]}],
        "events.1.status: Input should be 'sent', 'delivered', 'read' or 'failed'",
    ),
    (
        "delivery.record",
        [{"app": "pern", "events": [STATUS | {"at": "2026-01-31T23:59:59"}]}],
        "events.0.at: Input should have timezone info",
    ),
    ("delivery.record", [{"app": "pern", "events": []}], "events: List should have at least 1 item"),
    (
        "analytics.room",
        [{"app": "audiorooms", "room": "secret"}],
        "room: must be a UUID, or a code of six capital letters and digits",
    ),
]


def test_what_is_malformed_is_a_dead_letter_that_names_the_field(platform: Platform, node: Node) -> None:
    platform.set(worker_processes=1)
    platform.worker("attachments")
    platform.worker("delivery")
    platform.worker("maintenance")
    for task, queue in QUEUES.items():
        calls = [args for name, args, _ in WRONG if name == task]
        url = platform.environment["ROOMKEEPER_BROKER_URL"]
        given = {"url": url, "task": task, "queue": queue, "calls": calls, "wait": 500}
        assert node.run(PLAIN, given).output == "still here"
    eventually(lambda: len(platform.dead_letters()) == len(WRONG), what="all are dead letters")
    for letter in platform.dead_letters():
        (reason,) = (
            expected
            for task, args, expected in WRONG
            if (task, args) == (letter.task, letter.payload["args"])
        )
        assert letter.reason.startswith(reason)
        assert "secret" not in letter.reason


CATCHES = """
for (const call of ["first", "again"]) {
  const begun = Date.now();
  try {
    await send("attachments", "attachments.process", { app: "pern", id: given });
    console.log(JSON.stringify([call, "sent"]));
  } catch (error) {
    console.log(JSON.stringify([call, error.message, Date.now() - begun]));
  }
}
process.exit(0);
"""


def only_send(url: str) -> str:
    """Return what the page shows up to `send`."""
    code, _, calls = shown(url).partition("\nawait send(")
    assert calls
    return code


@pytest.mark.parametrize(
    ("how", "beginning"),
    [
        (ValkeyServer.freeze, "Command timed out"),
        (ValkeyServer.kill, "Reached the max retries per request limit (which is 1)."),
    ],
)
def test_what_the_page_shows_rejects_soon(
    valkey: ValkeyServer, node: Node, how: Callable[[ValkeyServer], None], beginning: str
) -> None:
    how(valkey)
    outcome = node.run(only_send(valkey.url()) + CATCHES, str(uuid4()))
    assert outcome.code == 0, outcome
    found = [json.loads(line) for line in outcome.out.splitlines()]
    assert [call for call, *_ in found] == ["first", "again"]
    for _, message, milliseconds in found:
        assert message.startswith(beginning)
        assert milliseconds < 5000


def test_an_id_that_is_given_is_the_tasks(broker_url: str, node: Node) -> None:
    fixed = str(uuid4())
    code = 'console.log(JSON.stringify(await send("q", "t", {}, given))); process.exit(0);'
    assert node.run(only_send(broker_url) + code, fixed).output == fixed


def test_celery_node_itself_says_nothing_of_a_frozen_broker(valkey: ValkeyServer, node: Node) -> None:
    valkey.freeze()
    given = {"url": valkey.url(), "task": "attachments.process", "calls": [[{}]], "wait": 1000}
    assert node.run(PLAIN, given) == Outcome(0, '"still here"\n', "")


def test_celery_node_itself_ends_the_process_over_a_broker_that_is_away(
    valkey: ValkeyServer, node: Node
) -> None:
    valkey.kill()
    given = {"url": valkey.url(), "task": "attachments.process", "calls": [[{}]], "wait": 30_000}
    outcome = node.run(PLAIN, given)
    assert (outcome.code, outcome.out) == (1, "")
    assert "ECONNREFUSED" in outcome.err


def test_what_is_installed_is_what_is_locked(node: Node) -> None:
    lock = json.loads((HERE / "package-lock.json").read_text())
    for name, locked in lock["packages"].items():
        if name:
            # Whence is the machine's own affair.
            assert "resolved" not in locked
            installed = json.loads((node.folder / name / "package.json").read_text())
            assert installed["version"] == locked["version"]


def test_it_is_installed_once(cache: Path, node: Node) -> None:
    from tests.node.conftest import install

    # Not even npm is needed for what is there.
    assert install(cache, {"npm_config_offline": "true"}) == node.folder


def test_npm_without_a_registry_is_told_in_a_sentence(tmp_path: Path) -> None:
    from tests.node.conftest import install

    environment = {
        "HOME": str(tmp_path),
        "npm_config_cache": str(tmp_path / "cache"),
        "npm_config_offline": "true",
    }
    with pytest.raises(RuntimeError, match=r"^npm could not install .*; can it reach its registry"):
        install(tmp_path, environment)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("tmp")] == []

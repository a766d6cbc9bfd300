"""What `roomkeeper attachments` takes, and what it says of unprocessed files."""

import getpass
import os
import re
import subprocess
from uuid import UUID, uuid4

import pytest
from syrupy.assertion import SnapshotAssertion

from stack.programs import roomkeeper as command
from tasks.attachments import operator_actions
from tests.attachments.context import AppContext
from tests.commands.cli import on, refused, stable
from tests.platform import Platform
from workers.known_bad import EICAR


@pytest.fixture
def context(platform: Platform) -> AppContext:
    return AppContext(platform, "openchat")


def recorded_actions(context: AppContext) -> list[tuple[str, str]]:
    """Return who has done something by command, and why."""
    rows = context.platform.sql(
        "SELECT actor, reason FROM roomkeeper.attachment_events WHERE actor IS NOT NULL ORDER BY id"
    )
    return [tuple(row) for row in rows]


# -- list ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("option", "wrong", "right"),
    [
        ("--app", "echoroom", ("openchat", "pern")),
        ("--state", "parkd", ("waiting", "running", "finished", "failed")),
        ("--outcome", "rejected", ("accepted", "refused", "quarantined")),
    ],
)
def test_what_is_asked_for_must_be_known(
    platform: Platform, option: str, wrong: str, right: tuple[str, ...], snapshot: SnapshotAssertion
) -> None:
    outcome = on(platform, "attachments", "list", option, wrong)
    assert refused(outcome, option, *right, repr(wrong)) == snapshot
    for value in right:
        assert on(platform, "attachments", "list", option, value).code == 0
    explained = " ".join(re.sub("[│╭╮╰╯─]", " ", on(platform, "attachments", "list", "--help").out).split())
    for value in right:
        assert value in explained


@pytest.mark.parametrize(
    ("column", "known"), [("state", operator_actions.STATES), ("outcome", operator_actions.OUTCOMES)]
)
def test_what_can_be_asked_for_is_what_there_is(
    platform: Platform, column: str, known: tuple[str, ...]
) -> None:
    ((says,),) = platform.sql(
        "SELECT pg_get_constraintdef(oid) FROM pg_constraint"
        " WHERE conrelid = 'roomkeeper.attachment_jobs'::regclass AND conname LIKE '%' || :name",
        name=f"{column}_known",
    )
    assert tuple(re.findall(r"'(\w+)'", says)) == known


@pytest.mark.parametrize("wrong", ["", "ab", "g" * 64, "a" * 63, "a" * 65, "a" * 64 + "\n"])
def test_a_hash_must_look_like_one(platform: Platform, wrong: str) -> None:
    refused(on(platform, "attachments", "list", "--sha256", wrong), "--sha256 ", " 64 ")
    assert on(platform, "attachments", "list", "--sha256", "aB" * 32).out == "None.\n"


@pytest.mark.parametrize(("limit", "code"), [("0", 2), ("1", 0), ("1000", 0), ("1001", 2)])
def test_a_list_has_an_end(platform: Platform, limit: str, code: int) -> None:
    assert on(platform, "attachments", "list", "--limit", limit).code == code


def test_a_list_shows_what_files_are_called(context: AppContext) -> None:
    # A terminal shows it, and does nothing else that it says.
    named, quarantined = (
        context.upload(b"text", "bill [bold]\x1b[2J\u202egnp.txt"),
        context.upload(EICAR, "b.txt"),
    )
    for row_id in (named, quarantined):
        context.work(row_id)
    other = AppContext(context.platform, "pern")
    other.work(other.upload(b"text", "our notes.txt"))
    # The same id in two applications is two files.
    same_id = other.upload(b"more", "twin.txt", id=named)
    other.work(same_id)
    context.platform.sql("DELETE FROM openchat.attachment WHERE id = :id", id=quarantined)
    lines = on(context.platform, "attachments", "list").out.splitlines()
    shown_lines = [re.sub(r"^\S+ \S+  ", "", line) for line in lines]
    assert shown_lines[0] == f"pern {same_id} twin.txt  finished  accepted, clean"
    assert shown_lines[1].endswith(" our notes.txt  finished  accepted, clean")
    assert shown_lines[2] == f"openchat {quarantined}  finished  quarantined, infected, malware"
    assert shown_lines[3] == f"openchat {named} bill [bold]�[2J�gnp.txt  finished  accepted, clean"


def test_what_is_no_text_finds_nothing(platform: Platform) -> None:
    for option in ("--reason", "--event"):
        outcome = on(platform, "attachments", "list", option, os.fsdecode(b"\xff"))
        assert (outcome.code, outcome.out) == (0, "None.\n")


# -- who and why -----------------------------------------------------------------------------------------


def test_a_reason_that_is_no_text_is_kept_as_far_as_it_is(context: AppContext) -> None:
    row_id = context.upload(b"text")
    # As a shell hands it over whose terminal speaks another encoding.
    done = subprocess.run(
        [
            *map(os.fsencode, command(("attachments", "retry", "openchat", str(row_id)))),
            b"--reason",
            b"a\xffb",
        ],
        env=context.platform.environment,
        capture_output=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert [reason for _, reason in recorded_actions(context)] == ["a�b"]


def test_one_may_name_oneself(context: AppContext) -> None:
    row_id = str(context.upload(b"text"))
    for name in operator_actions.ACTS:
        outcome = on(
            context.platform, "attachments", name, "openchat", row_id, "--reason", "x", "--actor", " ada\x1b "
        )
        assert outcome.code == 0
    assert recorded_actions(context) == [("ada�", "x")] * len(operator_actions.ACTS)


def test_who_uses_sudo_is_named(context: AppContext, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUDO_USER", "grace")
    on(context.platform, "attachments", "retry", "openchat", str(context.upload(b"text")), "--reason", "x")
    assert recorded_actions(context) == [("grace", "x")]


@pytest.mark.parametrize("error", [KeyError("getpwuid(): uid not found: 4711"), OSError("No username set")])
def test_who_has_no_name_has_a_number(
    context: AppContext, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail() -> str:
        raise error

    monkeypatch.delenv("SUDO_USER", raising=False)
    monkeypatch.setattr(getpass, "getuser", fail)
    outcome = on(
        context.platform, "attachments", "retry", "openchat", str(context.upload(b"text")), "--reason", "x"
    )
    assert outcome.code == 0
    assert recorded_actions(context) == [(f"uid {os.getuid()}", "x")]


def test_a_file_that_was_told_is_queued(context: AppContext, snapshot: SnapshotAssertion) -> None:
    row_id = context.upload(b"text")
    outcome = on(context.platform, "attachments", "retry", "openchat", str(row_id), "--reason", "x")
    assert (outcome.code, outcome.err) == (0, "")
    assert f"roomkeeper attachments show openchat {row_id}\n" in outcome.out
    assert stable(outcome, row=row_id) == snapshot


# -- unprocessed files ------------------------------------------------------------------------------------


def shown(context: AppContext, row_id: UUID, app: str = "openchat", **known: object) -> str:
    """Return the message for an unprocessed row."""
    return refused(
        on(context.platform, "attachments", "show", app, str(row_id)), str(row_id), row=row_id, **known
    )


def test_a_row_without_a_job_is_said_to_be_there(context: AppContext, snapshot: SnapshotAssertion) -> None:
    context.platform.set(attachment_grace_seconds=7, recover_every_seconds=2.5)
    row_id = context.upload(b"text")
    assert " 9.5 s." in on(context.platform, "attachments", "show", "openchat", str(row_id)).err
    assert shown(context, row_id) == snapshot(name="new")
    pern = context.platform.pern_attachment(b"text")
    assert shown(context, pern, "pern") == snapshot(name="without a time")
    context.platform.set(apps="pern")
    assert shown(context, row_id) == snapshot(name="not enabled")


def test_a_row_that_the_twin_passes_over_is_said_to_be_so(
    context: AppContext, snapshot: SnapshotAssertion
) -> None:
    done, deleted = context.upload(b"1", processing_status="completed"), context.upload(b"2", is_deleted=True)
    assert shown(context, done) == snapshot(name="done")
    assert shown(context, deleted) == snapshot(name="deleted")


def test_a_row_that_is_another_application_s_is_found_there(
    context: AppContext, snapshot: SnapshotAssertion
) -> None:
    row_id = context.platform.pern_attachment(b"text")
    found = f"roomkeeper attachments show pern {row_id}"
    for arguments in (("show",), ("retry", "--reason", "x")):
        outcome = on(context.platform, "attachments", arguments[0], "openchat", str(row_id), *arguments[1:])
        assert refused(outcome, found, row=row_id) == snapshot(name=f"{arguments[0]}, there")
    assert shown(context, uuid4()) == snapshot(name="nowhere")
    # Not looked for where nothing is looked for.
    context.platform.set(apps="openchat")
    assert shown(context, row_id) == snapshot(name="nowhere")

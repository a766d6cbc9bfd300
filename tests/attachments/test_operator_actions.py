"""What an operator does to one attachment, by command; and the story that the command tells."""

import json
from uuid import uuid4

import pytest

from stack.demo.samples import drawing
from tasks.attachments import operator_actions
from tasks.attachments.operator_actions import ACTS
from tests.attachments.desk import BOTH, Desk, at_scan, stored
from tests.commands.cli import Outcome, on
from tests.platform import Platform
from tests.servers import ValkeyServer
from workers.known_bad import EICAR, encrypted_zip


@pytest.fixture
def desk(platform: Platform, app: str) -> Desk:
    return Desk(platform, app)


@pytest.fixture
def open_desk(platform: Platform) -> Desk:
    return Desk(platform, "openchat")


def act(desk: Desk, name: str, row_id: object, reason: str = "because") -> Outcome:
    return on(desk.platform, "attachments", name, desk.app, str(row_id), "--reason", reason)


def events(desk: Desk, row_id: object) -> list[str]:
    rows = desk.platform.sql(
        "SELECT event FROM roomkeeper.attachment_events WHERE attachment_id = :id ORDER BY at, id", id=row_id
    )
    return [row.event for row in rows]


@BOTH
def test_a_false_alarm_is_released_and_served(desk: Desk) -> None:
    row_id = desk.upload(EICAR)
    assert desk.work(row_id) == "quarantined (malware)"
    assert act(desk, "release", row_id, "the test file of our own scanner team").code == 0
    assert desk.work(row_id) == "accepted"
    job = desk.job(row_id)
    # What the scanner says of it stays to be seen.
    assert (job.outcome, job.verdict, job.override, job.reason) == ("accepted", "infected", "release", None)
    assert job.quarantine_key is None
    assert stored(desk.platform.store) == {desk.key(row_id): EICAR}
    assert desk.quarantined(row_id) is None
    if desk.app == "openchat":
        assert desk.row(row_id).storage_url == f"/files/{desk.key(row_id)}"
        assert desk.row(row_id).scan_result == "infected"
    # A copy of it is judged on its own, and takes nothing away from it.
    other = Desk(desk.platform, "openchat")
    copy = other.upload(EICAR)
    assert other.work(copy) == "quarantined (malware)"
    assert desk.job(row_id).outcome == "accepted"


def test_what_is_suspicious_can_be_released_too(open_desk: Desk) -> None:
    row_id = open_desk.upload(encrypted_zip(), "a.zip", "application/zip")
    assert open_desk.work(row_id).startswith("refused")
    act(open_desk, "release", row_id)
    assert open_desk.work(row_id) == "accepted"
    assert open_desk.row(row_id).storage_url


def test_a_release_does_not_serve_what_is_not_there(open_desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    row_id = open_desk.upload(b"")
    assert open_desk.work(row_id) == "refused (empty)"
    before = open_desk.platform.everything()
    told = act(open_desk, "release", row_id)
    assert (told.code, told.out, told.err) == (
        1,
        "",
        f"openchat {row_id} cannot be released from empty: there is nothing to serve; have the object "
        "stored once more, and retry.\n",
    )
    assert open_desk.platform.everything() == before
    # Nor would it be served if it were released all the same.
    monkeypatch.setattr(operator_actions, "UNRELEASABLE", {})
    assert act(open_desk, "release", row_id).code == 0
    assert open_desk.work(row_id) == "refused (empty)"
    open_desk.assert_unserved(row_id)


def test_a_release_does_not_serve_what_nobody_can_look_into(
    open_desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_desk.platform.set(max_file_bytes=3)
    row_id = open_desk.upload(b"text")
    assert open_desk.work(row_id) == "refused (too_large)"
    told = act(open_desk, "release", row_id)
    assert (told.code, told.err) == (
        1,
        f"openchat {row_id} cannot be released from too_large: it was never examined; raise "
        "ROOMKEEPER_MAX_FILE_BYTES, and retry.\n",
    )
    monkeypatch.setattr(operator_actions, "UNRELEASABLE", {})
    act(open_desk, "release", row_id)
    assert open_desk.work(row_id) == "refused (too_large)"
    open_desk.assert_unserved(row_id)


def test_a_release_of_what_nothing_is_known_against_says_so(open_desk: Desk) -> None:
    row_id = open_desk.upload(EICAR)
    note = "Nothing was known against it: should it be refused now, release it then."
    assert note in act(open_desk, "release", row_id).out
    assert open_desk.work(row_id) == "quarantined (malware)"
    assert note not in act(open_desk, "release", row_id).out
    assert open_desk.work(row_id) == "accepted"
    # Once more would take the reason away that it holds for.
    before = open_desk.platform.everything()
    told = act(open_desk, "release", row_id)
    assert (told.code, told.err) == (1, f"openchat {row_id} has been released already.\n")
    assert open_desk.platform.everything() == before


@BOTH
def test_a_clean_file_is_withdrawn_at_once_and_quarantined(desk: Desk) -> None:
    row_id = desk.upload(content := drawing("PNG"), "a.png", "image/png")
    assert desk.work(row_id) == "accepted"
    assert act(desk, "quarantine", row_id, "reported by the police").code == 0
    # Before any worker has it.
    row = desk.row(row_id)
    assert row.storage_url is None if desk.app == "openchat" else row.thumbnail_path is None
    assert desk.work(row_id) == "quarantined (operator)"
    job = desk.job(row_id)
    assert (job.outcome, job.verdict, job.override) == ("quarantined", "suspicious", "quarantine")
    assert desk.quarantined(row_id) == content
    assert stored(desk.platform.store) == {}
    desk.assert_unserved(row_id)
    # Retried, it stays there; released, it comes back.
    act(desk, "retry", row_id)
    assert desk.work(row_id) == "quarantined (operator)"
    assert desk.quarantined(row_id) == content
    act(desk, "release", row_id)
    assert desk.work(row_id) == "accepted"
    assert desk.job(row_id).verdict == "clean"
    assert desk.quarantined(row_id) is None
    assert len(desk.pictures(row_id)) == 2


def test_an_encrypted_file_can_be_quarantined_and_released(platform: Platform) -> None:
    desk = Desk(platform, "pern")
    row_id = desk.upload(b"sealed", is_encrypted=True)
    assert desk.work(row_id) == "accepted"
    act(desk, "quarantine", row_id)
    assert desk.work(row_id) == "quarantined (operator)"
    act(desk, "release", row_id)
    assert desk.work(row_id) == "accepted"
    assert desk.job(row_id).verdict == "opaque"
    assert stored(platform.store) == {desk.key(row_id): b"sealed"}


def test_a_parked_file_is_tried_again(open_desk: Desk) -> None:
    open_desk.platform.set(attachment_attempts=1)
    row_id = open_desk.upload(None, file_size=5)
    assert open_desk.work(row_id) == "failed (object_missing)"
    assert open_desk.work(row_id) == "nothing to do"
    open_desk.platform.put(b"Milk\n", open_desk.key(row_id))
    act(open_desk, "retry", row_id, "the object was restored from backup")
    job = open_desk.job(row_id)
    assert (job.state, job.failures, job.waits) == ("waiting", 0, 0)
    assert open_desk.work(row_id) == "accepted"
    assert events(open_desk, row_id) == [
        "claimed",
        "fetch",
        "failed",
        "given_up",
        "retry",
        "claimed",
        "fetch",
        "identify",
        "scan",
        "store",
        "finished",
    ]


def test_what_a_newer_scanner_finds_clean_comes_back_from_quarantine(
    open_desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    row_id = open_desk.upload(EICAR)
    open_desk.work(row_id)
    open_desk.platform.sql("UPDATE roomkeeper.scan_verdicts SET verdict = 'clean', signature = NULL")
    act(open_desk, "retry", row_id)
    assert open_desk.work(row_id) == "accepted"
    assert stored(open_desk.platform.store) == {open_desk.key(row_id): EICAR}
    assert open_desk.quarantined(row_id) is None


@pytest.mark.parametrize("name", ACTS)
def test_whoever_is_at_it_loses_it(open_desk: Desk, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    row_id = open_desk.upload(b"text")
    at_scan(monkeypatch, lambda: act(open_desk, name, row_id))
    assert open_desk.work(row_id) == "taken over"
    assert open_desk.job(row_id).state == "waiting"
    open_desk.assert_unserved(row_id)


@pytest.mark.parametrize("name", ACTS)
def test_one_that_nobody_has_seen_yet_can_be_told(open_desk: Desk, name: str) -> None:
    row_id = open_desk.upload(b"text")
    assert act(open_desk, name, row_id).code == 0
    assert open_desk.work(row_id) == ("quarantined (operator)" if name == "quarantine" else "accepted")


@pytest.mark.parametrize("name", ACTS)
def test_who_and_why_are_kept(open_desk: Desk, name: str) -> None:
    row_id = open_desk.upload(b"text")
    open_desk.work(row_id)
    act(open_desk, name, row_id, "  a reason <b>with</b> [brackets] ")
    event = open_desk.platform.sql(
        "SELECT actor, reason, attempt FROM roomkeeper.attachment_events WHERE event = :name", name=name
    )
    assert [(row.reason, row.attempt) for row in event] == [("a reason <b>with</b> [brackets]", 2)]
    assert event[0].actor
    shown = on(open_desk.platform, "attachments", "show", "openchat", str(row_id))
    assert "a reason <b>with</b> [brackets]" in " ".join(shown.out.split())


@pytest.mark.parametrize("name", ACTS)
def test_a_reason_must_be_given(open_desk: Desk, name: str) -> None:
    row_id = open_desk.upload(b"text")
    before = open_desk.platform.everything()
    assert on(open_desk.platform, "attachments", name, "openchat", str(row_id)).code == 2
    told = act(open_desk, name, row_id, "  ")
    assert (told.code, told.err) == (1, "--reason must say why, in a few words.\n")
    assert open_desk.platform.everything() == before


@pytest.mark.parametrize("name", ACTS)
@pytest.mark.parametrize(
    ("app", "says"),
    [
        ("openchat", "openchat has no attachment"),
        ("echoroom", "'echoroom' is no application with attachments: openchat, pern."),
        ("nobody", "'nobody' is no application with attachments: openchat, pern."),
    ],
)
def test_what_is_not_there_cannot_be_told(open_desk: Desk, name: str, app: str, says: str) -> None:
    before = open_desk.platform.everything()
    told = on(open_desk.platform, "attachments", name, app, str(uuid4()), "--reason", "x")
    assert told.code == 1
    assert told.err.startswith(says)
    assert open_desk.platform.everything() == before


def test_a_deleted_row_cannot_be_told(open_desk: Desk) -> None:
    row_id = open_desk.upload(b"text", is_deleted=True)
    assert act(open_desk, "release", row_id).code == 1


def test_an_id_that_is_none_is_a_sentence(open_desk: Desk) -> None:
    assert on(open_desk.platform, "attachments", "show", "openchat", "42").code == 2


def test_a_broker_that_is_away_stops_nobody(open_desk: Desk, valkey: ValkeyServer) -> None:
    row_id = open_desk.upload(b"text")
    open_desk.work(row_id)
    valkey.stop()
    told = act(open_desk, "quarantine", row_id)
    assert told.code == 0
    assert "The broker is away" in told.out
    open_desk.assert_unserved(row_id)
    # The recovery job finds it: nothing says that it has been announced.
    assert open_desk.job(row_id).enqueued_at is None


def test_the_story_of_a_file_is_told(open_desk: Desk) -> None:
    row_id = open_desk.upload(drawing("PNG"), "a.png", "image/png")
    nothing = on(open_desk.platform, "attachments", "show", "openchat", str(row_id))
    assert nothing.code == 1
    assert "No worker has taken up" in nothing.err
    open_desk.work(row_id)
    shown = on(open_desk.platform, "attachments", "show", "openchat", str(row_id))
    assert shown.code == 0
    words = shown.out.split()
    for word in (
        "finished",
        "accepted",
        "clean",
        "image/png",
        "claimed",
        "fetch",
        "identify",
        "scan",
        "draw",
        "store",
    ):
        assert word in words, word
    assert events(open_desk, row_id) == ["claimed", "fetch", "identify", "scan", "draw", "store", "finished"]
    seconds = open_desk.platform.sql(
        "SELECT event, seconds, detail, worker FROM roomkeeper.attachment_events WHERE seconds IS NOT NULL"
    )
    timings = open_desk.job(row_id).timings
    assert {row.event: row.seconds for row in seconds} == timings
    assert {row.worker for row in seconds} == {"worker"}
    found = {row.event: row.detail for row in seconds}
    assert found["identify"] == {"type": "image/png", "traits": []}
    assert found["scan"] == {"verdict": "clean", "signature": None, "known": False}
    assert found["draw"] == {"pictures": ["large", "small"]}


def test_jobs_are_found_by_what_became_of_them(open_desk: Desk) -> None:
    good, bad, bad_again = (open_desk.upload(content) for content in (b"text", EICAR, EICAR))
    for row_id in (good, bad, bad_again):
        open_desk.work(row_id)

    def listed(*options: str) -> set[str]:
        told = on(open_desk.platform, "attachments", "list", *options)
        assert told.code == 0
        return {str(row_id) for row_id in (good, bad, bad_again) if str(row_id) in told.out}

    assert listed() == {str(good), str(bad), str(bad_again)}
    assert listed("--outcome", "quarantined") == {str(bad), str(bad_again)}
    assert listed("--reason", "malware", "--app", "openchat") == {str(bad), str(bad_again)}
    assert listed("--app", "pern") == set()
    assert listed("--state", "failed") == set()
    assert listed("--sha256", open_desk.job(good).sha256.upper()) == {str(good)}
    assert listed("--event", "release") == set()
    assert len(listed("--outcome", "quarantined", "--limit", "1")) == 1
    assert json.loads(open_desk.row(good).scan_details)["findings"] == []

"""What an operator does to one attachment, by command; and the story that the command tells."""

import json
from uuid import uuid4

import pytest

from stack.demo.samples import drawing
from tasks.attachments import operator_actions
from tasks.attachments.operator_actions import ACTS
from tests.attachments.context import BOTH, AppContext, at_scan, stored
from tests.commands.cli import Outcome, on
from tests.platform import Platform
from tests.servers import ValkeyServer
from workers.known_bad import EICAR, encrypted_zip


@pytest.fixture
def context(platform: Platform, app: str) -> AppContext:
    return AppContext(platform, app)


@pytest.fixture
def openchat_context(platform: Platform) -> AppContext:
    return AppContext(platform, "openchat")


def act(context: AppContext, name: str, row_id: object, reason: str = "because") -> Outcome:
    return on(context.platform, "attachments", name, context.app, str(row_id), "--reason", reason)


def events(context: AppContext, row_id: object) -> list[str]:
    rows = context.platform.sql(
        "SELECT event FROM roomkeeper.attachment_events WHERE attachment_id = :id ORDER BY at, id", id=row_id
    )
    return [row.event for row in rows]


@BOTH
def test_a_false_alarm_is_released_and_served(context: AppContext) -> None:
    row_id = context.upload(EICAR)
    assert context.work(row_id) == "quarantined (malware)"
    assert act(context, "release", row_id, "the test file of our own scanner team").code == 0
    assert context.work(row_id) == "accepted"
    job = context.job(row_id)
    # What the scanner says of it stays to be seen.
    assert (job.outcome, job.verdict, job.override, job.reason) == ("accepted", "infected", "release", None)
    assert job.quarantine_key is None
    assert stored(context.platform.store) == {context.key(row_id): EICAR}
    assert context.quarantined(row_id) is None
    if context.app == "openchat":
        assert context.row(row_id).storage_url == f"/files/{context.key(row_id)}"
        assert context.row(row_id).scan_result == "infected"
    # A copy of it is judged on its own, and takes nothing away from it.
    other = AppContext(context.platform, "openchat")
    copy = other.upload(EICAR)
    assert other.work(copy) == "quarantined (malware)"
    assert context.job(row_id).outcome == "accepted"


def test_what_is_suspicious_can_be_released_too(openchat_context: AppContext) -> None:
    row_id = openchat_context.upload(encrypted_zip(), "a.zip", "application/zip")
    assert openchat_context.work(row_id).startswith("refused")
    act(openchat_context, "release", row_id)
    assert openchat_context.work(row_id) == "accepted"
    assert openchat_context.row(row_id).storage_url


def test_a_release_does_not_serve_what_is_not_there(
    openchat_context: AppContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    row_id = openchat_context.upload(b"")
    assert openchat_context.work(row_id) == "refused (empty)"
    before = openchat_context.platform.everything()
    outcome = act(openchat_context, "release", row_id)
    assert (outcome.code, outcome.out, outcome.err) == (
        1,
        "",
        f"openchat {row_id} cannot be released from empty: there is nothing to serve; have the object "
        "stored once more, and retry.\n",
    )
    assert openchat_context.platform.everything() == before
    # Nor would it be served if it were released all the same.
    monkeypatch.setattr(operator_actions, "UNRELEASABLE", {})
    assert act(openchat_context, "release", row_id).code == 0
    assert openchat_context.work(row_id) == "refused (empty)"
    openchat_context.assert_unserved(row_id)


def test_a_release_does_not_serve_what_nobody_can_look_into(
    openchat_context: AppContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    openchat_context.platform.set(max_file_bytes=3)
    row_id = openchat_context.upload(b"text")
    assert openchat_context.work(row_id) == "refused (too_large)"
    outcome = act(openchat_context, "release", row_id)
    assert (outcome.code, outcome.err) == (
        1,
        f"openchat {row_id} cannot be released from too_large: it was never examined; raise "
        "ROOMKEEPER_MAX_FILE_BYTES, and retry.\n",
    )
    monkeypatch.setattr(operator_actions, "UNRELEASABLE", {})
    act(openchat_context, "release", row_id)
    assert openchat_context.work(row_id) == "refused (too_large)"
    openchat_context.assert_unserved(row_id)


def test_a_release_of_what_nothing_is_known_against_says_so(openchat_context: AppContext) -> None:
    row_id = openchat_context.upload(EICAR)
    note = "Nothing was known against it: should it be refused now, release it then."
    assert note in act(openchat_context, "release", row_id).out
    assert openchat_context.work(row_id) == "quarantined (malware)"
    assert note not in act(openchat_context, "release", row_id).out
    assert openchat_context.work(row_id) == "accepted"
    # Once more would take the reason away that it holds for.
    before = openchat_context.platform.everything()
    outcome = act(openchat_context, "release", row_id)
    assert (outcome.code, outcome.err) == (1, f"openchat {row_id} has been released already.\n")
    assert openchat_context.platform.everything() == before


@BOTH
def test_a_clean_file_is_withdrawn_at_once_and_quarantined(context: AppContext) -> None:
    row_id = context.upload(content := drawing("PNG"), "a.png", "image/png")
    assert context.work(row_id) == "accepted"
    assert act(context, "quarantine", row_id, "reported by the police").code == 0
    # Before any worker has it.
    row = context.row(row_id)
    assert row.storage_url is None if context.app == "openchat" else row.thumbnail_path is None
    assert context.work(row_id) == "quarantined (operator)"
    job = context.job(row_id)
    assert (job.outcome, job.verdict, job.override) == ("quarantined", "suspicious", "quarantine")
    assert context.quarantined(row_id) == content
    assert stored(context.platform.store) == {}
    context.assert_unserved(row_id)
    # Retried, it stays there; released, it comes back.
    act(context, "retry", row_id)
    assert context.work(row_id) == "quarantined (operator)"
    assert context.quarantined(row_id) == content
    act(context, "release", row_id)
    assert context.work(row_id) == "accepted"
    assert context.job(row_id).verdict == "clean"
    assert context.quarantined(row_id) is None
    assert len(context.pictures(row_id)) == 2


def test_an_encrypted_file_can_be_quarantined_and_released(platform: Platform) -> None:
    context = AppContext(platform, "pern")
    row_id = context.upload(b"sealed", is_encrypted=True)
    assert context.work(row_id) == "accepted"
    act(context, "quarantine", row_id)
    assert context.work(row_id) == "quarantined (operator)"
    act(context, "release", row_id)
    assert context.work(row_id) == "accepted"
    assert context.job(row_id).verdict == "opaque"
    assert stored(platform.store) == {context.key(row_id): b"sealed"}


def test_a_parked_file_is_tried_again(openchat_context: AppContext) -> None:
    openchat_context.platform.set(attachment_attempts=1, attachment_missing_seconds=0)
    row_id = openchat_context.upload(None, file_size=5)
    assert openchat_context.work(row_id) == "failed (object_missing)"
    assert openchat_context.work(row_id) == "nothing to do"
    openchat_context.platform.put(b"Milk\n", openchat_context.key(row_id))
    act(openchat_context, "retry", row_id, "the object was restored from backup")
    job = openchat_context.job(row_id)
    assert (job.state, job.failures, job.waits) == ("waiting", 0, 0)
    assert openchat_context.work(row_id) == "accepted"
    assert events(openchat_context, row_id) == [
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
    openchat_context: AppContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    row_id = openchat_context.upload(EICAR)
    openchat_context.work(row_id)
    openchat_context.platform.sql("UPDATE roomkeeper.scan_verdicts SET verdict = 'clean', signature = NULL")
    act(openchat_context, "retry", row_id)
    assert openchat_context.work(row_id) == "accepted"
    assert stored(openchat_context.platform.store) == {openchat_context.key(row_id): EICAR}
    assert openchat_context.quarantined(row_id) is None


@pytest.mark.parametrize("name", ACTS)
def test_whoever_is_at_it_loses_it(
    openchat_context: AppContext, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    row_id = openchat_context.upload(b"text")
    at_scan(monkeypatch, lambda: act(openchat_context, name, row_id))
    assert openchat_context.work(row_id) == "taken over"
    assert openchat_context.job(row_id).state == "waiting"
    openchat_context.assert_unserved(row_id)


@pytest.mark.parametrize("name", ACTS)
def test_one_that_nobody_has_seen_yet_can_be_told(openchat_context: AppContext, name: str) -> None:
    row_id = openchat_context.upload(b"text")
    assert act(openchat_context, name, row_id).code == 0
    assert openchat_context.work(row_id) == ("quarantined (operator)" if name == "quarantine" else "accepted")


@pytest.mark.parametrize("name", ACTS)
def test_who_and_why_are_kept(openchat_context: AppContext, name: str) -> None:
    row_id = openchat_context.upload(b"text")
    openchat_context.work(row_id)
    act(openchat_context, name, row_id, "  a reason <b>with</b> [brackets] ")
    event = openchat_context.platform.sql(
        "SELECT actor, reason, attempt FROM roomkeeper.attachment_events WHERE event = :name", name=name
    )
    assert [(row.reason, row.attempt) for row in event] == [("a reason <b>with</b> [brackets]", 2)]
    assert event[0].actor
    shown = on(openchat_context.platform, "attachments", "show", "openchat", str(row_id))
    assert "a reason <b>with</b> [brackets]" in " ".join(shown.out.split())


@pytest.mark.parametrize("name", ACTS)
def test_a_reason_must_be_given(openchat_context: AppContext, name: str) -> None:
    row_id = openchat_context.upload(b"text")
    before = openchat_context.platform.everything()
    assert on(openchat_context.platform, "attachments", name, "openchat", str(row_id)).code == 2
    outcome = act(openchat_context, name, row_id, "  ")
    assert (outcome.code, outcome.err) == (1, "--reason must say why, in a few words.\n")
    assert openchat_context.platform.everything() == before


@pytest.mark.parametrize("name", ACTS)
@pytest.mark.parametrize(
    ("app", "says"),
    [
        ("openchat", "openchat has no attachment"),
        ("echoroom", "'echoroom' is no application with attachments: openchat, pern."),
        ("unknown", "'unknown' is no application with attachments: openchat, pern."),
    ],
)
def test_what_is_not_there_cannot_be_told(
    openchat_context: AppContext, name: str, app: str, says: str
) -> None:
    before = openchat_context.platform.everything()
    outcome = on(openchat_context.platform, "attachments", name, app, str(uuid4()), "--reason", "x")
    assert outcome.code == 1
    assert outcome.err.startswith(says)
    assert openchat_context.platform.everything() == before


def test_a_deleted_row_cannot_be_told(openchat_context: AppContext) -> None:
    row_id = openchat_context.upload(b"text", is_deleted=True)
    assert act(openchat_context, "release", row_id).code == 1


def test_an_id_that_is_none_is_a_sentence(openchat_context: AppContext) -> None:
    assert on(openchat_context.platform, "attachments", "show", "openchat", "42").code == 2


def test_a_broker_that_is_away_stops_nobody(openchat_context: AppContext, valkey: ValkeyServer) -> None:
    row_id = openchat_context.upload(b"text")
    openchat_context.work(row_id)
    valkey.stop()
    outcome = act(openchat_context, "quarantine", row_id)
    assert outcome.code == 0
    assert "The broker is away" in outcome.out
    openchat_context.assert_unserved(row_id)
    # The recovery job finds it: nothing says that it has been announced.
    assert openchat_context.job(row_id).enqueued_at is None


def test_the_story_of_a_file_is_told(openchat_context: AppContext) -> None:
    row_id = openchat_context.upload(drawing("PNG"), "a.png", "image/png")
    nothing = on(openchat_context.platform, "attachments", "show", "openchat", str(row_id))
    assert nothing.code == 1
    assert "No worker has taken up" in nothing.err
    openchat_context.work(row_id)
    shown = on(openchat_context.platform, "attachments", "show", "openchat", str(row_id))
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
    assert events(openchat_context, row_id) == [
        "claimed",
        "fetch",
        "identify",
        "scan",
        "draw",
        "store",
        "finished",
    ]
    seconds = openchat_context.platform.sql(
        "SELECT event, seconds, detail, worker FROM roomkeeper.attachment_events WHERE seconds IS NOT NULL"
    )
    timings = openchat_context.job(row_id).timings
    assert {row.event: row.seconds for row in seconds} == timings
    assert {row.worker for row in seconds} == {"worker"}
    found = {row.event: row.detail for row in seconds}
    assert found["identify"] == {"type": "image/png", "traits": []}
    assert found["scan"] == {"verdict": "clean", "signature": None, "known": False}
    assert found["draw"] == {"pictures": ["large", "small"]}


def test_jobs_are_found_by_what_became_of_them(openchat_context: AppContext) -> None:
    good, bad, bad_again = (openchat_context.upload(content) for content in (b"text", EICAR, EICAR))
    for row_id in (good, bad, bad_again):
        openchat_context.work(row_id)

    def listed(*options: str) -> set[str]:
        outcome = on(openchat_context.platform, "attachments", "list", *options)
        assert outcome.code == 0
        return {str(row_id) for row_id in (good, bad, bad_again) if str(row_id) in outcome.out}

    assert listed() == {str(good), str(bad), str(bad_again)}
    assert listed("--outcome", "quarantined") == {str(bad), str(bad_again)}
    assert listed("--reason", "malware", "--app", "openchat") == {str(bad), str(bad_again)}
    assert listed("--app", "pern") == set()
    assert listed("--state", "failed") == set()
    assert listed("--sha256", openchat_context.job(good).sha256.upper()) == {str(good)}
    assert listed("--event", "release") == set()
    assert len(listed("--outcome", "quarantined", "--limit", "1")) == 1
    assert json.loads(openchat_context.row(good).scan_details)["findings"] == []

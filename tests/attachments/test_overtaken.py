"""An attempt that has lost its file goes on for a while, and nothing of what it does then may stay."""

from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest

from stack.demo.samples import drawing, photo
from tasks.attachments import operator_actions, pipeline
from tasks.attachments.commit_outcome import commit_outcome
from tests.attachments.context import AppContext, stored
from tests.platform import Platform
from workers import sandbox
from workers.known_bad import EICAR
from workers.sandbox import SandboxFailure
from workers.storage.local import LocalStore


@pytest.fixture
def context(platform: Platform) -> AppContext:
    return AppContext(platform, "openchat")


def act(name: str, row_id: UUID) -> None:
    operator_actions.act(name, "openchat", row_id, actor="Ada", reason="because")


def once(monkeypatch: pytest.MonkeyPatch, method: str, event: Callable[[], object], key: str = "") -> None:
    """Let something happen before the first call of the store's `method`, for `key` if one is given."""
    real = getattr(LocalStore, method)

    def called(self: LocalStore, *arguments: Any, **options: Any) -> Any:
        if not key or key in arguments:
            monkeypatch.setattr(LocalStore, method, real)
            event()
        return real(self, *arguments, **options)

    monkeypatch.setattr(LocalStore, method, called)


def test_a_stripped_original_that_comes_too_late_follows_into_quarantine(
    context: AppContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    context.platform.set(strip_originals="openchat")
    row_id = context.upload(photo(400, 300), "p.jpg", "image/jpeg")

    def overtaken() -> None:
        act("quarantine", row_id)
        assert context.work(row_id) == "quarantined (operator)"
        assert stored(context.platform.store) == {}

    once(monkeypatch, "put", overtaken, context.key(row_id))
    assert context.work(row_id) == "taken over"
    assert context.job(row_id).outcome == "quarantined"
    assert context.quarantined(row_id) is not None
    assert stored(context.platform.store) == {}


def test_what_is_restored_too_late_goes_back_into_quarantine(
    context: AppContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    row_id = context.upload(EICAR)
    assert context.work(row_id) == "quarantined (malware)"
    act("release", row_id)

    def overtaken() -> None:
        act("quarantine", row_id)
        assert context.work(row_id) == "quarantined (operator)"

    once(monkeypatch, "restore", overtaken)
    assert context.work(row_id) == "taken over"
    assert context.job(row_id).outcome == "quarantined"
    assert context.quarantined(row_id) == EICAR
    assert stored(context.platform.store) == {}


@pytest.mark.parametrize("end", ["quarantine", "delete"])
def test_pictures_that_come_too_late_are_removed(
    context: AppContext, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    row_id = context.upload(drawing("PNG"), "a.png", "image/png")

    def overtaken() -> None:
        act("quarantine", row_id)
        if end == "delete":
            context.platform.sql("DELETE FROM openchat.attachment WHERE id = :id", id=row_id)
            context.platform.sql(
                "DELETE FROM roomkeeper.attachment_jobs WHERE attachment_id = :id", id=row_id
            )
        else:
            assert context.work(row_id) == "quarantined (operator)"

    once(monkeypatch, "put", overtaken)
    assert context.work(row_id) == "taken over"
    assert context.pictures(row_id) == []


def test_pictures_of_who_serves_it_now_stay(context: AppContext, monkeypatch: pytest.MonkeyPatch) -> None:
    """One attempt found it refused; before it can say so, another has served it."""
    row_id = context.upload(drawing("PNG"), "a.html", "text/html")

    def late(*arguments: Any) -> str:
        monkeypatch.setattr(pipeline, "commit_outcome", commit_outcome)
        context.platform.sql(
            "UPDATE openchat.attachment SET mime_type = 'image/png', original_filename = 'a.png'"
            " WHERE id = :id",
            id=row_id,
        )
        act("retry", row_id)
        assert context.work(row_id) == "accepted"
        return commit_outcome(*arguments)

    monkeypatch.setattr(pipeline, "commit_outcome", late)
    assert context.work(row_id) == "taken over"
    assert context.job(row_id).outcome == "accepted"
    assert context.pictures(row_id) == ["large.webp", "small.webp"]


def test_a_sandbox_that_cannot_be_had_is_not_the_files_fault(
    context: AppContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    row_id = context.upload(b"hello\n")
    real = sandbox.run

    def closed(*_: Any, **__: Any) -> dict[str, Any]:
        raise SandboxFailure("sandbox_closed", "the helper does not start")

    monkeypatch.setattr(sandbox, "run", closed)
    assert context.work(row_id) == "waiting (sandbox_unavailable)"
    for _ in range(4):
        assert context.again(row_id) == "waiting (sandbox_unavailable)"
    assert context.job(row_id).failures == 0
    monkeypatch.setattr(sandbox, "run", real)
    assert context.again(row_id) == "accepted"

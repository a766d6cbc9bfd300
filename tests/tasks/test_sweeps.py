"""A policy is checked when it is declared: one that is wrong is refused with what to do."""

from dataclasses import fields
from datetime import timedelta
from typing import Any

import pytest

from beat_schedule import timetable
from models.echoroom import ChatSession, TypingIndicator, User, VoiceStatus
from tasks.apps import APPS, POLICIES, enabled, policies
from tasks.policies.app import App
from tasks.policies.sweep import AFTER, NOW, Delete, Event, PolicyError, Related, Sweep, Update
from workers.settings import SettingsError, load

each_policy = pytest.mark.parametrize("policy", POLICIES.values(), ids=list(POLICIES))

GOOD: dict[str, Any] = {
    "name": "echoroom.test",
    "model": TypingIndicator,
    "rule": "what is past is deleted",
    "why": "Because it must (echoroom.md, Cleanup Functions).",
    "due": TypingIndicator.expires_at < NOW,
    "action": Delete(),
    "every": timedelta(seconds=5),
}


def make(**changes: Any) -> Sweep:
    values = {name: value for name, value in (GOOD | changes).items() if value is not ...}
    return Sweep(**values)


def test_a_good_one_is_taken_and_cannot_be_changed() -> None:
    policy = make()
    with pytest.raises(AttributeError):
        policy.name = "echoroom.other"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"evry": 5}, "echoroom.test: 'evry' is not a field of a policy; did you mean 'every'?"),
        ({"zzz": 5}, "echoroom.test: 'zzz' is not a field of a policy: name, model, rule, why, due, action,"),
        ({"why": ..., "every": ...}, "echoroom.test: give why, every; see tasks.policies.sweep."),
        ({"name": "Typing"}, "Typing: call it application.what, in small letters."),
        ({"rule": "gone"}, "echoroom.test: say in a sentence what its rule is."),
        ({"why": "so there"}, "echoroom.test: say in a sentence what its why is."),
        ({"every": timedelta(0)}, "echoroom.test: `every` must be longer than nothing, not 0:00:00."),
        (
            {"after": timedelta(0), "due": TypingIndicator.expires_at < NOW - AFTER},
            "echoroom.test: `after` must be longer than nothing, not 0:00:00: all rows would be due.",
        ),
        ({"after": timedelta(1)}, "echoroom.test: give `after` if, and only if, its expressions use AFTER."),
        (
            {"due": TypingIndicator.expires_at < NOW - AFTER},
            "echoroom.test: give `after` if, and only if, its expressions use AFTER.",
        ),
        ({"rule": "older than {after} are deleted"}, "echoroom.test: its rule speaks of a period that"),
        (
            {"full_pass_every": timedelta(seconds=4)},
            "echoroom.test: `full_pass_every` must not be shorter than `every`, 0:00:05, not 0:00:04.",
        ),
        (
            {"action": Update({User.username: "x"})},
            "echoroom.test: User.username is not a column of echoroom.typing_indicators.",
        ),
        (
            {"event": Event(name="x", room=ChatSession.id, data={})},
            "echoroom.test: ChatSession.id is not a column of echoroom.typing_indicators.",
        ),
        (
            {"lock_first": TypingIndicator.username},
            "echoroom.test: `lock_first` must be a foreign key, and TypingIndicator.username is none.",
        ),
        (
            {"related": (Related(model=VoiceStatus, of=VoiceStatus.id.is_(None), action=Delete()),)},
            "echoroom.test: nothing can go along with rows that are deleted: a foreign key does that.",
        ),
    ],
)
def test_a_wrong_one_is_refused_with_what_to_do(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(PolicyError) as caught:
        make(**changes)
    assert str(caught.value).startswith(sentence)


def test_a_name_is_used_once_and_on_the_page_of_its_application() -> None:
    def page(*names: str) -> App:
        return App(
            name="echoroom",
            about="x",
            document="x",
            models=APPS["echoroom"].models,
            cleanup=tuple(make(name=name) for name in names),
            untouched={},
        )

    page("echoroom.one", "echoroom.two")
    with pytest.raises(PolicyError, match=r"^echoroom\.one: this name is used twice; call one of them"):
        page("echoroom.one", "echoroom.one")
    with pytest.raises(
        PolicyError, match=r"^pern\.one: it is in the definition of echoroom; call it echoroom\."
    ):
        page("pern.one")


@each_policy
def test_a_policy_says_what_it_does_and_where_that_is_written(policy: Sweep) -> None:
    app = APPS.get(policy.name.partition(".")[0])
    assert policy.why.endswith((".", ")"))
    if app is not None:
        assert f"({app.document}, " in policy.why
    assert "{after}" in policy.rule or policy.after is None
    assert policy.rule[0].islower()
    assert not policy.rule.endswith(".")


@each_policy
def test_every_policy_is_a_line_of_the_timetable_that_expires(policy: Sweep) -> None:
    lines = timetable(load({"DATABASE_URL": "postgresql://"}))
    if policy.off_until_set:
        assert policy.name not in lines
        lines = timetable(
            load({"DATABASE_URL": "postgresql://", "ROOMKEEPER_RETENTION_DAYS": f"{policy.name}=9"})
        )
    entry = lines[policy.name]
    assert entry == {
        "task": policy.name,
        "schedule": policy.every,
        # In a long queue a message that lives less would always come too late.
        "options": {"expires": max(600, policy.every.total_seconds())},
    }


def test_policies_are_set_and_switched_off() -> None:
    settings = load(
        {
            "DATABASE_URL": "postgresql://",
            "ROOMKEEPER_APPS": "echoroom",
            "ROOMKEEPER_SWEEP_EVERY": "echoroom.typing=2.5",
            "ROOMKEEPER_SWEEP_OFF": "echoroom.voice, echoroom.counts",
        }
    )
    lines = timetable(settings)
    assert lines["echoroom.typing"]["schedule"] == timedelta(seconds=2.5)
    assert lines["echoroom.typing"]["options"] == {"expires": 600}
    assert set(policies(settings)) == {
        name
        for name in POLICIES
        if name.startswith(("echoroom.", "roomkeeper."))
        and name not in {"echoroom.voice", "echoroom.counts"}
        and not POLICIES[name].off_until_set
    }
    assert set(policies(settings)) == {name for name in lines if name in POLICIES}


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        (
            "ROOMKEEPER_SWEEP_EVERY",
            "echoroom.typin=5",
            "ROOMKEEPER_SWEEP_EVERY names 'echoroom.typin', which is not a policy or a rollup: ",
        ),
        (
            "ROOMKEEPER_SWEEP_OFF",
            "echoroom.typin",
            "ROOMKEEPER_SWEEP_OFF names 'echoroom.typin', which is not a policy or a rollup: ",
        ),
        (
            "ROOMKEEPER_SWEEP_AFTER",
            "echoroom.counts=5",
            "ROOMKEEPER_SWEEP_AFTER names 'echoroom.counts', which is not a policy with a period: ",
        ),
    ],
)
def test_an_unknown_policy_is_told(name: str, value: str, sentence: str) -> None:
    with pytest.raises(SettingsError) as caught:
        enabled(load({"DATABASE_URL": "postgresql://", name: value}))
    assert str(caught.value).startswith(sentence)


@pytest.mark.parametrize(
    "value", ["echoroom.typing", "echoroom.typing=x", "echoroom.typing=0", "a=-1", "a=nan"]
)
@pytest.mark.parametrize("name", ["ROOMKEEPER_SWEEP_EVERY", "ROOMKEEPER_SWEEP_AFTER"])
def test_a_period_that_is_none_is_refused(name: str, value: str) -> None:
    with pytest.raises(SettingsError, match=f"^{name} is wrong"):
        load({"DATABASE_URL": "postgresql://", name: value})


def test_every_field_of_a_policy_is_described() -> None:
    described = Sweep.__doc__ or ""
    assert [one.name for one in fields(Sweep) if f"{one.name}:" not in described] == []

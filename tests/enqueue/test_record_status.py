"""`roomkeeper.record_status`: what it lets through, the task's own model accepts; of the rest it says why."""

import json
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from tasks.apps import APPS
from tasks.delivery.events import MAX_EVENTS, WITH_STATUSES, RecordStatus
from tests.examples import examples

Service = psycopg.Connection[tuple[Any, ...]]

GOOD: dict[str, Any] = {
    "message_id": "0b0f7a1e-2f0c-4c6e-9f0a-8d9a1b2c3d4e",
    "user_id": "FFFFFFFF-ffff-ffff-ffff-ffffffffffff",
    "status": "read",
    "at": "2026-01-31T23:59:59.123Z",
}
ALLOWED = "Allowed: connect, openchat, pern."
WANTED = (
    'One to 1000 objects {"message_id": a UUID, "user_id": a UUID, "status": "sent", "delivered", "read" or '
    '"failed", "at": "2026-01-31T23:59:59.123Z"}.'
)
FIELDS = "The fields are: message_id, user_id, status, at."
UUIDS = "A UUID looks like 123e4567-e89b-42d3-a456-426614174000."
STATUSES = "Allowed: sent, delivered, read, failed."
MOMENTS = (
    "A date that exists, the time, and its offset from UTC: 2026-01-31T23:59:59.123Z, "
    "2026-01-31T23:59:59+01:00."
)


def without(*fields: str) -> dict[str, Any]:
    return {name: value for name, value in GOOD.items() if name not in fields}


#: The application, the events, and what is said: the message, and the hint.
WRONG: list[tuple[str | None, Any, str, str]] = [
    (None, [GOOD], "app: must not be NULL", ALLOWED),
    *(
        (
            app,
            [GOOD],
            f"app: not an application with message statuses, but a string of {len(app)} characters",
            ALLOWED,
        )
        for app in ("", "echoroom", "Pern", "pern ")
    ),
    ("pern", None, "events: must not be NULL", WANTED),
    ("pern", "null", "events: not an array, but null", WANTED),
    ("pern", GOOD, "events: not an array, but an object", WANTED),
    ("pern", '"read"', "events: not an array, but a string of 4 characters", WANTED),
    ("pern", "1", "events: not an array, but a number", WANTED),
    ("pern", [], "events: an array of 0 elements", WANTED),
    ("pern", [GOOD] * (MAX_EVENTS + 1), "events: an array of 1001 elements", WANTED),
    *(
        ("pern", [GOOD, value], f"events[1]: not an object, but {shape}", WANTED)
        for value, shape in (
            (None, "null"),
            (1, "a number"),
            ("read", "a string of 4 characters"),
            (list(GOOD), "an array of 4 elements"),
            ([GOOD], "an array of 1 elements"),
        )
    ),
    ("pern", [{}], "events[0].message_id: missing", FIELDS),
    *(("pern", [GOOD] * 3 + [without(name), {}], f"events[3].{name}: missing", FIELDS) for name in GOOD),
    ("pern", [GOOD | {"text": "hello"}], "events[0].text: no such field", FIELDS),
    # A field that is misspelt is also one that is missing.
    ("pern", [without("at") | {"At": GOOD["at"]}], "events[0].At: no such field", FIELDS),
    *(
        ("pern", [GOOD | {name: value}], f"events[0].{name}: not a UUID, but {shape}", UUIDS)
        for name in ("message_id", "user_id")
        for value, shape in (
            (None, "null"),
            (5, "a number"),
            ([GOOD[name]], "an array of 1 elements"),
            ("", "a string of 0 characters"),
            (UUID(GOOD[name]).hex, "a string of 32 characters"),
            (GOOD[name][:-1] + "g", "a string of 36 characters"),
            # A digit, but not one of ours.
            (GOOD[name][:-1] + "٣", "a string of 36 characters"),
        )
    ),
    *(
        ("pern", [GOOD | {"status": value}], f"events[0].status: not a status, but {shape}", STATUSES)
        for value, shape in (
            (None, "null"),
            ("READ", "a string of 4 characters"),
            ("read\n", "a string of 5 characters"),
            ("reacted", "a string of 7 characters"),
            (["read"], "an array of 1 elements"),
        )
    ),
    *(
        (
            "pern",
            [GOOD | {"at": value}],
            f"events[0].at: not a moment, but {shape}",
            MOMENTS,
        )
        for value, shape in (
            (None, "null"),
            (1767225599, "a number"),
            ("1767225599", "a string of 10 characters"),
            ("now", "a string of 3 characters"),
            ("infinity", "a string of 8 characters"),
            ("", "a string of 0 characters"),
            ([GOOD["at"]], "an array of 1 elements"),
        )
    ),
    # The first one is told.
    (
        "pern",
        [GOOD, GOOD | {"at": 1}, {}],
        "events[1].at: not a moment, but a number",
        MOMENTS,
    ),
]

#: Moments on either side of what is allowed.
AT = {
    "2026-01-31T23:59:59.123Z": True,
    "2026-01-31T23:59:59Z": True,
    "2026-01-31T23:59Z": True,
    "2026-01-31 23:59:59+00:00": True,
    "2026-01-31T23:59:59.123456789-12:00": True,
    "2026-01-31T23:59:59+14:00": True,
    "2026-01-31T23:59:59": False,
    "2026-01-31T23:59:59+01": False,
    "2026-01-31T23:59:59+0100": False,
    "2026-01-31T23:59:59 +01:00": False,
    "2026-01-31T23:59:59.Z": False,
    "2026-01-31T23:59:59Z\n": False,
    "2026-01-31": False,
    "2026-01-31Z": False,
    "31.1.2026T23:59:59Z": False,
    "2026-01-31T24:00:00Z": False,
    "2026-01-31T23:60:00Z": False,
    "2026-01-31T23:59:60Z": False,
    "2026-01-31T23:59:59+15:00": False,
    "2026-01-31T23:59:59+01:60": False,
    "2026-00-31T00:00:00Z": False,
    "2026-13-31T00:00:00Z": False,
    "2026-01-00T00:00:00Z": False,
    "2026-01-32T00:00:00Z": False,
    "2026-04-30T00:00:00Z": True,
    "2026-04-31T00:00:00Z": False,
    "2026-02-28T00:00:00Z": True,
    "2026-02-29T00:00:00Z": False,
    "2024-02-29T00:00:00Z": True,
    "2024-02-30T00:00:00Z": False,
    "2000-02-29T00:00:00Z": True,
    "2100-02-29T00:00:00+14:00": False,
    "2000-01-01T00:00:00Z": True,
    "1999-12-31T23:59:59.999999999Z": True,
    "2000-01-01T00:59:59+01:00": True,
    "2000-01-01T01:00:00+01:00": True,
    "1999-12-31T23:00:00-01:00": True,
    "1999-12-31T22:59:59-01:00": True,
    "2099-12-31T23:59:59.999999999Z": True,
    "2100-01-01T00:00:00Z": True,
    "2100-01-01T00:59:59+01:00": True,
    "2100-01-01T01:00:00+01:00": True,
    "2099-12-31T23:00:00-01:00": True,
    "2099-12-31T22:59:59-01:00": True,
    "1970-01-01T00:00:00Z": True,
    "9999-12-31T23:59:59Z": True,
    "9999-12-31T23:59:59.999999999-14:00": True,
    "0001-01-01T00:00:00+14:00": True,
    "0000-01-01T00:00:00Z": False,
    "0000-02-29T00:00:00Z": False,
    "-0001-01-01T00:00:00Z": False,
    "+010000-01-01T00:00:00Z": False,
    "0004-02-29T00:00:00Z": True,
    "1900-02-29T00:00:00Z": False,
    "2400-02-29T00:00:00Z": True,
}


def record(service: Service, app: str | None, events: Any) -> Any:
    """Call the function; return what it returns. A text is JSON as it stands."""
    given = events if events is None or isinstance(events, str) else json.dumps(events)
    found = service.execute("SELECT roomkeeper.record_status(%s, %s)", (app, given)).fetchone()
    assert found is not None
    return found[0]


def inbox(service: Service) -> list[tuple[Any, ...]]:
    return service.execute("SELECT id, app, events FROM roomkeeper.status_inbox ORDER BY id").fetchall()


def accepted(service: Service, app: str | None, events: Any) -> bool:
    """Return whether the function lets that through; nothing is kept."""
    try:
        with service.transaction(force_rollback=True):
            record(service, app, events)
    except psycopg.errors.InvalidParameterValue:
        return False
    return True


def sound(app: str | None, events: Any) -> bool:
    """Return whether the task's own model accepts it."""
    try:
        RecordStatus.model_validate({"app": app, "events": events})
    except ValidationError:
        return False
    return True


def test_what_is_wrong_is_said_to_the_caller(service: Service) -> None:
    for app, events, message, hint in WRONG:
        with pytest.raises(psycopg.errors.InvalidParameterValue) as caught:
            record(service, app, events)
        error = caught.value.diag
        assert (error.sqlstate, error.message_primary, error.message_hint) == ("22023", message, hint)
    assert inbox(service) == []


def test_what_is_right_is_kept_as_one_row_due_at_once(service: Service) -> None:
    many = [GOOD | {"message_id": str(uuid4())} for _ in range(MAX_EVENTS)]
    first, second = record(service, "pern", [GOOD]), record(service, "openchat", many)
    assert inbox(service) == [(first, "pern", [GOOD]), (second, "openchat", many)]
    ((due,),) = service.execute("SELECT bool_and(due_at <= now()) FROM roomkeeper.status_inbox").fetchall()
    assert due is True


def test_names_of_arguments_are_what_rpc_sends(service: Service) -> None:
    given = json.dumps([GOOD])
    service.execute("SELECT roomkeeper.record_status(events => %s::jsonb, app => 'connect')", (given,))
    assert len(inbox(service)) == 1


def test_there_is_nothing_when_the_caller_rolls_back(service: Service) -> None:
    with service.transaction(force_rollback=True):
        record(service, "pern", [GOOD])
        assert len(inbox(service)) == 1
    assert inbox(service) == []


def test_each_application_with_statuses_is_let_through(service: Service) -> None:
    assert [app for app in APPS if accepted(service, app, [GOOD])] == list(WITH_STATUSES)


def test_moments_are_allowed_to_the_boundary(service: Service) -> None:
    for zone in ("UTC", "Pacific/Kiritimati"):
        service.execute("SELECT set_config('TimeZone', %s, false)", (zone,))
        found = {at: accepted(service, "pern", [GOOD | {"at": at}]) for at in AT}
        assert found == AT
    assert [at for at, allowed in AT.items() if allowed and not sound("pern", [GOOD | {"at": at}])] == []


# -- Whatever it lets through, the model accepts ------------------------------------------------------------


def numbers(low: int, high: int, width: int = 2) -> st.SearchStrategy[str]:
    """Numbers as a date has them, mostly within bounds."""
    return st.one_of(st.integers(low, high), st.sampled_from([low, high])).map(lambda one: f"{one:0{width}}")


#: Each part of a moment: what is right, and what is nearly so.
PARTS: list[tuple[st.SearchStrategy[str], st.SearchStrategy[str]]] = [
    (st.sampled_from(["0001", "1900", "2000", "2004", "2023", "9999"]), numbers(0, 10_000, 4)),
    (
        st.sampled_from(["-02-28", "-02-29", "-04-30", "-12-31", "-01-01"]),
        st.tuples(st.just("-"), numbers(0, 13), st.just("-"), numbers(0, 32)).map("".join),
    ),
    (st.sampled_from("T "), st.sampled_from(["t", "_", "", "  "])),
    (numbers(0, 23), numbers(20, 30)),
    (numbers(0, 59).map(":{}".format), numbers(50, 70).map(":{}".format)),
    (st.sampled_from(["", ":00", ":59", ":59.9", ":00.9999999"]), st.sampled_from([":60", ":00.", ":00,1"])),
    (
        st.sampled_from(["Z", "+14:00", "-12:00", "+00:30"]),
        st.sampled_from(["", "z", "+0000", "+1:00", "-15:00"]),
    ),
]


@st.composite
def moments(draw: st.DrawFn) -> str:
    """A moment of which at most one part is not quite right."""
    wrong = draw(st.integers(0, 2 * len(PARTS)))
    return "".join(draw(part[number == wrong]) for number, part in enumerate(PARTS))


MOMENT = moments()
WELL_FORMED_MOMENT = st.datetimes().flatmap(
    lambda at: st.sampled_from(["Z", "+00:00", "-12:00", "+14:00", "+05:30"]).map(
        lambda offset: at.replace(year=2001 + at.year % 98, fold=0, day=min(at.day, 28)).isoformat() + offset
    )
)
HEX = "0123456789abcdefABCDEF"
NEAR_UUID = st.one_of(
    st.text(f"{HEX}-g{{}}", min_size=30, max_size=40),
    st.tuples(st.uuids().map(str), st.integers(0, 35), st.sampled_from(f"{HEX}-g٣ \n")).map(
        lambda parts: parts[0][: parts[1]] + parts[2] + parts[0][parts[1] + 1 :]
    ),
    st.uuids().map(lambda one: one.hex),
    st.uuids().map(lambda one: one.urn),
)
# What `jsonb` does not take is none of the function's business.
TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=40)
JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(2**70), 2**70), TEXT),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXT, inner, max_size=3)),
    max_leaves=4,
)
UUIDS_AS_TEXT = st.uuids().flatmap(lambda one: st.sampled_from([str(one), str(one).upper()]))
WELL_FORMED = st.fixed_dictionaries(
    {
        "message_id": UUIDS_AS_TEXT,
        "user_id": UUIDS_AS_TEXT,
        "status": st.sampled_from(["sent", "delivered", "read", "failed"]),
        "at": WELL_FORMED_MOMENT,
    }
)
#: One field of a good event is replaced, or a field is added or taken away.
DAMAGES: st.SearchStrategy[tuple[str, Any]] = st.one_of(
    st.tuples(st.just("at"), MOMENT),
    st.tuples(st.sampled_from(["message_id", "user_id"]), NEAR_UUID),
    st.tuples(st.just("status"), st.sampled_from(["reacted", "SENT", "sent ", ""])),
    st.tuples(st.one_of(st.sampled_from(list(GOOD)), TEXT), JSON),
    st.tuples(st.sampled_from(list(GOOD)), st.just(...)),
)


def damaged(event: dict[str, Any], damage: tuple[str, Any]) -> dict[str, Any]:
    changed = event | {damage[0]: damage[1]}
    return {name: value for name, value in changed.items() if value is not ...}


EVENT = st.one_of(st.builds(damaged, WELL_FORMED, DAMAGES), WELL_FORMED, JSON)
EVENTS = st.one_of(st.lists(EVENT, min_size=1, max_size=2), st.lists(WELL_FORMED, max_size=3), JSON)

one_database = examples(200)


@one_database
@given(app=st.one_of(st.sampled_from(WITH_STATUSES), TEXT), events=EVENTS)
def test_what_it_lets_through_the_model_accepts(service: Service, app: str, events: Any) -> None:
    if accepted(service, app, json.dumps(events)):
        assert sound(app, events)


@one_database
@given(at=st.one_of(MOMENT, WELL_FORMED_MOMENT))
def test_moments_that_it_lets_through_the_model_accepts(service: Service, at: str) -> None:
    if accepted(service, "pern", [GOOD | {"at": at}]):
        assert sound("pern", [GOOD | {"at": at}])


@one_database
@given(app=st.sampled_from(WITH_STATUSES), events=st.lists(WELL_FORMED, min_size=1, max_size=5))
def test_what_is_well_formed_both_accept(service: Service, app: str, events: list[Any]) -> None:
    assert sound(app, events)
    assert accepted(service, app, events)

"""What each application's page must say, whichever application it is."""

import importlib
import pkgutil
from dataclasses import fields

import pytest
from sqlalchemy import ClauseElement, Column, Table
from sqlalchemy.orm import InstrumentedAttribute
from sqlalchemy.sql.visitors import iterate

import tasks.apps
from models.base import Base
from models.platform import SCHEMA
from tasks.apps import APPS, enabled
from tasks.policies.app import App
from tasks.policies.columns import table_of
from tasks.policies.sweep import Sweep
from workers.settings import Settings, SettingsError, load

each_app = pytest.mark.parametrize("app", APPS.values(), ids=list(APPS))


@each_app
def test_every_table_feeds_a_job_or_says_why_not(app: App) -> None:
    fed = {table_of(model) for job in app.jobs() for model in job.models}
    # What statistics are made of besides: copies of ours.
    fed = {table for table in fed if table.schema != SCHEMA}
    untouched = {table_of(model) for model in app.untouched}
    both = sorted(table.fullname for table in fed & untouched)
    assert not both, f"a job feeds on them, so take them out of `untouched` of {app.name}: {both}"
    missing = sorted(table.fullname for table in set(app.tables()) - fed - untouched)
    assert not missing, (
        f"no job of {app.name} feeds on {missing}: give them a policy in `cleanup`, or say under `untouched` "
        "why nothing is done with them"
    )
    assert fed | untouched == set(app.tables())


@each_app
def test_there_is_a_reason_for_everything(app: App) -> None:
    for reason in [*app.untouched.values(), *(job.why for job in app.jobs())]:
        assert len(reason.split()) >= 3
        assert reason == reason.strip()


@each_app
def test_a_job_needs_columns_that_there_are(app: App) -> None:
    for job in app.jobs():
        needs = {need.table: need for need in job.needs()}
        assert set(map(table_of, job.models)) <= set(needs)
        for need in needs.values():
            assert need.columns
            assert need.columns <= set(need.table.columns.keys())
            # Statistics that are ours are replaced.
            removes = "DELETE" in need.privileges and need.table.schema != SCHEMA
            assert not removes or isinstance(job, Sweep), "only a sweep removes rows"


@each_app
def test_what_is_needed_is_all_that_the_page_names(app: App) -> None:
    """Or `roomkeeper check` would call a database sound on which the job fails."""
    for job in app.jobs():
        needed = {(need.table, name) for need in job.needs() for name in need.columns}
        for field in fields(job):  # type: ignore[arg-type]  # every record of a job is a dataclass
            value = getattr(job, field.name)
            if isinstance(value, ClauseElement | InstrumentedAttribute):
                expression = value.__clause_element__() if isinstance(value, InstrumentedAttribute) else value
                named = [part for part in iterate(expression) if isinstance(part, Column)]
                tables = [getattr(column.table, "element", column.table) for column in named]
                pairs = zip(tables, named, strict=True)
                # Steps of a select have columns too.
                assert {(table, column.name) for table, column in pairs if isinstance(table, Table)} <= needed
    if app.attachments:
        assert app.attachments.app_columns.columns() <= app.attachments.needs()[0].columns


def test_the_pages_are_all_there_is() -> None:
    found = [
        value.name
        for module in pkgutil.iter_modules(tasks.apps.__path__)
        for value in vars(importlib.import_module(f"tasks.apps.{module.name}")).values()
        if isinstance(value, App)
    ]
    # A mapping by name would swallow a second page of the same name.
    assert sorted(found) == sorted(APPS)
    assert tuple(APPS) == Settings.model_fields["apps"].default
    assert all(name == app.name for name, app in APPS.items())


def test_no_two_applications_share_a_schema_and_none_is_left_out() -> None:
    schemas = [schema for app in APPS.values() for schema in app.models.SCHEMAS]
    assert len(schemas) == len(set(schemas))
    owned = {table.fullname for app in APPS.values() for table in app.tables()}
    platform_tables = {table.fullname for table in Base.metadata.tables.values() if table.schema == SCHEMA}
    (supabase,) = {table.fullname for table in Base.metadata.tables.values()} - owned - platform_tables
    assert supabase == "auth.users"
    assert len(owned) == 38


def test_only_the_enabled_ones_run_in_the_order_given() -> None:
    settings = load({"DATABASE_URL": "postgresql://", "ROOMKEEPER_APPS": "pern, openchat"})
    assert list(enabled(settings)) == ["pern", "openchat"]


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        (
            "ROOMKEEPER_APPS",
            "openchat,prn",
            "ROOMKEEPER_APPS names 'prn', which is not an application: echoroom, openchat, connect, pern, "
            "audiorooms. Did you mean 'pern'?",
        ),
        (
            "ROOMKEEPER_STRIP_ORIGINALS",
            "pern,opnchat",
            "ROOMKEEPER_STRIP_ORIGINALS names 'opnchat', which is not an application with attachments: "
            "openchat, pern. Did you mean 'openchat'?",
        ),
        (
            "ROOMKEEPER_SCHEMAS",
            "opnchat=public",
            "ROOMKEEPER_SCHEMAS names 'opnchat', which is not a schema of an application: ",
        ),
        (
            "ROOMKEEPER_NAIVE_ZONES",
            "opnchat=Europe/Berlin",
            "ROOMKEEPER_NAIVE_ZONES names 'opnchat', which is not an application with such columns: "
            "openchat. Did you mean 'openchat'?",
        ),
    ],
)
def test_an_unknown_name_is_told_with_the_likely_one(name: str, value: str, sentence: str) -> None:
    with pytest.raises(SettingsError) as caught:
        enabled(load({"DATABASE_URL": "postgresql://", name: value}))
    assert str(caught.value).startswith(sentence)
    assert "Did you mean" in str(caught.value)

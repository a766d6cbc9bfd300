"""The applications. CONTRIBUTING.md says how to add a sixth."""

import difflib
from collections.abc import Collection
from datetime import timedelta

from tasks.apps.audiorooms import AUDIOROOMS
from tasks.apps.connect import CONNECT
from tasks.apps.echoroom import ECHOROOM
from tasks.apps.openchat import OPENCHAT
from tasks.apps.pern import PERN
from tasks.apps.platform import OWN, OWN_ROLLUPS
from tasks.policies.app import App
from tasks.policies.attachment import AttachmentTable
from tasks.policies.retention import Retention
from tasks.policies.rollup import DAY, Rollup
from tasks.policies.sweep import Sweep
from workers.settings import Settings, SettingsError, variable

APPS: dict[str, App] = {app.name: app for app in (ECHOROOM, OPENCHAT, CONNECT, PERN, AUDIOROOMS)}
#: All policies by name, the platform's own last.
POLICIES: dict[str, Sweep] = {
    policy.name: policy for policies in (*(app.policies for app in APPS.values()), OWN) for policy in policies
}
#: All rollups by name, the platform's own last.
ROLLUPS: dict[str, Rollup] = {
    rollup.name: rollup
    for rollups in (*(app.rollups for app in APPS.values()), OWN_ROLLUPS)
    for rollup in rollups
}


def attachments_of(app: str) -> AttachmentTable | None:
    """Return an application's table of attachments; None if it has none, or there is no such application."""
    found = APPS.get(app)
    return None if found is None else found.attachments


def enabled(settings: Settings) -> dict[str, App]:
    """Return the applications whose jobs run, by name.

    Raises:
        SettingsError: an application or a schema that is renamed is not known; the sentence names the
            variable and what is allowed.
    """
    _known(settings.apps, list(APPS), variable("apps"), "an application")
    with_attachments = [app.name for app in APPS.values() if app.attachments]
    stripped = variable("strip_originals")
    _known(settings.strip_originals, with_attachments, stripped, "an application with attachments")
    for name, given in (("sweep_every", settings.sweep_every), ("sweep_off", settings.sweep_off)):
        _known(given, [*POLICIES, *ROLLUPS], variable(name), "a policy or a rollup")
    of_days = [name for name, rollup in ROLLUPS.items() if rollup.grain is DAY]
    _known(settings.rollup_zones, of_days, variable("rollup_zones"), "a rollup of days")
    with_period = [
        name
        for name, policy in POLICIES.items()
        if policy.after is not None and not isinstance(policy, Retention)
    ]
    _known(settings.sweep_after, with_period, variable("sweep_after"), "a policy with a period")
    retained = {name: policy for name, policy in POLICIES.items() if isinstance(policy, Retention)}
    with_days = [
        name for name, policy in retained.items() if policy.after is not None or policy.off_until_set
    ]
    _known(settings.retention_days, with_days, variable("retention_days"), "a retention policy with a period")
    may = [name for name, policy in retained.items() if policy.archive and not policy.must_archive]
    _known(
        settings.archive_off,
        may,
        variable("archive_off"),
        "a retention policy that may do without an archive",
    )
    naive = [app.name for app in APPS.values() if app.naive_columns()]
    _known(settings.naive_zones, naive, variable("naive_zones"), "an application with such columns")
    schemas = [schema for app in APPS.values() for schema in app.models.SCHEMAS]
    _known(settings.schemas, schemas, variable("schemas"), "a schema of an application")
    return {name: APPS[name] for name in settings.apps}


def _known(given: "Collection[str]", known: list[str], name: str, kind: str) -> None:
    for value in given:
        if value not in known:
            likely = difflib.get_close_matches(value, known, n=1)
            hint = f" Did you mean {likely[0]!r}?" if likely else ""
            raise SettingsError(f"{name} names {value!r}, which is not {kind}: {', '.join(known)}.{hint}")


def policies(settings: Settings) -> dict[str, Sweep]:
    """Return the policies that run, by name: those of the enabled applications, and the platform's own.

    A retention policy without a period runs when one is set.

    Raises:
        SettingsError: see `enabled`.
    """
    groups = [*(app.policies for app in enabled(settings).values()), OWN]
    return {
        policy.name: policy
        for group in groups
        for policy in group
        if policy.name not in settings.sweep_off
        and not (policy.off_until_set and after(policy, settings) is None)
    }


def rollups(settings: Settings) -> dict[str, Rollup]:
    """Return the rollups that run, by name: those of the enabled applications, and the platform's own.

    Raises:
        SettingsError: see `enabled`.
    """
    groups = [*(app.rollups for app in enabled(settings).values()), OWN_ROLLUPS]
    return {
        rollup.name: rollup for group in groups for rollup in group if rollup.name not in settings.sweep_off
    }


def zone(rollup: Rollup, settings: Settings) -> str:
    """Return the time zone whose days a rollup counts."""
    return settings.rollup_zones.get(rollup.name, rollup.zone)


def every(policy: Sweep | Rollup, settings: Settings) -> timedelta:
    """Return how often a policy or rollup runs."""
    seconds = settings.sweep_every.get(policy.name)
    return policy.every if seconds is None else timedelta(seconds=seconds)


def after(policy: Sweep, settings: Settings) -> timedelta | None:
    """Return the policy's period, if it has one: of its own, or one that was set."""
    if isinstance(policy, Retention):
        days = settings.retention_days.get(policy.name)
        return policy.after if days is None else timedelta(days=days)
    seconds = settings.sweep_after.get(policy.name)
    return policy.after if seconds is None else timedelta(seconds=seconds)

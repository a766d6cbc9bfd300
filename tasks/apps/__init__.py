"""The applications. A sixth is a models file, a page, a factory and one line in `APPS`."""

import difflib

from tasks.apps.audiorooms import AUDIOROOMS
from tasks.apps.connect import CONNECT
from tasks.apps.echoroom import ECHOROOM
from tasks.apps.openchat import OPENCHAT
from tasks.apps.pern import PERN
from tasks.apps.spec import App
from workers.settings import Settings, SettingsError, variable

APPS: dict[str, App] = {app.name: app for app in (ECHOROOM, OPENCHAT, CONNECT, PERN, AUDIOROOMS)}


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
    schemas = [schema for app in APPS.values() for schema in app.models.SCHEMAS]
    _known(settings.schemas, schemas, variable("schemas"), "a schema of an application")
    return {name: APPS[name] for name in settings.apps}


def _known(given: "tuple[str, ...] | dict[str, str]", known: list[str], name: str, kind: str) -> None:
    for value in given:
        if value not in known:
            likely = difflib.get_close_matches(value, known, n=1)
            hint = f" Did you mean {likely[0]!r}?" if likely else ""
            raise SettingsError(f"{name} names {value!r}, which is not {kind}: {', '.join(known)}.{hint}")

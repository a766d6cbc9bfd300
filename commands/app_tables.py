"""Which table of each application feeds which job, as `roomkeeper apps` prints it: in a file.

The definitions are the source, and their import takes most of a second. `make apps` writes the file anew; a
test compares it with them.
"""

import json
from pathlib import Path
from typing import TypedDict

FILE = Path(__file__).with_name("apps.json")


class AppTables(TypedDict):
    """One application.

    Attributes:
        about: what it is, in a phrase.
        document: the document that its rules come from.
        jobs: by table, its jobs, each with the task's name and the reason.
        untouched: by table, why no job uses it.
    """

    about: str
    document: str
    jobs: dict[str, list[tuple[str, str]]]
    untouched: dict[str, str]


def read() -> dict[str, AppTables]:
    """Return the applications, by name, as they stand in the file."""
    found: dict[str, AppTables] = json.loads(FILE.read_text(encoding="utf-8"))
    return found


def text() -> str:
    """Return what the file must hold, from the applications' definitions."""
    return json.dumps(_defined(), ensure_ascii=False, indent=1) + "\n"


def _defined() -> dict[str, AppTables]:
    # Not before: to do without these is what the file is for.
    from tasks.apps import APPS
    from tasks.policies.columns import table_of

    made: dict[str, AppTables] = {}
    for name, app in APPS.items():
        jobs: dict[str, list[tuple[str, str]]] = {}
        for job in app.jobs():
            for model in job.models:
                # What was copied of the application's tables for its statistics is no table of its own.
                if table_of(model).schema in app.models.SCHEMAS:
                    jobs.setdefault(table_of(model).fullname, []).append((job.task, job.why))
        made[name] = {
            "about": app.about,
            "document": app.document,
            "jobs": jobs,
            "untouched": {table_of(model).fullname: why for model, why in app.untouched.items()},
        }
    return made


if __name__ == "__main__":
    FILE.write_text(text(), encoding="utf-8")

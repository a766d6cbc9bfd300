"""Which table of each application feeds which job, as `roomkeeper apps` prints it: in a file.

The definitions are the source, and their import takes most of a second. `make apps` writes the file anew; a
test compares it with them.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

if TYPE_CHECKING:
    from workers.inspection import Need

FILE = Path(__file__).with_name("apps.json")


class AppTables(TypedDict):
    """One application.

    Attributes:
        about: what it is, in a phrase.
        document: the document that its rules come from.
        jobs: by table, the jobs that use it: those that it is meant for, each with the task's name and the
            reason, then those that need it besides, each with what it does with the rows.
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
        besides: dict[str, list[tuple[str, str]]] = {}
        # Statistics, which some jobs write, are no tables of the application's own.
        tables = dict.fromkeys(app.tables())
        for job in app.jobs():
            main = [table_of(model) for model in job.models]
            for table in main:
                if table in tables:
                    jobs.setdefault(table.fullname, []).append((job.task, job.why))
            for need in job.needs():
                if need.table in tables and need.table not in main:
                    besides.setdefault(need.table.fullname, []).append((job.task, _use(need)))
        made[name] = {
            "about": app.about,
            "document": app.document,
            "jobs": {
                table.fullname: found
                for table in tables
                if (found := jobs.get(table.fullname, []) + besides.get(table.fullname, []))
            },
            "untouched": {table_of(model).fullname: why for model, why in app.untouched.items()},
        }
    return made


def _use(need: "Need") -> str:
    """Return what a job does with the rows of a table that is not its own."""
    if "DELETE" in need.privileges:
        return "Deletes its rows with those that they refer to."
    return "Updates or locks its rows." if "UPDATE" in need.privileges else "Only reads it."


if __name__ == "__main__":
    FILE.write_text(text(), encoding="utf-8")

"""docs/apps.md has a heading for each reference to a document; docs/glossary.md explains each term."""

import json
import re

from models.platform import AttachmentJob, JobRun
from tests.docs.blocks import ROOT

APPS = (ROOT / "docs/apps.md").read_text()
GLOSSARY = (ROOT / "docs/glossary.md").read_text()
TABLES = json.loads((ROOT / "commands/apps.json").read_text())
#: Each entry's terms.
ENTRIES = [entry.split(", ") for entry in re.findall(r"^\*\*(.+?)\.\*\*", GLOSSARY, re.MULTILINE)]


def headings(document: str) -> set[str]:
    """Return the headings of one document's chapter."""
    chapter = re.search(rf"^## {re.escape(document)}\n(.*?)(?=^## |\Z)", APPS, re.MULTILINE | re.DOTALL)
    assert chapter, f"docs/apps.md has no chapter {document}"
    return set(re.findall(r"^### (.+)$", chapter[1], re.MULTILINE))


def references() -> set[tuple[str, str]]:
    """Return each document and section that a reason refers to."""
    reasons = [why for app in TABLES.values() for jobs in app["jobs"].values() for _, why in jobs]
    found = re.findall(r"\((\w+\.md), ([^)]+)\)", "\n".join(reasons))
    # As one reason says of another section of the same document.
    return {(document, section) for document, section in found}


def test_every_reference_has_a_heading() -> None:
    assert len(references()) > 30
    for document, section in references():
        known = headings(document)
        parts = {section} if section in known else set(section.split(" and "))
        assert parts <= known, f"docs/apps.md has no heading for ({document}, {section})"


def test_every_heading_is_referred_to() -> None:
    for app in TABLES.values():
        referenced = {
            part
            for document, section in references()
            if document == app["document"]
            for part in (section, *section.split(" and "))
        }
        assert headings(app["document"]) <= referenced


def test_every_policy_is_summed_up() -> None:
    jobs = {job for app in TABLES.values() for found in app["jobs"].values() for job, _ in found}
    for job in jobs:
        app, _, rest = job.partition(".")
        if (
            rest in {"audit_warning", "audit_error", "audit_critical", "audit_info", "audit_security"}
            and app == "pern"
        ):
            continue
        assert f"`{job}`" in APPS, f"docs/apps.md does not mention {job}"


def test_entries_are_in_order_and_short() -> None:
    terms = [entry[0].lower() for entry in ENTRIES]
    assert terms == sorted(terms)
    for paragraph in GLOSSARY.split("\n\n")[2:]:
        assert paragraph.startswith("**")
        assert len(paragraph) < 420, paragraph


def test_what_it_refers_to_is_there() -> None:
    known = {term.lower() for entry in ENTRIES for term in entry}
    plural = {re.sub(r"s$", "", term) for term in known} | known
    for word in re.findall(r"(?<![*\w])\*([\w -]+)\*(?!\*)", GLOSSARY.partition("\n\n**")[2]):
        assert {word.lower(), re.sub(r"s$", "", word.lower())} & plural, f"no entry for {word}"


def test_states_and_outcomes_of_the_command_line_are_explained() -> None:
    for table in (AttachmentJob, JobRun):
        for check in table.__table__.constraints:  # type: ignore[attr-defined]
            if str(check.name) in {"run_outcome_known", "outcome_known"}:
                for value in re.findall(r"'(\w+)'", str(check.sqltext)):
                    assert value in GLOSSARY, value

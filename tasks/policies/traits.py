"""The table of traits: what is said of a file's content besides its media type, and what is done about it.

Their names are reasons for machines.
"""

from dataclasses import dataclass
from typing import Literal

#: Served, and the trait is noted; not served; not served and the verdict is "suspicious".
Action = Literal["accept", "refuse", "suspicious"]
ACTIONS: tuple[Action, ...] = ("accept", "refuse", "suspicious")


@dataclass(frozen=True, slots=True)
class Trait:
    """One record of the table.

    Attributes:
        name: the reason, for machines; it is kept in rows and does not change.
        action: what is done with such a file where the application does not say otherwise.
        says: what such a file is, for people.
        why: why that is done.
    """

    name: str
    action: Action
    says: str
    why: str


#: In the order in which they count: the first that is not accepted is the reason.
TRAITS = (
    Trait(
        "zip_bomb",
        "suspicious",
        "unpacks to far more than it weighs",
        "it is made to fill a disk, and a scanner gives up before its end",
    ),
    Trait(
        "polyglot",
        "refuse",
        "is two things at once",
        "who checks it as one may run it as the other; no honest program writes such a file",
    ),
    Trait(
        "encrypted_archive",
        "suspicious",
        "an archive that needs a password",
        "what cannot be scanned is not clean",
    ),
    Trait(
        "encrypted_document",
        "suspicious",
        "a document that needs a password",
        "what cannot be scanned is not clean",
    ),
    Trait(
        "archive_part",
        "accept",
        "one part of an archive in several",
        "people split what is too large to send; the scanner looks into each part as far as it can",
    ),
    Trait(
        "unread_packing",
        "suspicious",
        "packed in a way that is not looked into",
        "what is not looked into is not clean",
    ),
    Trait(
        "oversized_member",
        "suspicious",
        "holds a file larger than the scanner opens",
        "what is not looked into is not clean",
    ),
    Trait(
        "nested_too_deep",
        "suspicious",
        "archives in archives, deeper than they are looked into",
        "what is not looked into is not clean",
    ),
    Trait(
        "too_many_members",
        "suspicious",
        "an archive of more files than are looked at",
        "what is not looked into is not clean",
    ),
    Trait(
        "contradictory_archive",
        "suspicious",
        "an archive whose two lists of contents differ",
        "the scanner may go by one list and the recipient's program by the other",
    ),
    Trait(
        "broken_archive",
        "suspicious",
        "an archive without a readable list of contents",
        "it cannot be looked into, and some programs repair and open it all the same",
    ),
    Trait(
        "macros",
        "suspicious",
        "an office document with a program in it",
        "the usual way in for malware that no signature knows yet",
    ),
    Trait(
        "external_template",
        "refuse",
        "an office document that fetches a part of itself from elsewhere",
        "what is fetched when it is opened was never scanned, and the fetch tells who opened it",
    ),
    Trait(
        "allowed_template",
        "accept",
        "an office document that fetches a part of itself from a host that is allowed",
        "an operator named the host in ROOMKEEPER_EXTERNAL_TEMPLATE_HOSTS",
    ),
    Trait(
        "unpacked_copy",
        "accept",
        "packed in a way that the scanner does not open",
        "its unpacked copy is judged, and scanned too",
    ),
    Trait(
        "known_password",
        "accept",
        "a document that is encrypted and opens without a question",
        "its open copy is judged, and scanned too",
    ),
    Trait(
        "unsafe_members",
        "suspicious",
        "an archive with names that leave its folder or lie about their ending",
        "only an attack names its files so",
    ),
    Trait(
        "absolute_members",
        "accept",
        "an archive with absolute paths",
        "backup programs write them, and unpackers take them for relative",
    ),
    Trait(
        "duplicate_members",
        "accept",
        "an archive with two files of one name",
        "build tools write them; the scanner looks at both",
    ),
    Trait(
        "nested_archive",
        "accept",
        "an archive in an archive, or in a document",
        "usual, up to a depth",
    ),
    Trait(
        "active_content",
        "accept",
        "a page or drawing that a browser may run",
        "to be downloaded, never shown in the application's own origin, and never drawn",
    ),
)
TRAIT = {trait.name: trait for trait in TRAITS}

"""Where an attachment's objects are: keys that follow from its id, and the URLs it is served under.

Doing it again overwrites, and never litters.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime

from workers.storage import ObjectStore
from workers.storage.base import ObjectUrl

#: The pictures, from the small to the large.
PICTURE_NAMES = ("small", "large")
PICTURE_TYPE = "image/webp"


def quarantine_name(app: str, attachment_id: object) -> str:
    """Return the name under which an attachment lies in quarantine."""
    return f"{app}/{attachment_id}"


def picture_key(app: str, attachment_id: object, name: str) -> str:
    """Return the key of an attachment's picture."""
    return f"derived/{app}/{attachment_id}/{name}.webp"


def delete_pictures(
    store: ObjectStore, app: str, attachment_id: object, *, but: Mapping[str, object] | None = None
) -> None:
    """Remove the attachment's pictures, if there are any: of this attempt or of an earlier one.

    Args:
        but: by name, those that stay.
    """
    for name in PICTURE_NAMES:
        if name not in (but or {}):
            store.delete(picture_key(app, attachment_id, name))


def served_type(media_type: str, findings: Collection[str]) -> str:
    """Return the type that a file is served under: mere bytes where a browser could run it.

    Args:
        media_type: of the row. A text with a few tags in it is Markdown or JavaScript there.
        findings: the names of the file's traits.
    """
    return "application/octet-stream" if "active_content" in findings else media_type


@dataclass(frozen=True, slots=True)
class ObjectUrls:
    """Where clients get a served file: `pictures` by name; `expires_at` is when the first of them ends."""

    original: str
    pictures: Mapping[str, str]
    expires_at: datetime | None


def object_urls(
    store: ObjectStore, key: str, media_type: str, file_name: str, pictures: Mapping[str, str]
) -> ObjectUrls:
    """Return the URLs of a served file and its pictures, whose keys are given by name."""
    original = store.url(key, media_type, file_name)
    drawn: dict[str, ObjectUrl] = {
        name: store.url(picture, PICTURE_TYPE, f"{name}.webp") for name, picture in pictures.items()
    }
    ends = [one.expires_at for one in (original, *drawn.values()) if one.expires_at]
    return ObjectUrls(original.url, {name: one.url for name, one in drawn.items()}, min(ends, default=None))

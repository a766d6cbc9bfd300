"""What may be done for one file and all that is packed in it."""

from dataclasses import dataclass

from tasks.attachments.content.zips import MAX_ENTRIES, Archive, Entry

#: A bomb unpacks to more than this many bytes and to more than this many times its own size.
BOMB_BYTES = 256 * 1024 * 1024
BOMB_RATIO = 200
#: A member of this size is larger than any scanner's limit.
MAX_MEMBER_BYTES = 2 * 1024**3


@dataclass(slots=True)
class Budget:
    """What may still be done. What it leaves out the virus scanner still sees, or says that it could not.

    Attributes:
        max_member_bytes: a member that says it is as large as this is not scanned.
        template_hosts: from where documents may fetch parts; `*` for anywhere.
        unpacked: bytes of members of archives.
        streamed: bytes of streams that are packed alone, unpacked only to be counted.
        entries: entries of archives.
    """

    max_member_bytes: int = MAX_MEMBER_BYTES
    template_hosts: frozenset[str] = frozenset()
    unpacked: int = 48 * 1024 * 1024
    streamed: int = BOMB_BYTES
    entries: int = MAX_ENTRIES + 10_000

    def read(self, archive: Archive, entry: Entry, limit: int) -> bytes | None:
        """Return up to `limit` of the entry's unpacked bytes, None where they cannot be had."""
        data = archive.read(entry, min(limit, self.unpacked))
        self.unpacked -= len(data or b"")
        return data

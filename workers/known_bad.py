"""Harmless files that a virus scanner must not call clean, if it is set up as the platform needs it."""

import io
import zipfile
from functools import cache

#: The test file that every scanner knows. Assembled when used, so that a scanner that reads this file or
#: its compiled form has nothing to find.
EICAR = "".join((r"X5O!P%@AP[4\PZX54(P^)7CC)7}$", "EICAR-STANDARD-", "ANTIVIRUS-TEST-FILE!$H+H*")).encode()

#: Deeper than clamd's MaxRecursion can be set.
NESTING = 120


def zipped(content: bytes, name: str = "content") -> bytes:
    """Return a zip archive that holds `content`."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, content)
    return out.getvalue()


@cache
def nested_zip() -> bytes:
    """Return an archive in an archive in an archive, deeper than any limit of clamd."""
    content = b"nothing"
    for _ in range(NESTING):
        content = zipped(content, "inner.zip")
    return content


def encrypted_zip() -> bytes:
    """Return an archive whose only entry says that it is encrypted."""
    plain = bytearray(zipped(b"a secret that no one can read"))
    # `zipfile` cannot encrypt. The flag is what scanners go by: bit 0, at byte 6 of the entry's local
    # header and byte 8 of the one in the central directory.
    central = plain.rindex(b"PK\x01\x02")
    plain[6] |= 1
    plain[central + 8] |= 1
    return bytes(plain)

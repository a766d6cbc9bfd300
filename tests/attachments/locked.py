"""Office documents with a password: Excel's own, or the user's."""

import io
import zipfile
from random import Random

import msoffcrypto.format.ooxml

EXCELS = "VelvetSweatshop"


def locked(content: bytes, password: str = EXCELS) -> bytes:
    """Return an office document with a password."""
    # The library's writer makes small ones that cannot be read.
    padded, out = io.BytesIO(content), io.BytesIO()
    with zipfile.ZipFile(padded, "a") as archive:
        archive.writestr("docProps/thumbnail.jpeg", Random(1).randbytes(8000))
    content = padded.getvalue()
    msoffcrypto.format.ooxml.OOXMLFile(io.BytesIO(content)).encrypt(password, out)
    return out.getvalue()

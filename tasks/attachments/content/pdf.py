"""PDF: where it begins and ends, and whether it needs a password.

PDFium knows how passwords are checked, but its time is not bounded by the size of the file. So it gets a PDF
of a few kilobytes, in which only the encryption is the file's. Those parts are never packed.
"""

import io
import re
from collections.abc import Iterator
from importlib import import_module

from tasks.attachments.content.finding import Finding
from tasks.attachments.content.source import Source

HEADER = re.compile(rb"%PDF-\d\.\d")
#: Readers look for the header this far into the file, and for the end this far from its end.
REACH_BYTES = 1024
_LOCK = re.compile(rb"/Encrypt\s{0,9}(?:(\d{1,7})\s{1,9}(\d{1,5})\s{1,9}R|<<)")
_ROOT = re.compile(rb"/Root\s{1,9}(\d{1,7})\s{1,9}(\d{1,5})\s{1,9}R")
_DICTIONARY_END = re.compile(rb"stream|startxref|endobj|%%EOF")
#: A document that was changed repeats its encryption; more than these are tricks.
_LOCKS = 8
_PART_BYTES = 4096
_REWRITTEN_BYTES = 8 * 1024 * 1024


def prefixed(source: Source) -> bool:
    """Return whether readers would open the file as a PDF, whatever stands before its header."""
    return bool(HEADER.search(source.head(REACH_BYTES))) and b"%%EOF" in source.tail(REACH_BYTES)


def begins(source: Source) -> bool:
    """Return whether the file begins as a PDF, but for a mark of Unicode or white space."""
    return source.head(16).lstrip(b"\xef\xbb\xbf\t\n\r ").startswith(b"%PDF-")


def examine(source: Source) -> Iterator[Finding]:
    """Yield what is to be said of a PDF."""
    at, seen = 0, set()
    for _ in range(_LOCKS):
        if not (found := source.search(_LOCK, at)):
            return
        at = found[0] + len(found[1])
        if not found[1].endswith(b"<<") and found[1] in seen:
            continue
        seen.add(found[1])
        if _needs_password(_extract(source, found[0], found[1])):
            yield Finding("encrypted_document", "a PDF that needs a password")
            return


def without_encryption(source: Source) -> bytes | None:
    """Return an encrypted PDF that has no identity and opens without a password, open; None for any other.

    The scanner opens those that have an identity. Larger ones stay as they are: they take long to write.
    """
    if source.size > _REWRITTEN_BYTES:
        return None
    content = source.at(0, source.size)
    trailer = content[max(content.rfind(b"trailer"), 0) :]
    if b"/Encrypt" not in trailer or b"/ID" in trailer:
        return None
    pypdfium2 = import_module("pypdfium2")
    out = io.BytesIO()
    try:
        document = pypdfium2.PdfDocument(content)
        document.save(out, flags=pypdfium2.raw.FPDF_REMOVE_SECURITY)
        document.close()
    except pypdfium2.PdfiumError:
        return None
    return out.getvalue()


def _extract(source: Source, at: int, lock: bytes) -> bytes:
    """Return a small PDF with the encryption that the dictionary at this place names."""
    start = max(0, at - _PART_BYTES)
    before, after = source.at(start, at - start), source.at(at, _PART_BYTES)
    begin = before.find(b"<<", max(before.rfind(b"trailer"), before.rfind(b" obj"), 0))
    end = _DICTIONARY_END.search(after)
    dictionary = before[max(begin, 0) :] + after[: end.start() if end else None]
    root = _ROOT.search(dictionary)
    catalog = b"%b %b" % root.groups() if root else b"1 0"
    parts = [b"%PDF-1.7", b"%b obj << /Type /Catalog /Pages 4000001 0 R >> endobj" % catalog]
    parts.append(b"4000001 0 obj << /Type /Pages /Kids [] /Count 0 >> endobj")
    named = _LOCK.fullmatch(lock)
    if named and named[1]:
        body = source.at(_object(source, b"%b %b obj" % named.groups()), _PART_BYTES)
        parts.append(body[: body.find(b"endobj")] + b" endobj")
    return b"\n".join([*parts, b"trailer", dictionary, b"startxref", b"0", b"%%EOF", b""])


def _object(source: Source, head: bytes) -> int:
    """Return where the object begins whose head this is, -1 if nowhere."""
    at = 0
    for _ in range(_LOCKS):
        found = source.search(re.compile(re.escape(head)), at)
        if not found or not source.at(found[0] - 1, 1).isdigit():
            return found[0] if found else -1
        # The end of a longer number.
        at = found[0] + 1
    return -1


def _needs_password(document: bytes) -> bool:
    # Loaded where it is needed: it is large.
    pypdfium2 = import_module("pypdfium2")
    try:
        pypdfium2.PdfDocument(document).close()
    except pypdfium2.PdfiumError as error:
        # Not those that only forbid printing: they open without one, and scanners read them.
        return bool(error.err_code == pypdfium2.raw.FPDF_ERR_PASSWORD)
    return False

"""Text that libmagic takes for mere bytes: with control characters in it, or in UTF-16 without a mark."""

import re

from tasks.attachments.content.source import Source

_SAMPLE_BYTES = 64 * 1024
_NULS = re.compile(rb"\0+")
#: Control characters that no text needs.
_CONTROLS = bytes({*range(0x20), 0x7F} - {*b"\b\t\n\v\f\r\x1b"})
#: The rest of a character whose first byte stands before the sample.
_REST = bytes(range(0x80, 0xC0))
#: At most one in a hundred bytes of a text is a control character.
_CONTROLS_SHARE = 100
#: At least one in ten bytes is no NUL: file systems fill up logs with them after a power cut.
_FULL_SHARE = 10
#: NULs come in few stretches; in data they come everywhere.
_STRETCH_SHARE = 400


def reads(source: Source) -> bool:
    """Return whether the file's beginning and its end read as text."""
    parts = {source.head(_SAMPLE_BYTES), source.tail(_SAMPLE_BYTES)}
    return source.size > 1 and (all(map(_narrow, parts)) or wide(source.head(_SAMPLE_BYTES)) is not None)


def wide(start: bytes) -> str | None:
    """Return the name of the encoding if these bytes are UTF-16 without a mark, mostly of Latin letters."""
    start = start[: len(start) // 2 * 2]
    half = len(start) // 2
    for name, high in (("utf-16-le", start[1::2]), ("utf-16-be", start[::2])):
        if half < 2 or high.count(0) * 10 < half * 7:
            continue
        try:
            # The last letter may be cut in two.
            text = start.decode(name) if half < 2**14 else start[:-2].decode(name, "ignore")
        except UnicodeDecodeError:
            continue
        if "\0" not in text and not _controlled(text.encode()):
            return name
    return None


def _narrow(part: bytes) -> bool:
    text = _NULS.sub(b"", part)
    stretches = len(_NULS.findall(part))
    if len(text) * _FULL_SHARE < len(part) or stretches > 1 + len(part) // _STRETCH_SHARE:
        return False
    if not text or _controlled(text):
        return False
    try:
        text.lstrip(_REST).decode()
    except UnicodeDecodeError as error:
        # Cut at its end, or an older encoding, of which most letters are ASCII.
        whole = error.end >= len(text) - 3 and error.reason == "unexpected end of data"
        return whole or 5 * sum(map(len, re.findall(rb"[\t\n\r -~]+", text))) >= 4 * len(text)
    return True


def _controlled(text: bytes) -> bool:
    return len(text.translate(None, _CONTROLS)) * _CONTROLS_SHARE < len(text) * (_CONTROLS_SHARE - 1)

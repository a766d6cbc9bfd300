"""SVG, HTML and other XML: what a browser would run if it were shown where the application is."""

import re
from collections.abc import Iterator

from tasks.attachments.content import plain
from tasks.attachments.content.finding import Finding
from tasks.attachments.content.source import Source
from tasks.policies.media_types import ACTIVE, TEXT

#: What has no business in a picture. Short ones only where text follows: compressed data holds them too.
TAG = re.compile(
    rb"<(?:script[\s/>]|iframe[\s/>]|!doctype\s{1,9}html|(?:html|svg|body|\?php)[\s/>][\t\n\r -~]{8})", re.I
)
#: By what a browser takes a text for a page, if it is not told otherwise (WHATWG, MIME sniffing, 7.1).
_PAGE = re.compile(
    r"[\t\n\f\r ]*<(?:!--|\?xml"
    r"|(?:!doctype html|html|head|script|iframe|h1|div|font|table|a|style|title|b|body|br|p)[ >])",
    re.I,
)
_SVG_DOES = re.compile(
    rb"<script|<foreignobject|javascript:|<!entity|[\s\"']on[a-z]{3,20}\s{0,9}="
    rb"|(?:href|src)\s{0,9}=\s{0,9}[\"']\s{0,9}(?!#|data:image)[^\s\"']",
    re.I,
)
#: The detail is for people; so much of a drawing is enough for it.
_SVG_BYTES = 4 * 1024 * 1024
#: Not any data: letters keep their pictures and embedded documents so, too.
_WORD_2003 = re.compile(rb'macrospresent\s{0,9}=\s{0,9}["\']yes|<\w{1,9}:docSuppData\b|editdata\.mso', re.I)
_FLAT_ODF = re.compile(rb"<\w{1,20}:(?:module|event-listener)\b")
#: "ActiveMime" in base64: Word's macros in a web page or mail.
_ACTIVE_MIME = re.compile(rb"QWN0aXZlTWltZ")


def examine(source: Source, media_type: str) -> Iterator[Finding]:
    """Yield what is to be said of a text."""
    start = _text(source.head(4096))
    if not (ACTIVE.has(media_type) or TEXT.has(media_type) or media_type.endswith("+xml")):
        return
    if media_type == "image/svg+xml":
        does = source.search(_SVG_DOES, 0, _SVG_BYTES) is not None
        yield Finding("active_content", f"an SVG picture {'with' if does else 'without'} scripts or links")
    elif ACTIVE.has(media_type):
        yield Finding("active_content", f"runs in a browser: {media_type}")
    elif media_type.endswith("xml"):
        yield Finding("active_content", "an XML document, which can name its own scripts")
    elif _PAGE.match(start):
        yield Finding("active_content", "a text that begins like a page")
    yield from _macros(source, start)


def _macros(source: Source, start: str) -> Iterator[Finding]:
    if "wordDocument" in start:
        if source.search(_WORD_2003):
            yield Finding("macros", "a letter in XML with Visual Basic")
        return
    if "urn:oasis:names:tc:opendocument" in start and source.search(_FLAT_ODF):
        yield Finding("macros", "a flat OpenDocument file with a program")
    if re.search(r"mime-version|<html|<\?xml", start, re.I) and source.search(_ACTIVE_MIME):
        yield Finding("macros", "a page with Visual Basic")


def _text(start: bytes) -> str:
    """Return the beginning of a text in whatever Unicode it is."""
    for mark, name in ((b"\xff\xfe", "utf-16-le"), (b"\xfe\xff", "utf-16-be"), (b"\xef\xbb\xbf", "utf-8")):
        if start.startswith(mark):
            return start[len(mark) :].decode(name, "replace")
    return start.decode(plain.wide(start) or "latin-1", "replace")

"""Bytes that a browser would run as JavaScript, whatever else they are.

`GIF89a` is a name to JavaScript, and so is a JPEG's beginning in Latin-1; what follows is put into a comment
or a string, and code stands behind that. An honest picture has a byte outside of comments and strings that
JavaScript does not know, soon after its beginning.
"""

import re

from tasks.attachments.content.source import Source

#: In Latin-1: white space, what can be seen in ASCII, letters. Not what begins comments and strings.
_CODE = re.compile(rb"[\t\n\v\f\r !$-&(-.0-_a-~\xa0\xaa\xb5\xba\xc0-\xd6\xd8-\xf6\xf8-\xff]+")
_STRINGS = {
    b"'": re.compile(rb"'(?:[^'\\\n\r]|\\.){0,60000}'", re.S),
    b'"': re.compile(rb'"(?:[^"\\\n\r]|\\.){0,60000}"', re.S),
    b"`": re.compile(rb"`(?:[^`\\]|\\.){0,60000}`", re.S),
}
_COMMENT_END, _LINE_END = re.compile(rb"\*/"), re.compile(rb"[\n\r]")
_DOES = re.compile(rb"[=(]")
#: So much code behind the first comment or string is no accident.
_ENOUGH = 16
_STEPS = 200


def runs(source: Source) -> bool:
    """Return whether the file, from its first byte, reads as JavaScript."""
    at, code, hidden = 0, b"", False
    for _ in range(_STEPS):
        piece = source.at(at, 65_536)
        if not piece:
            return bool(_DOES.search(code))
        if match := _CODE.match(piece):
            code += match[0][:_ENOUGH]
            if hidden and len(match[0]) >= _ENOUGH and _DOES.search(match[0]):
                return True
            at += match.end()
        elif piece.startswith(b"/*"):
            end = source.search(_COMMENT_END, at + 2)
            if end is None:
                return False
            at, hidden = end[0] + 2, True
        elif piece.startswith(b"//"):
            end = source.search(_LINE_END, at + 2)
            at, hidden = (source.size if end is None else end[0] + 1), True
        elif piece[:1] == b"/":
            code, at = code + b"/", at + 1
        else:
            string = _STRINGS.get(piece[:1])
            match = string.match(piece) if string else None
            if match is None:
                return False
            at, hidden = at + match.end(), True
    return False

"""File names that deceive who reads them. Any other name is the application's own affair."""

import re
from pathlib import PurePosixPath

from tasks.policies.media_types import ACTIVE, PROGRAM, implied

#: What systems run or follow on a double click, beside what the table of media types knows as programs.
RUNNABLE = re.compile(
    r"\.(?:app|apk|application|appx|chm|command|deb|desktop|dmg|gadget|img|inf|iso|jar|job|js|jse|lnk|msc|msix|msp"
    r"|pkg|reg|rpm|run|scf|sct|settingcontent-ms|url|vhdx?|ws|wsc|wsf|wsh|xll)"
)
#: Of these and the programs, what Windows runs and no tool produces as `clip.mp4.…`.
_DOUBLE = re.compile(r"\.(?:bat|cmd|com|cpl|exe|hta|iso|js|jse|lnk|msi|pif|ps1|reg|scr|url|vbe|vbs|wsf)")
_HARMLESS = re.compile(r"\.(?:jpe?g|png|gif|webp|heic|bmp|pdf|docx?|xlsx?|pptx?|odt|ods|rtf|txt|mp[34]|mov)$")
# Overrides, embeddings and isolates turn the writing round. Not the marks: Arabic and Hebrew names have them.
_TURNING = re.compile("[\u202a-\u202e\u2066-\u2069]")
#: A program of old has neither a blank nor a dot before its ending.
_SITE = re.compile(r"[\s.].*[a-z0-9-]$", re.S)
#: So much blank pushes what follows out of sight.
_BLANK = re.compile(r"[\s\u2800\u3164\u115f\u1160\u200b-\u200d\ufeff]{8}")


def turns(name: str) -> bool:
    """Return whether a name holds characters that turn the direction of writing round."""
    return bool(_TURNING.search(name))


def site(name: str) -> bool:
    """Return whether a name may end in a web site's: `Screenshot of example.com`."""
    return name.rstrip(". ").lower().endswith(".com")


def deceives_as_site(name: str) -> bool:
    """Return whether a program of this name is taken for something about a web site."""
    return site(name) and bool(_SITE.search(name.rstrip(". ").lower().removesuffix(".com")))


def deceives(name: str) -> str | None:
    """Return in what way a name makes a program look like something else, in a phrase, or None."""
    if "\0" in name:
        return "has a NUL, where some programs take a name to end"
    # As Windows does: dots and spaces at the end do not count.
    shown = name.rstrip(". ").lower()
    path = PurePosixPath(_TURNING.sub("", shown))
    kind = implied(path.name)
    if not (RUNNABLE.fullmatch(path.suffix) or PROGRAM.has(kind) or ACTIVE.has(kind)):
        return None
    if turns(name):
        return f"turns its writing round before the ending {path.suffix}"
    if _BLANK.search(shown):
        return f"pushes the ending {path.suffix} out of sight"
    if _DOUBLE.fullmatch(path.suffix) and _HARMLESS.search(path.stem.rstrip()):
        return f"shows another ending before {path.suffix}"
    return None

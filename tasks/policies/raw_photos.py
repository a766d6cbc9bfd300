"""Raw photos: their types, and which content may be one."""

from tasks.policies.media_types import GENERIC, fits

#: What cameras' raw photos are called.
RAW = (
    "image/dng",
    "image/x-adobe-dng",
    "image/x-canon-*",
    "image/x-dcraw",
    "image/x-epson-erf",
    "image/x-fuji-raf",
    "image/x-fujifilm-raf",
    "image/x-hasselblad-*",
    "image/x-kodak-*",
    "image/x-leica-*",
    "image/x-minolta-mrw",
    "image/x-nikon-*",
    "image/x-olympus-orf",
    "image/x-panasonic-*",
    "image/x-pentax-pef",
    "image/x-phaseone-iiq",
    "image/x-raw",
    "image/x-samsung-srw",
    "image/x-sigma-x3f",
    "image/x-sony-*",
)
#: What libmagic takes most of them for: a TIFF whose pictures are not what the photo shows, or nothing.
_TAKEN_FOR = GENERIC | {"image/tiff"}


def raw_photo(content: str, declared: str, named: str) -> str | None:
    """Return the type of raw photo that content is which calls itself one, or None.

    Args:
        content: its normal type by libmagic.
        declared, named: the normal types that it claims.
    """
    if content not in _TAKEN_FOR and not fits(content, RAW):
        return None
    return next((claim for claim in (declared, named) if fits(claim, RAW)), None)

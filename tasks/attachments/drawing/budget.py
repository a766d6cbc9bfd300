"""What decoding a picture costs in memory, in bytes, estimated before anything is decoded."""

from typing import Any

#: Bytes that Pillow keeps for a pixel of each mode; four for every other. A pixel of one bit takes a byte.
BYTES_PER_PIXEL = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16B": 2, "I;16L": 2, "I;16N": 2}
#: An animation is composed on several canvases, each of four bytes a pixel.
CANVASES = 4
#: The most that is composed of an animation, in pixels of all frames together; it bounds the time.
COMPOSED_PIXELS = 400_000_000
#: libjpeg keeps each coefficient of a progressive JPEG until the end, whatever the scale, in two bytes.
COEFFICIENT_BYTES = 2


class OverBudgetError(Exception):
    """Decoding would take more memory than is allowed."""


def check(image: Any, size: tuple[int, int], decoded_bytes: int) -> None:
    """Check what decoding an opened picture takes: `width × height × bytes per pixel`, as Pillow keeps it.

    Args:
        image: a JPEG after `draft`: it is decoded at a reduced size.
        size: of the picture in the file; a progressive JPEG's coefficients are kept for all of it.
        decoded_bytes: what it may take.

    Raises:
        OverBudgetError: it takes more.
    """
    wanted = image.width * image.height * BYTES_PER_PIXEL.get(image.mode, 4) + _coefficient_bytes(image, size)
    if wanted > decoded_bytes:
        raise OverBudgetError(f"decoding takes {wanted} bytes, {decoded_bytes} are allowed")


def frames_within(size: tuple[int, int], decoded_bytes: int) -> int:
    """Return how many frames of an animation of this size may be composed: 1 means a still picture."""
    pixels = size[0] * size[1]
    if pixels * 4 * CANVASES > decoded_bytes:
        return 1
    return max(COMPOSED_PIXELS // pixels, 1)


def _coefficient_bytes(image: Any, size: tuple[int, int]) -> int:
    if not image.info.get("progressive") or image.format not in ("JPEG", "MPO"):
        return 0
    # Each component is sampled at a rate of its own.
    rates = [(max(across, 1), max(down, 1)) for _, across, down, _ in image.layer]
    full = max(across for across, _ in rates) * max(down for _, down in rates)
    samples = size[0] * size[1] * sum(across * down for across, down in rates) // full
    return int(samples) * COEFFICIENT_BYTES

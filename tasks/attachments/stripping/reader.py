"""Numbers from untrusted bytes."""


class Unstrippable(Exception):
    """The file cannot be stripped without loss; the text says why."""


def part(content: bytes | bytearray | memoryview, at: int, size: int) -> bytes:
    """Return `size` bytes from `at` on.

    Raises:
        Unstrippable: there are not so many.
    """
    if at < 0 or size < 0 or at + size > len(content):
        raise Unstrippable("cut off, or refers to what is not in it")
    return bytes(content[at : at + size])


def number(content: bytes | bytearray | memoryview, at: int, size: int, *, little: bool = False) -> int:
    """Return the unsigned integer of `size` bytes at `at`."""
    return int.from_bytes(part(content, at, size), "little" if little else "big")

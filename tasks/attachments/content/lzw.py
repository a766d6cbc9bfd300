"""What the program `compress` writes (`.Z`), unpacked within bounds."""

MAGIC = b"\x1f\x9d"
_CLEAR = 256
_WIDTH = 9


def unpack(data: bytes, max_bytes: int) -> bytes:
    """Return what a file unpacks to.

    Raises:
        ValueError: it is broken, or unpacks to more than `max_bytes`.
    """
    if len(data) < 3 or data[:2] != MAGIC:
        raise ValueError("not such a file")
    # Writers with a limit of 9 bits go on to 10.
    widest, clears = max(data[2] & 0x1F, _WIDTH + 1), bool(data[2] & 0x80)
    first = _CLEAR + clears
    # A code stands for a place in the output and a length: what it was made of stands there already.
    starts, lengths = [0] * (1 << widest), [0] * (1 << widest)
    out, at, width, free = bytearray(), 3, _WIDTH, first
    start = length = 0
    while at < len(data):
        # Codes are written in groups of eight. Behind a change of their width the rest of a group is padding.
        group = data[at : at + width]
        at += width
        bits, mask = int.from_bytes(group, "little"), (1 << width) - 1
        for _ in range(len(group) * 8 // width):
            code, bits = bits & mask, bits >> width
            if code == _CLEAR and clears:
                width, free, length = _WIDTH, first, 0
                break
            if length and free < 1 << widest:
                starts[free], lengths[free] = start, length + 1
                free += 1
            start_now = len(out)
            if code < _CLEAR:
                out.append(code)
            elif code < free:
                begin, count = starts[code], lengths[code]
                # The newest code may reach one byte into what it is about to write.
                out += out[begin : begin + count]
                if len(out) - start_now < count:
                    out.append(out[start_now])
            else:
                raise ValueError("a code without a meaning")
            start, length = start_now, len(out) - start_now
            if len(out) > max_bytes:
                raise ValueError("unpacks to too much")
            if free == 1 << width and width < widest:
                width += 1
                break
    return bytes(out)

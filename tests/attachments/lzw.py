"""A writer of files of the program `compress`."""


def compressed(content: bytes, widest: int = 16, *, clear_at: int = 0) -> bytes:
    """Return the content as the program `compress` packs it.

    Args:
        content: at least one byte.
        widest: how many bits a code may have.
        clear_at: after so many codes the table is made anew; 0 for never.
    """
    out, width = bytearray(b"\x1f\x9d" + bytes([0x80 | widest])), 9
    group: list[int] = []
    table, known, written = {bytes([byte]): byte for byte in range(256)}, b"", 0

    def flush(size: int = 0) -> None:
        bits = sum(code << width * index for index, code in enumerate(group))
        out.extend(bits.to_bytes(size or width, "little"))
        group.clear()

    def write(code: int) -> None:
        group.append(code)
        if len(group) == 8:
            flush()

    free = 257
    for byte in content:
        longer = known + bytes([byte])
        if longer in table:
            known = longer
            continue
        write(table[known])
        written += 1
        if free == 1 << width and width < widest:
            if group:
                flush()
            width += 1
        if written == clear_at:
            write(256)
            flush()
            table, width, free = {bytes([byte]): byte for byte in range(256)}, 9, 257
        elif free < 1 << widest:
            table[longer] = free
            free += 1
        known = bytes([byte])
    write(table[known])
    if group:
        flush((len(group) * width + 7) // 8)
    return bytes(out)

"""Makers of hostile files. Harmless as they are: no program in them does anything."""

import io
import struct
import zipfile
import zlib
from functools import cache

from PIL import Image, PngImagePlugin

from stack.demo.samples import program
from tests.attachments.carriers import (
    HTML,
    SEVEN,
    animation,
    content_types,
    letter,
    locked_pdf,
    motion_photo,
    mp4,
    ole,
    open_document,
    pdf,
    picture,
    relations,
    tar,
    windows_program,
    workbook,
    zipped,
)
from workers.known_bad import encrypted_zip, nested_zip

CODE = b"=1;document.write('hello')//"
ATTACK = b"<script>document.write('hello')</script>"
ARCHIVE = zipped({"a.class": b"\xca\xfe\xba\xbe"})
VBA = "application/vnd.ms-office.vbaProject"


# -- Two things at once -------------------------------------------------------------------------------------


def gif_script() -> bytes:
    """Return a GIF whose width opens a comment that a later one closes, with code behind it."""
    gif = bytearray(picture("GIF"))
    gif[6:8] = b"/*"
    return bytes(gif) + b"*/" + CODE


def gif_string_script() -> bytes:
    """Return a GIF whose header is assigned a string that spans the picture."""
    gif = bytearray(b"GIF89a='" + bytes(6) + b"\x3b")
    return bytes(gif) + b"';document.write(1234567890)"


def gif_code_script() -> bytes:
    """Return a GIF whose whole header is code, without anything to hide it."""
    return b"GIF89a=1;x=1;alert(document.domain);;;"


def jpeg_script() -> bytes:
    """Return a JPEG whose first segment's length opens a comment: in Latin-1 what stands before is a name."""
    segment = b"\0".ljust(0x2F2A - 2, b"\0")
    jpeg = picture("JPEG")
    body = segment[: -len(CODE) - 4] + b"*/" + CODE[:-2] + b"/*"
    return b"\xff\xd8\xff\xe0\x2f\x2a" + body + bytes(0x2F2A - 2 - len(body)) + jpeg[2:] + b"*/" + CODE


def bmp_script() -> bytes:
    """Return a BMP whose size opens a comment."""
    bmp = bytearray(picture("BMP"))
    bmp[2:4] = b"/*"
    return bytes(bmp) + b"*/" + CODE


def wav_script() -> bytes:
    """Return a WAV whose size opens a comment."""
    return b"RIFF/*\0\0WAVEfmt \x10\0\0\0\1\0\1\0" + bytes(60) + b"*/" + CODE


def page_in_png() -> bytes:
    """Return a PNG with a page in a text."""
    info = PngImagePlugin.PngInfo()
    info.add_text("Comment", ATTACK.decode())
    return picture("PNG", pnginfo=info)


def page_in_exif() -> bytes:
    """Return a JPEG with a page in its EXIF."""
    exif = Image.Exif()
    exif[0x010E] = ATTACK.decode()
    return picture("JPEG", exif=exif)


def pdf_in_jpeg() -> bytes:
    """Return a JPEG with a PDF's header in its comment and the PDF behind it."""
    return picture("JPEG", comment=b"%PDF-1.7") + pdf()


def tar_in_jpeg() -> bytes:
    """Return a JPEG whose first bytes, in a comment, are the name of a tar archive's first file."""
    archive = bytearray(tar())
    archive[:6] = b"\xff\xd8\xff\xfe" + struct.pack(">H", len(archive) - 4)
    return bytes(archive) + picture("JPEG")[2:]


def polyglots() -> dict[str, tuple[bytes, str]]:
    """Return files that are two things at once, and what is said of each."""
    jpeg, png, gif, webp = (picture(kind) for kind in ("JPEG", "PNG", "GIF", "WEBP"))
    exe, elf = windows_program(), program()
    return {
        "gif and script": (gif_script(), "a GIF that is also JavaScript"),
        "gif and script in a string": (gif_string_script(), "a GIF that is also JavaScript"),
        "gif that is all script": (gif_code_script(), "a GIF that is also JavaScript"),
        "jpeg and script": (jpeg_script(), "a JPEG that is also JavaScript"),
        "bmp and script": (bmp_script(), "image/bmp that is also JavaScript"),
        "wav and script": (wav_script(), "audio/wav that is also JavaScript"),
        "jpeg and zip": (jpeg + ARCHIVE, "a JPEG that is also a ZIP archive"),
        "jpeg, zip and more": (jpeg + ARCHIVE + b"junk" * 99, "a JPEG that is also a ZIP archive"),
        "jpeg and commented zip": (jpeg + zipped({"a": b"b"}, comment=b"\xff\xd9"), "ZIP archive"),
        "png and zip": (png + ARCHIVE, "a PNG that is also a ZIP archive"),
        "gif and jar": (gif + ARCHIVE, "a GIF that is also a ZIP archive"),
        "webp and zip": (webp + ARCHIVE, "a WebP that is also a ZIP archive"),
        "mp4 and zip": (mp4(b"isom") + ARCHIVE, "video/mp4 that is also a ZIP archive"),
        "motion photo and zip": (motion_photo() + ARCHIVE, "a JPEG that is also a ZIP archive"),
        "jpeg and rar": (jpeg + b"Rar!\x1a\x07\x01\x00" + bytes(20), "a JPEG that is also a RAR archive"),
        "jpeg, stuff and rar": (jpeg + b"stuff" + b"Rar!\x1a\x07\x00" + bytes(20), "RAR archive"),
        "png and 7z": (png + SEVEN, "a PNG that is also a 7z archive"),
        "png and gz": (png + tar("w:gz"), "a PNG that is also a gzip archive"),
        "jpeg and tar": (jpeg + tar(), "a JPEG that is also a tar archive"),
        "jpeg in tar": (tar_in_jpeg(), "a JPEG that is also a tar archive"),
        "jpeg and exe": (jpeg + exe, "a JPEG that is also a program"),
        "jpeg, zeros and small exe": (
            jpeg + bytes(9) + b"MZ" + bytes(58) + struct.pack("<I", 64) + b"PE\0\0",
            "a JPEG that is also a program",
        ),
        "gif and elf": (gif + elf, "a GIF that is also a program"),
        "elf in a bmp": (picture("BMP") + bytes(100) + elf + bytes(100), "image/bmp that is also a program"),
        "exe in a comment": (picture("JPEG", comment=exe), "a JPEG that is also a program"),
        "webp and shell": (webp + b"\n#!/bin/sh\necho hi\n", "a WebP that is also a script"),
        "png and page": (png + HTML, "a PNG that is also an HTML page"),
        "page in a png": (page_in_png(), "a PNG that is also an HTML page"),
        "page in a gif": (animation(ATTACK), "a GIF that is also an HTML page"),
        "page in exif": (page_in_exif(), "a JPEG that is also an HTML page"),
        "drawing in a gif": (animation(b"<svg onload=alert(1)>"), "a GIF that is also an HTML page"),
        "php in a jpeg": (
            picture("JPEG", comment=b"<?php system($_GET['c']); ?>"),
            "a JPEG that is also PHP",
        ),
        "pdf in a jpeg": (pdf_in_jpeg(), "a JPEG that is also a PDF"),
        "jpeg and pdf": (jpeg + pdf(), "a JPEG that is also a PDF"),
        "pdf and zip": (pdf(tail=ARCHIVE), "a PDF that is also a ZIP archive"),
        "zip in a pdf": (pdf_around_zip(), "a PDF that is also a ZIP archive"),
        "page in a pdf": (pdf().replace(b"\n", b"\n" + ATTACK + b"\n", 1), "a PDF that is also an HTML page"),
        "page in a comment of a pdf": (
            pdf().replace(b"\n", b" <!--\n", 1),
            "a PDF that is also an HTML page",
        ),
        "pdf and page": (pdf(tail=ATTACK), "a PDF that is also an HTML page"),
        "page before a pdf": (HTML + pdf(), "a PDF that is also an HTML page"),
        "script around a pdf": (b"x=1;/*\n" + pdf() + b"*/", "a PDF that is also JavaScript"),
        "page and zip": (HTML * 9 + ARCHIVE, "an HTML page that is also a ZIP archive"),
    }


def pdf_around_zip() -> bytes:
    """Return a PDF with a zip in a stream, whose comment is the rest of the PDF."""
    document = pdf(streams=(ARCHIVE, b""))
    end = document.rindex(b"PK\x05\x06")
    rest = document[end + 22 :]
    return document[: end + 20] + struct.pack("<H", len(rest)) + rest


# -- Archives -----------------------------------------------------------------------------------------------


def _patched(archive: bytes, central: int, local: int | None, value: bytes, entry: int = 0) -> bytes:
    """Return the archive with bytes changed in an entry of the directory, and before the file."""
    out, at = bytearray(archive), -1
    for _ in range(entry + 1):
        at = out.index(b"PK\x01\x02", at + 1)
    (offset,) = struct.unpack_from("<I", out, at + 42)
    out[at + central : at + central + len(value)] = value
    if local is not None:
        out[offset + local : offset + local + len(value)] = value
    return bytes(out)


def claims(size: int) -> bytes:
    """Return an archive whose one file says in both places that it unpacks to `size` bytes."""
    return _patched(zipped({"large.iso": b"small"}), 24, 22, struct.pack("<I", size))


def wide_claims(size: int) -> bytes:
    """Return the same with the size where those stand that are too large for 32 bits."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive, archive.open("large.iso", "w", force_zip64=True) as file:
        file.write(b"small")
    plain = bytearray(out.getvalue())
    at = plain.index(b"PK\x01\x02")
    name, extra = struct.unpack_from("<HH", plain, at + 28)
    wide = struct.pack("<HHQ", 1, 8, size)
    plain[at + 24 : at + 28] = b"\xff" * 4
    plain[at + 30 : at + 32] = struct.pack("<H", len(wide))
    plain[at + 46 + name : at + 46 + name + extra] = wide
    end = plain.index(b"PK\x05\x06")
    plain[end + 12 : end + 16] = struct.pack("<I", end - at)
    return bytes(plain)


def liar() -> bytes:
    """Return an archive whose file says it is ten bytes and unpacks to five megabytes."""
    return _patched(zipped({"a.txt": bytes(5_000_000)}), 24, 22, struct.pack("<I", 10))


def squashed(ratio: int, total: int) -> bytes:
    """Return an archive that honestly unpacks to `total` bytes and to about `ratio` times its own size."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros", bytes(total))
        archive.writestr("noise", _noise(max(0, total // ratio - total // 1028)), zipfile.ZIP_STORED)
    return out.getvalue()


def _noise(size: int) -> bytes:
    unpacker = zlib.compressobj(0)
    return (unpacker.compress(bytes(size)) + unpacker.flush())[:size]


def overlapping(count: int = 50) -> bytes:
    """Return an archive whose files all share the same bytes."""
    body = zipped({"a": bytes(100_000)})
    at = body.index(b"PK\x01\x02")
    entry, end = body[at : body.index(b"PK\x05\x06")], bytearray(body[body.index(b"PK\x05\x06") :])
    names = (b"%c" % (0x41 + number) for number in range(count))
    directory = b"".join(entry[:46] + name + entry[47:] for name in names)
    end[8:12] = struct.pack("<HH", count, count)
    end[12:16] = struct.pack("<I", len(directory))
    return body[:at] + directory + bytes(end)


def crowded(count: int) -> bytes:
    """Return an archive of so many empty files."""
    body = zipped({"a": b""}, stored=True)
    at, end = body.index(b"PK\x01\x02"), body.index(b"PK\x05\x06")
    directory, local = body[at:end], body[:at]
    out = io.BytesIO()
    out.write(local * count)
    for number in range(count):
        out.write(directory[:42] + struct.pack("<I", number * len(local)) + directory[46:])
    start, size = len(local) * count, len(directory) * count
    wide = struct.pack("<4sQHHIIQQQQ", b"PK\x06\x06", 44, 45, 45, 0, 0, count, count, size, start)
    locator = struct.pack("<4sIQI", b"PK\x06\x07", 0, start + size, 1)
    out.write(
        wide + locator + struct.pack("<4sHHHHIIH", b"PK\x05\x06", 0, 0, *[0xFFFF] * 2, *[0xFFFFFFFF] * 2, 0)
    )
    return out.getvalue()


def nested(depth: int) -> bytes:
    """Return archives in archives, so many in all."""
    content = zipped({"a.txt": b"hello"})
    for _ in range(depth - 1):
        content = zipped({"inner.zip": content})
    return content


def two_names() -> bytes:
    """Return an archive that calls its file one thing in its directory and another before the file."""
    return zipped({"a.txt": b"hello"}).replace(b"a.txt", b"a.exe", 1)


def truncated() -> bytes:
    """Return an archive without its end."""
    return zipped({"a.txt": b"hello" * 999})[:-40]


def rar4_locked() -> bytes:
    """Return a RAR archive of the old kind with a locked file."""
    return b"Rar!\x1a\x07\x00" + b"\xcf\x90\x73\0\0\x0d\0" + bytes(6) + b"\0\0\x74\x04\0\x20\0" + bytes(25)


def rar4_locked_list() -> bytes:
    """Return a RAR archive of the old kind with a locked list of contents."""
    return b"Rar!\x1a\x07\x00" + b"\xce\x99\x73\x80\0\x0d\0" + bytes(40)


def rar5_locked() -> bytes:
    """Return a RAR archive with a locked list of contents."""
    return b"Rar!\x1a\x07\x01\x00" + b"\0\0\0\0" + b"\x15\x04\0\0\0\x0f" + bytes(30)


def rar5_locked_file() -> bytes:
    """Return a RAR archive whose file is locked and whose list of contents is not."""
    extra = b"\x03\x01\0\0"
    block = b"\x02\x01" + bytes([len(extra)]) + bytes(6) + extra
    return b"Rar!\x1a\x07\x01\x00" + bytes(4) + bytes([len(block)]) + block


def seven_locked() -> bytes:
    """Return a 7z archive whose list of contents is locked."""
    header = b"\x17\x06\x00\x01\x09\x10\x00\x07\x0b\x01\x00\x01\x24\x06\xf1\x07\x01\x01\x00"
    return b"7z\xbc\xaf\x27\x1c\0\4" + bytes(4) + struct.pack("<QQI", 16, len(header), 0) + bytes(16) + header


def seven_locked_files() -> bytes:
    """Return a 7z archive whose files are locked, and whose list of contents is packed."""
    import lzma

    plain = b"\x01\x04\x06\x00\x01\x24\x06\xf1\x07\x01\x0a\x53\x07" + bytes(60)
    filters = [{"id": lzma.FILTER_LZMA1, "dict_size": 1 << 20}]
    data = lzma.compress(plain, lzma.FORMAT_RAW, filters=filters)
    header = b"\x17\x06\x00\x01\x09" + bytes([len(data)]) + b"\x00\x07\x0b\x01\x00\x01\x23\x03\x01\x01\x05"
    header += b"\x5d" + struct.pack("<I", 1 << 20) + b"\x0c" + bytes([len(plain)]) + b"\x00\x00"
    start = struct.pack("<QQI", len(data), len(header), 0)
    return b"7z\xbc\xaf\x27\x1c\0\4" + bytes(4) + start + data + header


def squashed_gzip(size: int = 300_000_000) -> bytes:
    """Return a stream of zeros, packed."""
    packer = zlib.compressobj(1, wbits=31)
    return b"".join(packer.compress(bytes(1_000_000)) for _ in range(size // 1_000_000)) + packer.flush()


# -- Documents ----------------------------------------------------------------------------------------------


def macro_letter() -> bytes:
    """Return a letter with Visual Basic."""
    return letter({"word/vbaProject.bin": ole()})


def renamed_macro_letter() -> bytes:
    """Return a letter with Visual Basic in a part of another name, which only the relation gives away."""
    relation = 'Type="http://schemas.microsoft.com/office/2006/relationships/vbaProject" Target="photo.bin"'
    return letter({"word/photo.bin": b"x", "word/_rels/document.xml.rels": relations(relation)})


def typed_macro_letter() -> bytes:
    """Return a letter with Visual Basic that only the list of types gives away, spelt so that few see it."""
    types = content_types(photo="application/vnd.ms-office.&#118;baProject")
    return letter({"word/photo.bin": b"x", "[Content_Types].xml": types})


def hidden_macro_letter() -> bytes:
    """Return a letter whose list of types says nothing until its entities are unfolded."""
    types = content_types(photo="application/&a;").replace(
        b"<Types", b'<!DOCTYPE x [<!ENTITY a "vnd.ms-office.vbaProject">]><Types', 1
    )
    return letter({"word/photo.bin": b"x", "[Content_Types].xml": types})


def macro_sheet() -> bytes:
    """Return a workbook with a sheet of Excel 4.0 macros."""
    types = content_types(sheet="application/vnd.ms-excel.macrosheet+xml")
    return letter({"xl/macrosheets/sheet1.xml": b"<x/>", "[Content_Types].xml": types})


def template_letter(
    target: str = "https://example.org/a.dotm", kind: str = "attachedTemplate", mode: str = "External"
) -> bytes:
    """Return a letter that fetches its template."""
    relation = f'Type="http://x/relationships/{kind}" Target="{target}" TargetMode="{mode}"'
    return letter({"word/_rels/settings.xml.rels": relations(relation)})


def macro_text() -> bytes:
    """Return an OpenDocument text with Basic."""
    return open_document({"Basic/Standard/Module1.xml": b"<x/>"})


def listening_text() -> bytes:
    """Return an OpenDocument text that runs something when it is opened, its names spelt in its own way."""
    return open_document(
        {
            "content.xml": b'<o:document-content xmlns:o="o" xmlns:s='
            b'"urn:oasis:names:tc:opendocument:xmlns:script:1.0"><s:event-listener/></o:document-content>'
        }
    )


def sealed_text() -> bytes:
    """Return an OpenDocument text with a password."""
    manifest = (
        b'<m:manifest xmlns:m="urn:oasis:names:tc:opendocument:xmlns:manifest:1.0"><m:file-entry>'
        b"<m:encryption-data/></m:file-entry></m:manifest>"
    )
    return open_document({"META-INF/manifest.xml": manifest})


def inlined(document: bytes) -> bytes:
    """Return a PDF whose packed list of objects names the encryption, as newer programs write it."""
    return document.replace(b"trailer\n", b"9 0 obj\n").replace(
        b"startxref", b"stream\nx\nendstream endobj\nstartxref"
    )


def modern_pdf() -> bytes:
    """Return a PDF that is locked as PDF 2.0 does it, the encryption an object of its own."""
    noise = {
        key: bytes((ord(key[-1]) * 7 + i) % 256 for i in range(size)).hex()
        for key, size in (("O", 48), ("U", 48), ("OE", 32), ("UE", 32), ("Perms", 16))
    }
    keys = " ".join(f"/{key} <{value}>" for key, value in noise.items())
    filters = "/CF << /StdCF << /CFM /AESV3 /Length 32 >> >> /StmF /StdCF /StrF /StdCF"
    lock = f"7 0 obj\n<< /Filter /Standard /V 5 /R 6 /Length 256 /P -4 {keys} {filters} >>\nendobj\n"
    return pdf(trailer=b"/Encrypt 7 0 R /ID [<00> <00>]").replace(b"xref\n0", lock.encode() + b"xref\n0", 1)


def macro_slides() -> bytes:
    """Return an old presentation with Visual Basic."""
    atom = struct.pack("<HHIIII", 2, 0x0400, 12, 1, 1, 2)
    return ole({"PowerPoint Document": bytes(64) + struct.pack("<HHI", 0x1F, 0x03FF, 20) + atom})


def macro_documents() -> dict[str, bytes]:
    """Return office documents with programs in them."""
    return {
        "letter": macro_letter(),
        "letter with a renamed part": renamed_macro_letter(),
        "letter with a typed part": typed_macro_letter(),
        "letter with a hidden part": hidden_macro_letter(),
        "workbook of Excel 4.0": macro_sheet(),
        "old letter": ole({"Macros/VBA/dir": b"x", "WordDocument": bytes(12)}),
        "old workbook": ole({"_VBA_PROJECT_CUR/VBA/dir": b"x"}),
        "old workbook of Excel 4.0": workbook(1),
        "bare sheet of Excel 4.0": b"\x09\x04\x06\x00\x00\x00\x40\x00" + bytes(40),
        "old presentation": macro_slides(),
        "text with Basic": macro_text(),
        "text with Python": open_document({"Scripts/python/a.py": b"x"}),
        "text that listens": listening_text(),
        "flat text": b'<?xml version="1.0"?><office:document xmlns:office="urn:oasis:names:tc:opendocument:'
        b'xmlns:office:1.0"><ooo:module/></office:document>',
        "letter in XML": b'<?xml version="1.0"?><w:wordDocument w:macrosPresent="yes"></w:wordDocument>',
        "page with Visual Basic": b"MIME-Version: 1.0\n\n<html>\nQWN0aXZlTWltZQAAAfAEAAAA",
        "letter in a zip": zipped({"letter.docm": macro_letter()}),
        "old letter in a zip in a zip": zipped({"a.zip": zipped({"a.doc": ole({"VBA/dir": b"x"})})}),
    }


def encrypted_documents() -> dict[str, bytes]:
    """Return documents that need a password."""
    return {
        "pdf": locked_pdf(b"secret"),
        "pdf, encryption within": inlined(locked_pdf(b"secret")),
        "pdf, AES": modern_pdf(),
        "pdf, changed": locked_pdf(b"secret") + pdf()[9:],
        "office": ole({"EncryptedPackage": b"x", "EncryptionInfo": b"y"}),
        "old letter": ole({"WordDocument": bytes(10) + b"\0\1"}),
        "old workbook": workbook(locked=True),
        "old presentation": ole({"Current User": bytes(12) + b"\xdf\xc4\xd1\xf3"}),
        "text": sealed_text(),
    }


def encrypted_archives() -> dict[str, bytes]:
    """Return archives that need a password."""
    return {
        "zip": encrypted_zip(),
        "zip, AES": _patched(zipped({"a": b"b" * 99}), 10, 8, struct.pack("<H", 99)),
        "zip in a zip": zipped({"inner.zip": encrypted_zip()}),
        "rar 4": rar4_locked(),
        "rar 4 with a locked list": rar4_locked_list(),
        "rar 5": rar5_locked(),
        "rar 5 with a locked file": rar5_locked_file(),
        "7z": seven_locked(),
        "7z with locked files": seven_locked_files(),
        "7z in a zip": zipped({"a.7z": seven_locked()}),
    }


@cache
def traps() -> dict[str, tuple[bytes, str]]:
    """Return archives that lie or overwhelm, and the trait of each. Made once, for packing takes seconds."""
    return {
        "liar": (liar(), "zip_bomb"),
        "overlapping": (overlapping(), "zip_bomb"),
        "squashed": (squashed(900, 300_000_000), "zip_bomb"),
        "squashed gz": (squashed_gzip(), "zip_bomb"),
        "oversized": (claims(2**31), "oversized_member"),
        "oversized beyond 32 bits": (wide_claims(5 * 2**30), "oversized_member"),
        "two names": (two_names(), "contradictory_archive"),
        "truncated": (truncated(), "broken_archive"),
        "truncated in a zip": (zipped({"a.zip": truncated()}), "broken_archive"),
        "crowded": (crowded(50_001), "too_many_members"),
        "too deep": (nested(6), "nested_too_deep"),
        "far too deep": (nested_zip(), "nested_too_deep"),
        "leaves its folder": (zipped({"../../a.txt": b"x"}), "unsafe_members"),
        "leaves its folder, Windows": (zipped({"a\\..\\..\\b.txt": b"x"}), "unsafe_members"),
        "turns round": (zipped({"photo\u202egpj.exe": b"x"}), "unsafe_members"),
        "absolute": (zipped({"/etc/passwd": b"x"}), "absolute_members"),
        "nested": (nested(2), "nested_archive"),
        "template": (template_letter(), "external_template"),
        "template, file share": (template_letter(r"file://host/a.dotm"), "external_template"),
        "object": (template_letter("mhtml:https://example.org/a", "oleObject"), "external_template"),
    }


def everything() -> dict[str, bytes]:
    """Return all hostile files."""
    return {
        **{name: content for name, (content, _) in (polyglots() | traps()).items()},
        **{f"macros: {name}": content for name, content in macro_documents().items()},
        **{f"locked: {name}": content for name, content in encrypted_documents().items()},
        **{f"locked: {name} archive": content for name, content in encrypted_archives().items()},
    }

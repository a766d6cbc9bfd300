"""Makers of honest files, of every family, as people send them: what hostile ones look like from outside."""

import bz2
import gzip
import hashlib
import io
import lzma
import struct
import tarfile
import wave
import zipfile
from collections.abc import Mapping
from random import Random

import pillow_heif
from PIL import Image, PngImagePlugin

OFFICE = "application/vnd.openxmlformats-officedocument"
DOCX = f"{OFFICE}.wordprocessingml.document"
XLSX = f"{OFFICE}.spreadsheetml.sheet"
PPTX = f"{OFFICE}.presentationml.presentation"
ODT = "application/vnd.oasis.opendocument.text"
#: Metadata as programs write it, with all that an over-eager rule takes for a page.
XMP = (
    b'<?xpacket begin="\xef\xbb\xbf" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">'
    b'<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description xmlns:dc="x">'
    b"<dc:description>a < b, &lt;script&gt;, 1 <svgs 2</dc:description></rdf:Description></rdf:RDF>"
    b"</x:xmpmeta>"
)


def zipped(files: Mapping[str, bytes], *, stored: bool = False, comment: bytes = b"") -> bytes:
    """Return a zip archive of these files; `mimetype` is stored, as OpenDocument and EPUB want it."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            kind = zipfile.ZIP_STORED if stored or name == "mimetype" else zipfile.ZIP_DEFLATED
            archive.writestr(name, content, kind)
        archive.comment = comment
    return out.getvalue()


def content_types(**parts: str) -> bytes:
    """Return an office document's list of types, by the part's name (`word_document_xml`: no slashes)."""
    overrides = "".join(
        f'<Override PartName="/{name}" ContentType="{kind}"/>' for name, kind in parts.items()
    )
    return (
        '<?xml version="1.0"?><Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types">'
        f"{overrides}</Types>"
    ).encode()


def relations(*rows: str) -> bytes:
    """Return a list of relations; each row is the attributes of one."""
    return (
        '<?xml version="1.0"?><Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships">'
        + "".join(f"<Relationship {row}/>" for row in rows)
        + "</Relationships>"
    ).encode()


def letter(extra: Mapping[str, bytes] | None = None) -> bytes:
    """Return a letter as Word writes it, its main part late; `extra` parts replace others or follow."""
    parts = {
        "[Content_Types].xml": content_types(document=f"{DOCX}.main+xml"),
        "_rels/.rels": relations(
            'Id="r1" Type="http://x/relationships/officeDocument" Target="word/document.xml"'
        ),
        "docProps/app.xml": b'<?xml version="1.0"?><x/>',
        "docProps/core.xml": b'<?xml version="1.0"?><x/>',
        "customXml/item1.xml": b'<?xml version="1.0"?><x/>',
        "word/document.xml": b'<?xml version="1.0"?><w:document xmlns:w="w"/>',
    }
    return zipped(parts | dict(extra or {}))


def open_document(extra: Mapping[str, bytes] | None = None) -> bytes:
    """Return a text as LibreOffice writes it."""
    manifest = b'<manifest:manifest xmlns:manifest="urn:oasis:names:tc:opendocument:xmlns:manifest:1.0"/>'
    parts = {
        "mimetype": ODT.encode(),
        "content.xml": b'<office:document-content xmlns:office="o"/>',
        "META-INF/manifest.xml": manifest,
    }
    return zipped(parts | dict(extra or {}))


def ole(streams: Mapping[str, bytes] | None = None) -> bytes:
    """Return an OLE file, the container of the old office formats, with these streams, `storage/stream`."""
    free, end, fat_sector, none = 0xFFFFFFFF, 0xFFFFFFFE, 0xFFFFFFFD, 0xFFFFFFFF
    nodes: list[tuple[str, int, int, bytes]] = [("Root Entry", 5, -1, b"")]
    places = {"": 0}
    for path, content in (streams or {}).items():
        folder = ""
        for part in path.split("/")[:-1]:
            parent, folder = folder, f"{folder}/{part}"
            if folder not in places:
                places[folder] = len(nodes)
                nodes.append((part, 1, places[parent], b""))
        # Smaller streams would live in a place of their own.
        nodes.append((path.split("/")[-1], 2, places[folder], content.ljust(4096, b"\0")))
    directory_sectors = (len(nodes) + 3) // 4
    fat, sectors = [fat_sector], b""
    fat += [*range(2, directory_sectors + 1), end]
    starts = []
    for _, _, _, content in nodes:
        starts.append(len(fat) if content else 0)
        count = (len(content) + 511) // 512
        fat += [*range(len(fat) + 1, len(fat) + count), end] if count else []
        sectors += content.ljust(count * 512, b"\0")
    assert len(fat) <= 128, "one sector of the table is enough for tests"
    directory = b""
    for number, (name, kind, within, content) in enumerate(nodes):
        siblings = [other for other, node in enumerate(nodes) if node[2] == within and other > number]
        children = [other for other, node in enumerate(nodes) if node[2] == number]
        written = f"{name}\0".encode("utf-16le")
        directory += written.ljust(64, b"\0") + struct.pack(
            "<HBB3I", len(written), kind, 1, none, (siblings or [none])[0], (children or [none])[0]
        )
        start = starts[number] if content else (end if kind == 5 else 0)
        directory += bytes(36) + struct.pack("<3I", start, len(content), 0)
    head = (
        bytes.fromhex("d0cf11e0a1b11ae1") + bytes(16) + struct.pack("<5H", 0x3E, 3, 0xFFFE, 9, 6) + bytes(6)
    )
    head += struct.pack("<10I", 0, 1, 1, 0, 4096, end, 0, end, 0, 0) + struct.pack("<I", free) * 108
    table = struct.pack(f"<{len(fat)}I", *fat).ljust(512, b"\xff")
    return head + table + directory.ljust(directory_sectors * 512, b"\0") + sectors


def records(*rows: tuple[int, bytes]) -> bytes:
    """Return a stream of Excel's records."""
    return b"".join(struct.pack("<HH", kind, len(content)) + content for kind, content in rows)


def workbook(sheet_kind: int = 0, *, locked: bool = False) -> bytes:
    """Return an old workbook with one sheet of this kind."""
    rows = [(0x0809, bytes(16))] + ([(0x002F, bytes(6))] if locked else [])
    rows += [(0x0085, struct.pack("<IBB", 0, 0, sheet_kind) + b"\x06\0Sheet1"), (0x000A, b"")]
    return ole({"Workbook": records(*rows)})


def tar(mode: str = "w", files: Mapping[str, bytes] | None = None) -> bytes:
    """Return a tar archive, packed as `mode` says."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as file:  # type: ignore[call-overload]  # any mode
        for name, content in (files or {"a.txt": b"hello"}).items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            file.addfile(entry, io.BytesIO(content))
    return out.getvalue()


def mp4(brand: bytes) -> bytes:
    """Return the beginning of an MP4, QuickTime or HEIF file."""
    head = struct.pack(">I", 24) + b"ftyp" + brand + b"\0\0\2\0" + brand + b"mp42"
    return head + struct.pack(">I", 8) + b"mdat"


def matroska(kind: bytes) -> bytes:
    """Return the beginning of a WebM or Matroska file."""
    fields = b"\x42\x86\x81\x01\x42\xf7\x81\x01\x42\xf2\x81\x04\x42\xf3\x81\x08\x42\x82"
    fields += bytes([0x80 + len(kind)]) + kind + b"\x42\x87\x81\x04"
    return b"\x1a\x45\xdf\xa3" + bytes([0x80 + len(fields)]) + fields


def grain(width: int, height: int) -> Image.Image:
    """Return a grey picture of noise, the same each time: it compresses badly, as photos do."""
    return Image.frombytes("L", (width, height), Random(1).randbytes(width * height))


def picture(kind: str, size: tuple[int, int] = (40, 30), **options: object) -> bytes:
    """Return a picture with some grain."""
    out = io.BytesIO()
    grain(*size).convert("RGB").save(out, kind, **options)
    return out.getvalue()


def heic() -> bytes:
    """Return a picture as an iPhone makes it."""
    out = io.BytesIO()
    pillow_heif.from_pillow(Image.new("RGB", (64, 64), "red")).save(out)
    return out.getvalue()


def snapshot() -> bytes:
    """Return a JPEG with all that cameras and programs put into one: EXIF, XMP, a profile, a comment."""
    exif = Image.Exif()
    exif[0x010E] = "a <b>fine</b> day /* at */ home"
    return picture(
        "JPEG", (320, 240), exif=exif, xmp=XMP, icc_profile=b"not read here" * 40, comment=b"PK <3 <html"
    )


def progressive() -> bytes:
    """Return a JPEG of several scans, with restart markers in them."""
    return picture("JPEG", (320, 240), progressive=True, restart_marker_blocks=2)


def two_pictures() -> bytes:
    """Return a JPEG with a second one behind it, as cameras do (MPF)."""
    out = io.BytesIO()
    first, second = Image.new("RGB", (160, 120), "red"), Image.new("RGB", (80, 60), "blue")
    first.save(out, "MPO", save_all=True, append_images=[second])
    return out.getvalue()


def motion_photo() -> bytes:
    """Return a photo with a film behind it, as Google's phones do."""
    return picture("JPEG") + mp4(b"mp42") + bytes(range(256)) * 8


def samsung_photo() -> bytes:
    """Return a photo with Samsung's trailer: named blocks, a film in one, and a list of them."""
    name = b"MotionPhoto_Data"
    block = struct.pack("<HHI", 0, 0x0A30, len(name)) + name + mp4(b"mp42")
    listing = struct.pack("<III", 101, 1, 0x0A300000) + struct.pack("<II", len(block), len(block))
    return picture("JPEG") + block + b"SEFH" + listing + struct.pack("<I", len(listing) + 4) + b"SEFT"


def texts_in_png() -> bytes:
    """Return a PNG with texts in it, plain and packed, as drawing programs leave them."""
    info = PngImagePlugin.PngInfo()
    info.add_text("mxfile", "%3Cmxfile%3E <b>bold</b>")
    info.add_itxt("XML:com.adobe.xmp", XMP.decode())
    info.add_text("workflow", '{"html": "<p>x</p>", "script": 1}' * 100, zip=True)
    return picture("PNG", pnginfo=info)


def animation(comment: bytes = b"made <i>by hand</i> /* */ =1;") -> bytes:
    """Return a GIF of three frames with a comment."""
    out = io.BytesIO()
    frames = [grain(60, 40 + step).crop((0, step, 60, 40 + step)).convert("P") for step in range(3)]
    frames[0].save(out, "GIF", save_all=True, append_images=frames[1:], comment=comment)
    return out.getvalue()


def wide_gif() -> bytes:
    """Return a GIF of 10,799 pixels' width: its header reads `GIF89a/*`."""
    out = io.BytesIO()
    grain(0x2A2F, 12).save(out, "GIF")
    return out.getvalue()


def equals_gif() -> bytes:
    """Return a GIF of 573 pixels' width: its header begins like an assignment."""
    out = io.BytesIO()
    grain(0x023D, 9).save(out, "GIF")
    return out.getvalue()


def sound() -> bytes:
    """Return a WAV file."""
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(bytes(200))
    return out.getvalue()


def mp3(header: str) -> bytes:
    """Return a few MP3 frames, each with this header."""
    return (bytes.fromhex(header) + bytes(413)) * 3


def windows_program() -> bytes:
    """Return the beginning of a Windows program."""
    stub = b"This program cannot be run in DOS mode.\r\r\n$"
    body = b"PE\0\0\x64\x86" + bytes(18) + b"\x0b\x02" + bytes(300)
    return b"MZ" + bytes(58) + struct.pack("<I", 64 + len(stub)) + stub + body


def pdf(
    *, streams: tuple[bytes, ...] = (), catalog: bytes = b"", trailer: bytes = b"", tail: bytes = b""
) -> bytes:
    """Return a PDF of one page, with plain streams in it."""
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R " + catalog + b" >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 200 100] >>",
        *(b"<< /Length %d >>\nstream\n%s\nendstream" % (len(data), data) for data in streams),
    ]
    out, places = b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n", []
    for number, body in enumerate(objects, 1):
        places.append(len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    start = len(out)
    out += b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1)
    out += b"".join(b"%010d 00000 n \n" % place for place in places)
    out += b"trailer\n<< /Size %d /Root 1 0 R %s >>\n" % (len(objects) + 1, trailer)
    return out + b"startxref\n%d\n%%%%EOF\n%s" % (start, tail)


_PAD = bytes.fromhex("28bf4e5e4e758a4164004e56fffa01082e2e00b6d0683e802f0ca9fe6453697a")


def locked_pdf(password: bytes = b"", identity: bytes = b"0123456789abcdef") -> bytes:
    """Return an encrypted PDF; one whose password is empty only forbids printing and opens for everybody."""
    owner, rights = bytes(range(32)), -4
    padded = (password + _PAD)[:32]
    key = hashlib.md5(padded + owner + struct.pack("<i", rights) + identity).digest()[:5]
    box, j = list(range(256)), 0
    for i in range(256):
        j = (j + box[i] + key[i % 5]) % 256
        box[i], box[j] = box[j], box[i]
    user, i, j = bytearray(), 0, 0
    for byte in _PAD:
        i = (i + 1) % 256
        j = (j + box[i]) % 256
        box[i], box[j] = box[j], box[i]
        user.append(byte ^ box[(box[i] + box[j]) % 256])
    encrypt = f"/Encrypt << /Filter /Standard /V 1 /R 2 /O <{owner.hex()}> /U <{user.hex()}> /P {rights} >>"
    return pdf(trailer=f"{encrypt} /ID [<{identity.hex()}> <{identity.hex()}>]".encode())


TABLE = b"name,age\nAda,36\nBob,7\n"
TYPESCRIPT = b'import { a } from "./b";\nexport const x: number = 1;\n'
SCRIPT = b'"use strict";\nconst a = require("b");\nfunction f() { return 1; }\n'
MPEG_FRAMES = (b"\x47\x40\0\x10" + b"\xff" * 184) * 6
SVG = b'<svg xmlns="http://www.w3.org/2000/svg"></svg>'
HTML = b"<!DOCTYPE html><html><body>hello</body></html>"
NOISE = bytes((i * 73 + i * i) % 256 for i in range(1000))
RAR4 = b"Rar!\x1a\x07\x00" + b"\xcf\x90\x73\0\0\x0d\0" + bytes(6) + b"\xc4\x3d\x7b\0\x40\x07\0"
RAR5 = b"Rar!\x1a\x07\x01\x00" + b"\x33\x92\xb5\xe5\x0a\x01\x05\x06\0\x05\x01\x01\x80\x80\0"
SEVEN = b"7z\xbc\xaf\x27\x1c\0\4" + bytes(24)


def carriers() -> dict[str, bytes]:
    """Return an honest file of every family, by what it is; none of them may be refused."""
    return {
        "jpeg": picture("JPEG"),
        "jpeg with metadata": snapshot(),
        "progressive jpeg": progressive(),
        "two pictures": two_pictures(),
        "motion photo": motion_photo(),
        "samsung photo": samsung_photo(),
        "jpeg with zeros": picture("JPEG") + bytes(5000),
        "jpeg with unknown trailer": picture("JPEG") + b"CAMERA-PRIVATE\x01\x02 MZ PK \x1f\x8b" + NOISE,
        "png": picture("PNG"),
        "png with texts": texts_in_png(),
        "png with zeros": picture("PNG") + bytes(5000),
        "apng": picture("PNG", save_all=True, append_images=[Image.new("RGB", (40, 30))]),
        "gif": animation(),
        "wide gif": wide_gif(),
        "gif like an assignment": equals_gif(),
        "webp": picture("WEBP", exif=Image.Exif(), xmp=XMP),
        "avif": picture("AVIF"),
        "heic": heic(),
        "tiff": picture("TIFF"),
        "bmp": picture("BMP"),
        "ppm": b"P6\n# made (by hand), x=1; y=2\n40 30\n255\n" + NOISE * 4,
        "pgm": b"P2\n# made (by hand), x=1; y=2\n2 2\n255\n1 2 3 4\n",
        "xpm": b'/* XPM */\nstatic char *a[] = {\n"2 2 1 1",\n". c red",\n"..",\n".."\n};\n',
        "ico": picture("ICO", sizes=[(16, 16)]),
        "mp4": mp4(b"isom") + NOISE,
        "mov": mp4(b"qt  ") + NOISE,
        "webm": matroska(b"webm") + NOISE,
        "mp3": b"ID3\3\0\0\0\0\0\0" + mp3("fffb9000"),
        "wav": sound(),
        "ogg": b"OggS\0\2" + bytes(20) + b"\1\x13OpusHead\1\2" + bytes(20),
        "flac": b"fLaC\0\0\0\x22\x10\0\x10\0" + bytes(30),
        "pdf": pdf(),
        "pdf with xfa and html": pdf(
            streams=(b"<template><script>x</script></template>", HTML, b"PK\x03\x04")
        ),
        "pdf with an archive attached": pdf(streams=(zipped({"a.txt": b"hello" * 9}), b"later" * 9)),
        "pdf that forbids printing": locked_pdf(),
        "pdf behind a mark": b"\xef\xbb\xbf" + pdf(),
        "pdf from a printer": b"\x1b%-12345X@PJL JOB\r\n" + pdf(),
        "docx": letter(),
        "docx with a picture": letter({"word/media/image1.png": picture("PNG")}),
        "docx with a workbook": letter({"word/embeddings/sheet1.xlsx": letter()}),
        "docx with links": letter(
            {
                "word/_rels/document.xml.rels": relations(
                    'Type="http://x/relationships/hyperlink" TargetMode="External"'
                    ' Target="https://example.org"'
                ),
                "word/_rels/settings.xml.rels": relations(
                    'Type="http://x/relationships/attachedTemplate" TargetMode="External"'
                    ' Target="file:///C:\\Users\\ada\\Templates\\Letter.dotx"'
                ),
            }
        ),
        "odt": open_document(),
        "odt with an empty library": open_document({"Basic/Standard/script-lb.xml": b"<x/>"}),
        "epub": zipped({"mimetype": b"application/epub+zip", "META-INF/container.xml": b"<x/>"}),
        "doc": ole({"WordDocument": bytes(12)}),
        "xls": workbook(),
        "zip": zipped({"a.txt": b"hello", "folder/b.txt": b"x" * 5000, "leer.txt": b""}),
        "zip of zip": zipped({"inner.zip": zipped({"a.txt": b"hello"})}),
        "zip with a comment": zipped({"a.txt": b"hello"}, comment=b"of my own"),
        "zip with zeros": zipped({"zeros.bin": bytes(2_000_000)}),
        "empty zip": zipped({}),
        "jar": zipped({"META-INF/MANIFEST.MF": b"x", "A.class": b"\xca\xfe\xba\xbe"}),
        "tar": tar(),
        "tar of a zip": tar("w", {"a.zip": zipped({"a.txt": b"hello"})}),
        "tar.gz": tar("w:gz"),
        "gz": gzip.compress(b"log\n" * 10_000),
        "bz2": bz2.compress(b"log\n" * 1000),
        "xz": lzma.compress(b"log\n" * 1000),
        "7z": SEVEN,
        "rar 4": RAR4,
        "rar 5": RAR5,
        "text": b"2024-01-01 12:00 a < b, PK, %PDF- and <script> in the middle\n",
        "csv": TABLE,
        "json": b'{"a": [1, 2, 3]}',
        "xml": b'<?xml version="1.0"?><gpx></gpx>',
        "html": HTML,
        "svg": SVG,
        "javascript": SCRIPT,
        "shell": b"#!/bin/sh\necho hi\n",
        "self-unpacking script": b"#!/bin/sh\nunzip $0; exit\n" + zipped({"a.txt": b"hello"}),
        "exe": windows_program(),
        "self-unpacking exe": windows_program() + zipped({"a.txt": b"hello"}),
        "noise": NOISE,
        "rtf": b"{\\rtf1\\ansi hello}",
    }

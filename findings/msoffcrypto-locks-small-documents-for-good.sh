#!/bin/sh
# `msoffcrypto-tool` encrypts an office document without complaint, but of one of less than 4,096 bytes it cannot
# open the result itself, with the right password: "The file could not be decrypted with this password". Streams
# of less than 4,096 bytes belong into the mini stream of an OLE file; the encrypted package is written into
# ordinary sectors whatever its size, and a reader that keeps to the format takes other bytes for it. With a few
# bytes more in the document all is well. Letters made by programs, of one paragraph, are that small.
#
# Needs python3 with venv and pip. Prints versions and what was seen; exits with 1 if it is no longer so.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check msoffcrypto-tool==6.1.0
"$folder/venv/bin/python" - <<'PYTHON'
import io
import sys
import zipfile
from importlib.metadata import version

import msoffcrypto
from msoffcrypto.format.ooxml import OOXMLFile

TYPES = (
    '<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types">'
    '<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
    '<Override PartName="/word/document.xml" ContentType='
    '"application/vnd.openxmlformats-officedocument.wordprocessingml.document.main+xml"/></Types>'
)
RELATIONS = (
    '<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships"><Relationship Id="r1" '
    'Type="http://schemas.openxmlformats.org/officeDocument/2006/relationships/officeDocument" '
    'Target="word/document.xml"/></Relationships>'
)
LETTER = (
    '<w:document xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"><w:body><w:p><w:r>'
    "<w:t>{}</w:t></w:r></w:p></w:body></w:document>"
)


def letter(characters: int) -> bytes:
    """Return a letter of one paragraph."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        file.writestr("[Content_Types].xml", TYPES)
        file.writestr("_rels/.rels", RELATIONS)
        file.writestr("word/document.xml", LETTER.format("x" * characters))
    return out.getvalue()


def opens(document: bytes) -> str:
    """Encrypt a document and decrypt it with the same password; return what came of it."""
    locked, opened = io.BytesIO(), io.BytesIO()
    OOXMLFile(io.BytesIO(document)).encrypt("secret", locked)
    try:
        file = msoffcrypto.OfficeFile(io.BytesIO(locked.getvalue()))
        file.load_key(password="secret")
        file.decrypt(opened)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "opens" if opened.getvalue() == document else "other bytes"


print("msoffcrypto-tool", version("msoffcrypto-tool"), "Python", sys.version.split()[0])
seen = {}
for characters in (10, 1000, 4000, 9000):
    document = letter(characters)
    seen[len(document)] = opens(document)
    print(f"  a letter of {len(document):5} bytes: {seen[len(document)]}")
sys.exit(any((size >= 4096) != (answer == "opens") for size, answer in seen.items()))
PYTHON
echo "As described: documents of less than 4,096 bytes are encrypted, and cannot be opened again."

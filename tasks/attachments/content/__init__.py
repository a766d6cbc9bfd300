"""What a file's bytes are besides their media type: traits. Pure functions, for the confined process.

finding.py    what is found: traits, and what each was seen by
source.py     bounded reading
budget.py     how much may be unpacked
zips.py       a zip archive's directory, read by our own rules alone
archives.py   what is wrong with a zip archive, and with the archives in it
packed.py     RAR, 7z, and streams that are packed alone
opened.py     copies that the scanner gets beside a file, unpacked or unlocked
lzw.py, ppmd.py, seven.py  what such copies are unpacked by
office.py     office documents that are zip archives
ole.py        the old office documents
markup.py     SVG, HTML and other XML that a browser would run
pdf.py        PDF
plain.py      text that libmagic does not see
pictures.py   where a picture ends
script.py     bytes that parse as JavaScript
polyglot.py   files that are two things at once
"""

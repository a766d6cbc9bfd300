"""What is in a file beside what it shows, format by format, and how it is taken out.

reader.py        numbers from untrusted bytes
orientation.py   the one thing in EXIF that a picture needs
jpeg.py png.py webp.py gif.py
tiff.py          what is not referred to by a needed tag is filled with zeros, where it is
bmff.py          HEIC, AVIF, MP4, QuickTime: the same with boxes

Each format's module has `strip(content) -> bytes`, which raises `Unstrippable`. Each keeps a list of what is
needed, and none of what is personal: the next camera will invent something.
"""

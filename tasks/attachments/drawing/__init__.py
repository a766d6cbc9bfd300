"""What draws a file's pictures. Runs in the sandbox only: these modules open untrusted input.

picture.py    raster pictures; `render` makes the small and the large one of what any of them decoded
raw.py        the preview that a camera puts into a raw photo
document.py   the first page of documents
video.py      a frame of videos
audio.py      what audio files say of themselves

Each function takes (source, folder, **options) and returns one of
    {"pictures": {"small": {"file", "width", "height", "bytes"}, "large": {…}}, "metadata": {…}}
    {"unavailable": reason, "detail": for people, "metadata": {…}}    there is no preview (`unavailable.py`)
No preview is no reason to refuse a file.
"""

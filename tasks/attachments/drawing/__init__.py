"""What draws a file's pictures. Runs in the sandbox only: these modules open untrusted input.

picture.py    raster pictures; `render` makes the small and the large one of what any of them decoded
document.py   the first page of documents
video.py      a frame of videos
audio.py      what audio files say of themselves

Each function takes (source, folder, **options) and returns one of
    {"pictures": {"small": {"file", "width", "height", "bytes"}, "large": {…}}, "metadata": {…}}
    {"refused": reason, "detail": for people}        the file must not be served
    {"unavailable": why, "metadata": {…}}            there is no preview, and that is no fault
"""

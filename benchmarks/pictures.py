"""Two WebP pictures of a 12-megapixel JPEG: ours, sandbox included, against libvips. One line is printed.

`python -m benchmarks.pictures`. Both make the same: 1280 and 320 pixels, the same quality and effort of the
encoder, upright, in sRGB, without metadata, the small picture from the large one. libvips has its best way:
many files for each command, two commands in all, so that starting it costs next to nothing; ours is called
for each file, as a worker does, with its helper warm. Both are pinned to one core, take turns, and the median
of the rounds counts: by the clock on the wall, and by computing time, which others on that core do not
change. Memory is resident memory at its peak: of our helper and its child together, though they share much,
and of the larger of libvips' commands.
"""

import io
import os
import random
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from statistics import median
from time import monotonic

from PIL import Image, ImageCms, ImageDraw, ImageOps

from benchmarks import _harness as harness
from benchmarks._harness import Aim, Result, sized
from tasks.attachments.draw import draw
from tasks.attachments.drawing.picture import METHOD, QUALITY, SIDES
from workers.settings import Settings, load

FILES = sized(6, 1)
ROUNDS = sized(7, 1)
SIZE = sized((4032, 3024), (1600, 1200))
#: What libvips' command is called.
VIPS = "vipsthumbnail"
Size = tuple[int, int]
#: Layers of noise, each so many pixels wide, and how much of it is mixed in: as detail in photos is spread.
OCTAVES = {6: 1.0, 20: 0.4, 64: 0.25, 200: 0.16, 640: 0.1, 2016: 0.06}


def photo(seed: int) -> bytes:
    """Return a JPEG of 12 megapixels that compresses like a photo, always the same for a seed."""
    dice = random.Random(seed)  # noqa: S311 – no secret
    scene = Image.merge("YCbCr", [_clouds(dice, contrast) for contrast in (255, 90, 90)]).convert("RGB")
    pen = ImageDraw.Draw(scene)
    for _ in range(12):
        ends = [dice.randrange(side) for side in (*SIZE, *SIZE)]
        pen.line(ends, fill="#" + dice.randbytes(3).hex(), width=dice.randrange(4, 60))
    exif = Image.Exif()
    # As the phone was held.
    exif[0x0112] = dice.choice((1, 6, 8))
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes() if seed % 2 else None
    out = io.BytesIO()
    scene.save(out, "JPEG", quality=90, exif=exif, icc_profile=profile)
    return out.getvalue()


def _clouds(dice: random.Random, contrast: int) -> Image.Image:
    made = Image.new("L", SIZE, 128)
    for width, share in OCTAVES.items():
        size = (width, width * SIZE[1] // SIZE[0])
        layer = Image.frombytes("L", size, dice.randbytes(size[0] * size[1]))
        made = Image.blend(made, layer.resize(SIZE, Image.Resampling.BICUBIC), share)
    dark = (255 - contrast) // 2
    return ImageOps.autocontrast(made, cutoff=0.5).point(lambda value: dark + value * contrast // 255)


def _roomkeeper(sources: list[Path], folder: Path, settings: Settings) -> list[Size]:
    """Make the pictures; return their sizes."""
    sizes = []
    for source in sources:
        drawing = draw(source, folder, settings)
        if drawing.reason:
            raise RuntimeError(f"{source.name} was refused: {drawing.detail}")
        sizes += [_size(drawing.pictures[name]) for name in SIDES]
    return sizes


def _vips(sources: list[Path], folder: Path) -> list[Size]:
    """Make the same; return their sizes."""
    options = f"[Q={QUALITY},effort={METHOD},strip]"
    larges = [folder / f"{source.stem}-large.webp" for source in sources]
    for files, side, name in (
        (sources, SIDES["large"], "%s-large.webp"),
        (larges, SIDES["small"], "%s-small.webp"),
    ):
        subprocess.run(
            [
                VIPS,
                *map(str, files),
                *("--size", f"{side}x{side}>", "--eprofile", "srgb", "--output", f"{folder}/{name}{options}"),
            ],
            env={**os.environ, "VIPS_CONCURRENCY": "1"},
            check=True,
        )
    # The small one is called after the large one, which it is made of.
    made = {"large": "large", "small": "large-small"}
    return [_size(folder / f"{source.stem}-{made[name]}.webp") for source in sources for name in SIDES]


def _size(path: Path) -> Size:
    with Image.open(path) as picture:
        return picture.size


def _peak(work: Callable[[], object]) -> int:
    """Return the most bytes that this process's descendants, taken together, had resident during the work."""
    peak, over = 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not over.wait(0.002):
            peak = max(peak, sum(_resident(pid) for pid in _descendants(os.getpid())))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        work()
    finally:
        over.set()
        watcher.join()
    return peak


def _computed() -> float:
    """Return the seconds of computing time that this process and its descendants have taken."""
    ticks = 0
    for pid in (os.getpid(), *_descendants(os.getpid())):
        # After the name, which may contain anything: own time and that of children that have ended.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += sum(map(int, fields[11:15]))
    return ticks / os.sysconf("SC_CLK_TCK")


def _descendants(pid: int) -> list[int]:
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        with suppress(OSError):
            for child in map(int, (task / "children").read_text().split()):
                found += [child, *_descendants(child)]
    return found


def _resident(pid: int) -> int:
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return 0


def _same(some: list[Size], others: list[Size]) -> bool:
    """Return whether all are of one size, but for how a side is rounded."""
    return all(
        abs(side - other) <= 1
        for one, another in zip(some, others, strict=True)
        for side, other in zip(one, another, strict=True)
    )


def measure() -> Result:
    """Have both make the same pictures in turn."""
    compared = shutil.which(VIPS) is not None
    if not compared:
        sys.stderr.write(f"pictures: {VIPS} is missing (Debian's libvips-tools): ours has no peer\n")
    # The core with the highest number: interrupts like the first.
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    settings = load({"DATABASE_URL": "postgresql://unused"})
    with tempfile.TemporaryDirectory(prefix="roomkeeper-pictures-") as name:
        folder = Path(name)
        sources = [folder / f"{number}.jpg" for number in range(FILES)]
        for number, source in enumerate(sources):
            source.write_bytes(photo(number))
        works: dict[str, Callable[[], list[Size]]] = {"ours": lambda: _roomkeeper(sources, folder, settings)}
        if compared:
            works["libvips"] = lambda: _vips(sources, folder)
            assert _same(works["ours"](), works["libvips"]()), "the two do not make pictures of the same size"
        # The first round, which warms the helper and the disk's cache, is the one in which memory is watched.
        peaks = {name: _peak(work) for name, work in works.items()}
        times: dict[str, list[float]] = {name: [] for name in works}
        computed: dict[str, list[float]] = {name: [] for name in works}
        for _ in range(ROUNDS):
            for name, work in works.items():
                begun, before = monotonic(), _computed()
                work()
                times[name].append(monotonic() - begun)
                computed[name].append(_computed() - before)
        rates = {name: FILES / median(taken) for name, taken in times.items()}
        # Computing time is told in hundredths of a second.
        alone = {name: FILES / max(median(taken), 0.01) for name, taken in computed.items()}
        size = sum(source.stat().st_size for source in sources) / FILES
    measured = ", ".join(
        f"{name} {rates[name]:.2f} (by computing time {alone[name]:.2f}, peak {peaks[name] / 1e6:.0f} MB)"
        for name in works
    )
    ratio = alone["ours"] / alone["libvips"] if compared else None
    against = f"no {VIPS}"
    if ratio is not None:
        against = f"ratio {rates['ours'] / rates['libvips']:.2f}, by computing time {ratio:.2f}"
    megapixels = SIZE[0] * SIZE[1] / 1e6
    return Result(
        f"pictures: JPEGs of {megapixels:.0f} megapixels and {size / 1e6:.1f} MB to two WebPs, files/s on "
        f"one core: {measured}; {against} (median of {ROUNDS} rounds of {FILES} files)",
        (
            Aim("computing time, times libvips", ratio, 1.0),
            Aim("memory at its peak, MB", peaks["ours"] / 1e6, 150, at_most=True),
        ),
    )


if __name__ == "__main__":
    harness.run(measure)

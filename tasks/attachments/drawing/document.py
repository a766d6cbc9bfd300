"""Documents: the first page of a PDF."""

from pathlib import Path
from typing import Any

from tasks.attachments.drawing import picture
from tasks.attachments.drawing.unavailable import unavailable


def draw(source: Path, folder: Path, max_pixels: int) -> dict[str, Any]:
    """Draw the first page of a PDF, as a reader would show it, on white.

    Fields of forms and annotations are drawn with what was filled in. Nothing in the document is run: the
    library is built without JavaScript and XFA.

    Args:
        source, folder: the document; where the pictures are written.
        max_pixels: the most that may be drawn. However large the page, it is drawn at the size of the
            large picture, so only a limit below that has an effect.

    Returns:
        As the package says. `metadata`: `pages`, their number; `width` and `height` of the first, turned
        and cropped as shown, in points. Broken and encrypted documents have no preview.
    """
    # Imported here: only the process that draws needs them, and they cost more than many a drawing.
    import pypdfium2  # type: ignore[import-untyped]

    try:
        document = pypdfium2.PdfDocument(source)
    except pypdfium2.PdfiumError as error:
        encrypted = error.err_code == pypdfium2.raw.FPDF_ERR_PASSWORD
        return unavailable("encrypted" if encrypted else "undecodable", str(error))
    metadata: dict[str, Any] = {}
    try:
        # Before the first page is loaded, or its fields would stay empty.
        document.init_forms()
        metadata["pages"] = len(document)
        page = document[0]
        width, height = page.get_size()
        metadata |= {"width": round(width, 2), "height": round(height, 2)}
        image = _rendered(page, width, height, max_pixels)
    except (pypdfium2.PdfiumError, IndexError, ValueError) as error:
        return unavailable("undecodable", f"{type(error).__name__}: {error}", metadata)
    finally:
        document.close()
    drawn = picture.render(image, folder)
    return {"pictures": drawn["pictures"], "metadata": metadata | drawn["metadata"]}


def _rendered(page: Any, width: float, height: float, max_pixels: int) -> Any:
    if not (width > 0 and height > 0):
        raise ValueError("the page has no area")
    side = picture.SIDES["large"]
    # At its final size at once: a page may be 200 inches wide, and lines are sharper so.
    scale = min(side / max(width, height), (max_pixels / (width * height)) ** 0.5)
    # The bitmap's sides are rounded up: without this, 1280.0000000000002 pixels become 1281.
    scale *= 1 - 1e-6
    bitmap = page.render(scale=scale, rev_byteorder=True, prefer_bgrx=True, limit_image_cache=True)
    return bitmap.to_pil().convert("RGB")

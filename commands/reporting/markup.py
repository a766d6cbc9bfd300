"""HTML as a tree: text is escaped, wherever it comes from."""

from xml.etree.ElementTree import Element, tostring


def tag(kind: str, /, *children: "Element | str | None", **attributes: str | None) -> Element:
    """Return an element. `class_` and `for_` are written without the line; None is left out."""
    element = Element(
        kind,
        {
            key.removesuffix("_").replace("_", "-"): value
            for key, value in attributes.items()
            if value is not None
        },
    )
    last: Element | None = None
    for child in children:
        if isinstance(child, str):
            if last is None:
                element.text = (element.text or "") + child
            else:
                last.tail = (last.tail or "") + child
        elif child is not None:
            element.append(child)
            last = child
    return element


def written(root: Element) -> str:
    """Return a document as it is written to a file."""
    return f"<!doctype html>\n{tostring(root, encoding='unicode', method='html')}\n"

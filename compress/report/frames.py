"""Boxes drawn over a picture, with labels that neither overlap nor leave it."""

from collections.abc import Iterator, Sequence
from typing import Any
from xml.etree.ElementTree import Element, SubElement

from compress.report.svg import written

# The narrowest that a picture is shown, in pixels of the page. Labels keep their size, so that those that are
# apart there are apart in a wider one.
NARROWEST = 240
_LETTER, _LINE, _LONGEST_NAME = 6.2, 14, 16

Rectangle = tuple[float, float, float, float]


def stored(number: int, picture: dict[str, Any]) -> str:
    """The photo itself, once: `panel` shows it as often as need be."""
    svg = Element("svg", {"aria-hidden": "true", "width": "0", "height": "0", "class": "store"})
    size = {"width": str(picture["width"]), "height": str(picture["height"])}
    box = f"0 0 {picture['width']} {picture['height']}"
    symbol = SubElement(
        svg, "symbol", {"id": f"photo-{number}", "viewBox": box, "preserveAspectRatio": "none"}
    )
    SubElement(symbol, "image", {"href": f"data:image/jpeg;base64,{picture['jpeg']}", **size})
    return written(svg)


def panel(number: int, kind: str, picture: dict[str, Any], boxes: Sequence[dict[str, Any]], said: str) -> str:
    """A picture with boxes.

    Args:
        number: of the picture on the page, stored before.
        kind: "truth", "first" or "slim".
        picture: its width and height, and its name.
        boxes: each with `box` in pixels of the picture, `label`, and of detections `score` and `right`.
        said: what the boxes are, for those who cannot see them.
    """
    name = f"picture-{number}-{kind}"
    ids = f"{name}-title", f"{name}-description"
    shape = f"aspect-ratio: {picture['width']} / {picture['height']}"
    svg = Element("svg", {"role": "img", "aria-labelledby": " ".join(ids), "class": "photo", "style": shape})
    SubElement(svg, "title", {"id": ids[0]}).text = f"{picture['name']}: {said}"
    SubElement(svg, "desc", {"id": ids[1]}).text = "; ".join(map(_told, boxes)) or "no boxes"
    SubElement(svg, "use", {"href": f"#photo-{number}", "width": "100%", "height": "100%"})
    whole = picture["width"], picture["height"]
    scale = NARROWEST / picture["width"]
    height = picture["height"] * scale
    for box in boxes:
        x1, y1, x2, y2 = (100 * place / whole[k % 2] for k, place in enumerate(box["box"]))
        places = zip(("x", "y", "width", "height"), (x1, y1, x2 - x1, y2 - y1), strict=True)
        style = f"frame {kind}" if box.get("right", True) else f"frame {kind} wrong"
        rectangle = SubElement(svg, "rect", {"class": style, **{k: f"{max(v, 0):.2f}%" for k, v in places}})
        SubElement(rectangle, "title").text = _told(box)
    taken: list[Rectangle] = []
    for box in boxes:
        label = _short(box)
        place = next(
            (
                spot
                for spot in _spots([value * scale for value in box["box"]], label, height)
                if not any(_overlap(spot, other) for other in taken)
            ),
            None,
        )
        if place is None:
            continue  # its text stands on the rectangle, and in the list below the pictures
        taken.append(place)
        at = {"x": f"{100 * place[0] / NARROWEST:.2f}%", "y": f"{100 * (place[3] - 3) / height:.2f}%"}
        SubElement(svg, "text", {"class": f"tag {kind}", **at}).text = label
    return written(svg)


def _spots(box: Sequence[float], label: str, height: float) -> Iterator[Rectangle]:
    """Where a label may stand: above, inside or below its box, all within the picture."""
    width = _LETTER * len(label) + 4
    for left in (box[0], box[2] - width):
        x = min(max(left, 0), max(NARROWEST - width, 0))
        for top in (box[1] - _LINE, box[1] + 1, box[3] - _LINE - 1, box[3]):
            if 0 <= top <= height - _LINE:
                yield x, top, x + width, top + _LINE


def _overlap(one: Rectangle, other: Rectangle) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _short(box: dict[str, Any]) -> str:
    name = box["label"]
    name = name if len(name) <= _LONGEST_NAME else name[: _LONGEST_NAME - 1] + "…"
    return name if "score" not in box else f"{name} {100 * box['score']:.0f}"


def _told(box: dict[str, Any]) -> str:
    if "score" not in box:
        return box["label"] + (" (difficult or crowd)" if box.get("optional") else "")
    return f"{box['label']} {box['score']:.2f}" + ("" if box["right"] else " (no such labelled box)")

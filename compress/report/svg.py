"""Inline SVG whose places are shares of its width: it follows any page, and its text keeps its size."""

import math
from dataclasses import dataclass
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement


@dataclass(frozen=True)
class Scale:
    """Values to places, from `least` at `start` to `most` at `end`."""

    least: float
    most: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """The place of a value."""
        share = (value - self.least) / (self.most - self.least)
        return round(self.start + share * (self.end - self.start), 2)


def figure(name: str, title: str, description: str, height: int) -> Element:
    """An empty figure with its text alternative, as wide as the box it stands in.

    Args:
        name: unique on the page.
        title: what it is.
        description: what it shows, for those who cannot see it.
        height: in pixels.
    """
    ids = f"{name}-title", f"{name}-description"
    svg = Element(
        "svg", {"role": "img", "aria-labelledby": " ".join(ids), "width": "100%", "height": str(height)}
    )
    for tag, id_, said in zip(("title", "desc"), ids, (title, description), strict=True):
        SubElement(svg, tag, {"id": id_}).text = said
    return svg


def ornament(height: int) -> Element:
    """A figure in a row of a table that has the same numbers: nothing is lost without it."""
    return Element("svg", {"aria-hidden": "true", "width": "100%", "height": str(height)})


def line(svg: Element, style: str, x1: float, y1: float, x2: float, y2: float) -> None:
    """A line; x in percent of the width, y in pixels."""
    places = {"x1": f"{x1}%", "y1": str(y1), "x2": f"{x2}%", "y2": str(y2)}
    SubElement(svg, "line", {"class": style, **places})


def dot(svg: Element, style: str, x: float, y: float, radius: float = 4.5) -> None:
    """A dot; x in percent of the width, y in pixels."""
    SubElement(svg, "circle", {"class": style, "cx": f"{x}%", "cy": str(y), "r": str(radius)})


def bar(svg: Element, style: str, x: float, y: float, width: float, height: float) -> None:
    """A rectangle; x and width in percent of the width, y and height in pixels."""
    places = {"x": f"{x}%", "y": str(y), "width": f"{round(width, 2)}%", "height": str(height)}
    SubElement(svg, "rect", {"class": style, **places})


def text(
    svg: Element, said: str, x: float, y: float, *, anchor: str = "middle", style: str = "", shift: float = 0
) -> None:
    """A label; x in percent of the width and `shift` more pixels, y of its base line in pixels."""
    places = {"x": f"{x}%", "y": str(y), "text-anchor": anchor}
    if shift:
        places["dx"] = str(shift)
    SubElement(svg, "text", {"class": style or "label", **places}).text = said


def ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Some `count + 1` round numbers, of which the first is not above `low` and the last not below `high`."""
    span = max(high - low, 1e-9)
    power = 10 ** math.floor(math.log10(span / count))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor * count >= span * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(step * k, 10) for k in range(first, last + 1)]


def written(svg: Element) -> str:
    """The figure as text, every name in it escaped."""
    return ElementTree.tostring(svg, encoding="unicode")

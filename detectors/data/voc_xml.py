"""Reads VOC annotation files with the line of every object, and checks the boxes in them."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from xml.parsers import expat

from detectors.errors import DataError, UnknownClassError
from detectors.registry import did_you_mean

SIDES = ("xmin", "ymin", "xmax", "ymax")
_FLAGS = {"": False, "0": False, "false": False, "1": True, "true": True}


@dataclass
class VocObject:
    """One `<object>` as it is written: texts by tag, and where it stands.

    Attributes:
        number: 1 for the first object of the file.
        line: line of `<object>`.
        texts: `name`, `difficult` and the four sides, as far as they are there.
        box_line: line of `<bndbox>`; None if there is none.
    """

    number: int
    line: int
    texts: dict[str, str] = field(default_factory=dict)
    box_line: int | None = None


@dataclass
class VocAnnotation:
    """One annotation file.

    Attributes:
        path: the file.
        objects: in the order of the file.
        size: (height, width) in pixels; None if the file does not say or says 0.
    """

    path: Path
    objects: list[VocObject] = field(default_factory=list)
    size: tuple[int, int] | None = None


def read_annotation(path: Path) -> VocAnnotation:
    """Reads one annotation file. Raises DataError, with the line, if it is missing or no sound XML."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"{path}: annotation is missing") from None
    except OSError as error:
        raise DataError(f"{path}: annotation cannot be read: {error.strerror}") from None
    reader = _Reader(path)
    try:
        reader.parser.Parse(_decoded(content), True)
    except expat.ExpatError as error:
        raise DataError(f"{path}:{error.lineno}: broken XML: {expat.ErrorString(error.code)}") from None
    except (LookupError, ValueError) as error:
        raise DataError(f"{path}:1: annotation cannot be decoded: {error}") from None
    if reader.root != "annotation":
        raise DataError(f"{path}:1: no VOC annotation: its root is <{reader.root}>, not <annotation>")
    return reader.finish()


def _decoded(content: bytes) -> bytes | str:
    """Text where a declaration names an encoding, for expat itself knows four of them and no gbk."""
    declared = re.match(rb"""\s*<\?xml[^>]*encoding=["']([\w.-]+)["']""", content)
    return content.decode(declared[1].decode("ascii")) if declared else content


class _Reader:
    """Handlers of one expat parse. Tags count by their path, for VOC's `<part>` holds names and boxes too."""

    def __init__(self, path: Path) -> None:
        self.annotation = VocAnnotation(path)
        self.root: str | None = None
        self._open: list[str] = []
        self._text = ""
        self._extent: dict[str, tuple[str, int]] = {}
        self.parser = expat.ParserCreate()
        self.parser.buffer_text = True
        self.parser.StartElementHandler = self._start
        self.parser.EndElementHandler = self._end
        self.parser.CharacterDataHandler = self._characters

    def _start(self, tag: str, attributes: dict[str, str]) -> None:
        self.root = self.root or tag
        self._open.append(tag)
        self._text = ""
        if self._open[1:] == ["object"]:
            number = len(self.annotation.objects) + 1
            self.annotation.objects.append(VocObject(number, self.parser.CurrentLineNumber))
        elif self._open[1:] == ["object", "bndbox"]:
            self.annotation.objects[-1].box_line = self.parser.CurrentLineNumber

    def _characters(self, text: str) -> None:
        self._text += text

    def _end(self, tag: str) -> None:
        text = self._text.strip()
        match self._open[1:]:
            case ["object", "name" | "difficult"] | ["object", "bndbox", _]:
                self.annotation.objects[-1].texts[tag] = text
            case ["size", "height" | "width"]:
                self._extent[tag] = (text, self.parser.CurrentLineNumber)
        self._open.pop()
        self._text = ""

    def finish(self) -> VocAnnotation:
        """The annotation with its size. Raises DataError on a size that is no number."""
        sides = []
        for tag in ("height", "width"):
            text, line = self._extent.get(tag, ("", 0))
            try:
                sides.append(round(float(text or 0)))
            except (ValueError, OverflowError):
                raise DataError(
                    f"{self.annotation.path}:{line}: <{tag}> {text!r} of <size> is not a number"
                ) from None
        if min(sides) > 0:
            self.annotation.size = (sides[0], sides[1])
        return self.annotation


def check_object(
    annotation: VocAnnotation, item: VocObject, size: tuple[int, int], classes: Sequence[str]
) -> tuple[list[float], int, bool]:
    """One object as box, label and difficult flag.

    VOC counts pixels from 1 and includes the last: (xmin, ymin, xmax, ymax) becomes the half-open, 0-based
    (xmin - 1, ymin - 1, xmax, ymax). A box that reaches up to one pixel out of the image is clipped, since
    many VOC-like sets count from 0.

    Args:
        annotation: the file that the object stands in.
        item: the object.
        size: (height, width) of the image in pixels.
        classes: all class names.

    Returns:
        [x1, y1, x2, y2] in pixels, the position of its name in `classes`, and whether it is marked difficult.

    Raises:
        DataError: with file, line and object, for whatever is missing, unreadable or out of place.
    """
    who = f"object {item.number} ({item.texts.get('name') or 'no name'})"
    here = f"{annotation.path}:{item.line}: {who}"
    name = item.texts.get("name")
    if not name:
        raise DataError(f"{here} has no <name>")
    if name not in classes:
        raise UnknownClassError(f"{here}: unknown class {name!r}{did_you_mean(name, classes)}")
    flag = item.texts.get("difficult", "").lower()
    if flag not in _FLAGS:
        raise DataError(f"{here}: <difficult> is {flag!r}, not 0 or 1")
    if item.box_line is None:
        raise DataError(f"{here} has no <bndbox>")
    here = f"{annotation.path}:{item.box_line}: {who}"
    xmin, ymin, xmax, ymax = (_coordinate(item, side, here) for side in SIDES)
    written = f"box ({xmin:g}, {ymin:g}, {xmax:g}, {ymax:g})"
    # Equal sides would be one pixel to the letter of VOC; in practice they are slips of the mouse.
    if xmax <= xmin or ymax <= ymin:
        raise DataError(
            f"{here}: {written} is degenerate: xmax - xmin = {xmax - xmin:g}, ymax - ymin = {ymax - ymin:g}"
        )
    height, width = size
    if xmin < 0 or ymin < 0 or xmax > width + 1 or ymax > height + 1 or xmin > width or ymin > height:
        raise DataError(f"{here}: {written} lies outside of the image of {width} x {height} pixels")
    box = [max(xmin - 1, 0.0), max(ymin - 1, 0.0), min(xmax, width), min(ymax, height)]
    return box, classes.index(name), _FLAGS[flag]


def _coordinate(item: VocObject, side: str, here: str) -> float:
    text = item.texts.get(side)
    if text is None:
        raise DataError(f"{here} has no <{side}>")
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise DataError(f"{here}: <{side}> {text!r} is not a number")
    return value

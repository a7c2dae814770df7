"""A small folder laid out like VOC, for tests to write and then to break."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torchvision.io import write_jpeg

from detectors.settings import DataConfig


@dataclass
class VocFolder:
    """Writes images and annotations below `root`; a box is (name, xmin, ymin, xmax, ymax[, difficult])."""

    root: Path

    def config(self, **settings: Any) -> DataConfig:
        return DataConfig(name="voc", root=str(self.root), **settings)

    def split(self, name: str, images: Sequence[str], year: str = "") -> Path:
        path = self.root / year / "ImageSets" / "Main" / f"{name}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{image}\n" for image in images))
        return path

    def picture(self, name: str, size: tuple[int, int] = (40, 60), year: str = "") -> Path:
        path = self.root / year / "JPEGImages" / f"{name}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        generator = torch.Generator().manual_seed(len(list(path.parent.iterdir())))
        coarse = torch.randint(256, (1, 3, 5, 5), generator=generator).float()
        image = torch.nn.functional.interpolate(coarse, size, mode="bilinear").to(torch.uint8)
        write_jpeg(image[0], str(path))
        return path

    def annotation(
        self,
        name: str,
        boxes: Sequence[Sequence[Any]] = (),
        size: tuple[int, int] | None = (40, 60),
        year: str = "",
        text: str | None = None,
    ) -> Path:
        """Line 1 opens, line 2 is the size, each object with its box takes a line from 3 on."""
        path = self.root / year / "Annotations" / f"{name}.xml"
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = ["<annotation>"]
        lines.append(f"<size><width>{size[1]}</width><height>{size[0]}</height></size>" if size else "")
        for label, *sides in boxes:
            tags = "".join(
                f"<{tag}>{side}</{tag}>"
                for tag, side in zip(("xmin", "ymin", "xmax", "ymax"), sides[:4], strict=True)
            )
            flag = f"<difficult>{sides[4]}</difficult>" if len(sides) > 4 else ""
            lines.append(f"<object><name>{label}</name>{flag}<bndbox>{tags}</bndbox></object>")
        path.write_text("\n".join([*lines, "</annotation>"]) if text is None else text)
        return path

    def add(self, name: str, boxes: Sequence[Sequence[Any]] = (), size: tuple[int, int] = (40, 60)) -> None:
        self.picture(name, size)
        self.annotation(name, boxes, size)

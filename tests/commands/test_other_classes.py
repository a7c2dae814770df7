"""A checkpoint of other classes, and a guest, through the commands."""

from pathlib import Path

import pytest
import torch
from scripts import Done, run
from torchvision.io import write_jpeg

import detectors

Chain = tuple[Path, dict[str, Done]]

GUEST = """\
detector: {name: torchvision_ssdlite320_mobilenet_v3_large, size: [64, 64]}
data:
  name: synthetic
  train: [train]
  test: [test]
  augment: flip
  workers: 0
  synthetic:
    {classes: 2, train: 4, val: 1, test: 2, size: [64, 64], objects: [1, 2], object_size: [0.3, 0.6]}
train: {epochs: 1, batch: 4}
eval: {metric: voc, bootstrap: 10}
finetune: {epochs: 1, batch: 4}
prune: {budget: {macs: 60%}, calibration_images: 4, latency_runs: 0}
"""


def test_a_slim_file_is_trained_on_for_other_classes(finished: Path) -> None:
    options = ("model=prunes/tiny/slim.pth", "data.synthetic.classes=3", "out=other")
    refused = run(finished, "finetune.py", "tiny.yaml", *options)
    assert "which is not among the classes" in refused.error
    assert "The known classes are those of prunes/tiny/slim.pth: load.classes=ignore" in refused.error
    done = run(finished, "finetune.py", "tiny.yaml", *options, "load.classes=ignore")
    assert (done.code, done.err) == (0, "")
    assert (
        "prunes/tiny/slim.pth: not taken from the file: network.conf.0.weight, network.conf.0.bias"
        in done.out
    )
    slim, other = (detectors.load(finished / path) for path in ("prunes/tiny/slim.pth", "other/model.pth"))
    assert len(slim.spec.classes) == 2
    assert len(other.spec.classes) == 3
    widths = [d.network.backbone.features[0].out_channels for d in (slim, other)]
    assert widths[0] == widths[1]
    assert "left_out" not in other.meta


@pytest.mark.parametrize("policy", ["stop", "skip"])
def test_classes_that_the_checkpoint_does_not_know_are_told_with_its_name(
    finished: Path, policy: str
) -> None:
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (finished / "cells" / folder).mkdir(parents=True)
    (finished / "cells/ImageSets/Main/all.txt").write_text("one\n")
    box = "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox>"
    annotation = f"<annotation><object><name>cell</name>{box}</object></annotation>"
    (finished / "cells/Annotations/one.xml").write_text(annotation)
    write_jpeg(torch.zeros(3, 64, 64, dtype=torch.uint8), str(finished / "cells/JPEGImages/one.jpg"))
    data = ("data.name=voc", "data.root=cells", "data.train=[all]", "data.test=[all]")
    words = ("tiny.yaml", "model=weights/tiny/model.pth", *data, f"data.on_error={policy}")
    error = run(finished, "eval_voc.py", *words).error
    assert "cells/Annotations/one.xml:1: object 1 (cell): unknown class 'cell'; known: solid disc" in error
    assert "The known classes are those of weights/tiny/model.pth: load.classes=ignore trains" in error


def test_a_guest_is_trained_cut_and_scored(tmp_path: Path) -> None:
    (tmp_path / "guest.yaml").write_text(GUEST)
    for words in (
        ("train.py", "guest.yaml"),
        ("prune.py", "guest.yaml", "model=weights/guest/model.pth"),
        ("eval_voc.py", "guest.yaml", "model=prunes/guest/slim.pth"),
    ):
        done = run(tmp_path, *words)
        assert (done.code, done.err) == (0, ""), words
    assert "mAP (voc)" in done.out
    full, slim = (
        detectors.load(tmp_path / path) for path in ("weights/guest/model.pth", "prunes/guest/slim.pth")
    )
    count = [sum(p.numel() for p in detector.parameters()) for detector in (full, slim)]
    assert count[1] < count[0]

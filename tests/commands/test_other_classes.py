"""A checkpoint of other classes, and a guest, through the commands."""

from pathlib import Path

from scripts import Done, run

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

"""Checkpoints of our own: plain data, read back to the bit, and one clear line for each that cannot be."""

import enum
from collections import OrderedDict, defaultdict
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import compress
import detectors
from detectors.checkpoint import checkpoint_of, fingerprint, parse, read, restore, save
from detectors.errors import CheckpointError
from detectors.models import build
from detectors.models.base import Detector

CLASSES = ("cat", "dog")


def fresh(seed: int = 0, size=(64, 96)) -> Detector:
    """A small detector whose every number is set, batch norm's too."""
    torch.manual_seed(seed)
    detector = build("ssd_vgg16_bn", CLASSES, size=list(size), width=0.0625).train()
    for _ in range(2):
        detector(torch.rand(2, 3, *size))
    return detector.eval()


@pytest.fixture(scope="module")
def full() -> Detector:
    return fresh()


@pytest.fixture(scope="module")
def slim(full) -> Detector:
    return compress.prune(full, ratio=0.3, multiple=2)


@pytest.fixture
def saved(full, tmp_path) -> Path:
    save(full, tmp_path / "full.pth", note="kept")
    return tmp_path / "full.pth"


def same_outputs(one: Detector, other: Detector) -> bool:
    images = torch.rand(2, 3, *one.size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return all(torch.equal(a, b) for a, b in zip(one(images), other(images), strict=True))


@pytest.mark.parametrize("which", ["full", "slim"])
def test_a_reloaded_detector_gives_the_same_outputs_to_the_bit(which, request, tmp_path):
    detector = request.getfixturevalue(which)
    save(detector, tmp_path / "model.pth")
    again = detectors.load(tmp_path / "model.pth")
    assert not again.training
    assert again.spec.classes == CLASSES
    assert again.size == detector.size
    assert same_outputs(again, detector)
    assert fingerprint(again) == fingerprint(detector)
    assert [p.requires_grad for p in again.parameters()] == [True] * len(list(detector.parameters()))


def test_a_slim_detector_survives_cut_after_cut_and_file_after_file(slim, tmp_path):
    detector = slim
    for step in range(2):
        save(detector, tmp_path / f"{step}.pth")
        detector = compress.prune(detectors.load(tmp_path / f"{step}.pth"), ratio=0.2, multiple=2)
    save(detector, tmp_path / "last.pth")
    again = detectors.load(tmp_path / "last.pth")
    assert same_outputs(again, detector)
    widths = [sum(p.numel() for p in d.parameters()) for d in (slim, again)]
    assert widths[1] < widths[0]


def test_a_file_holds_plain_data_and_the_layers_that_were_resized(full, slim, tmp_path):
    save(full, tmp_path / "full.pth", parent="abc", scores=[0.5, None])
    save(slim, tmp_path / "slim.pth")
    payload = torch.load(tmp_path / "full.pth", weights_only=True)
    assert (payload["format"], payload["version"], payload["geometry"]) == ("slimdet", 1, {})
    assert payload["meta"] == {"parent": "abc", "scores": [0.5, None]}
    assert payload["spec"] == {
        "name": "ssd_vgg16_bn",
        "classes": ["cat", "dog"],
        "options": {"size": [64, 96], "width": 0.0625},
    }
    geometry = torch.load(tmp_path / "slim.pth", weights_only=True)["geometry"]
    assert geometry["network.backbone.features.0"]["out"] < full.network.backbone.features[0].out_channels
    assert "network.loc.0" in geometry  # its inputs are fewer
    assert parse(read(tmp_path / "full.pth"), "").meta["parent"] == "abc"


def test_a_checkpoint_in_memory_restores_too(slim):
    assert same_outputs(restore(checkpoint_of(slim)), slim)


class Colour(enum.IntEnum):
    RED = 1


@pytest.mark.parametrize(
    "odd",
    [
        Path("x"),
        np.float64(0.5),
        np.zeros(2),
        {1, 2},
        b"bytes",
        Colour.RED,
        nn.Parameter(torch.zeros(1)),
        [{"deep": (1, object())}],
        {Path("key"): 1},
        defaultdict(list),
    ],
    ids=lambda odd: type(odd).__name__,
)
def test_what_could_not_be_read_back_is_not_written(odd, full, tmp_path):
    with pytest.raises(TypeError, match=r"checkpoint.meta.odd.* not plain data"):
        save(full, tmp_path / "model.pth", odd=odd)
    assert not (tmp_path / "model.pth").exists()


def test_plain_data_of_every_kind_is_read_back(full, tmp_path):
    meta = {"text": "é", "none": None, "yes": True, "n": 2**70, "x": [0.1, (1, 2)], "t": torch.arange(3)}
    save(full, tmp_path / "model.pth", **meta, ordered=OrderedDict(a=1))
    again = read(tmp_path / "model.pth")["meta"]
    assert torch.equal(again.pop("t"), meta.pop("t"))
    assert again == {**meta, "ordered": {"a": 1}}


@pytest.mark.parametrize("share", [0.0, 0.001, 0.1, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_one_clear_line(share, saved):
    whole = saved.read_bytes()
    saved.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(
        CheckpointError, match=r"full.pth \([\d,]+ bytes\) is truncated or not a PyTorch file"
    ):
        detectors.load(saved)


@pytest.mark.parametrize("content", [b"hello\n", b"\x80\x02}q\x00.", b"PK\x03\x04", b"\x00" * 1000, b"{}"])
def test_a_file_of_something_else_is_a_checkpoint_error(content, tmp_path):
    (tmp_path / "odd.pth").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"odd.pth"):
        detectors.load(tmp_path / "odd.pth")


def test_a_pickled_module_is_refused_by_its_class_without_running_it(full, tmp_path):
    torch.save(full, tmp_path / "module.pth")
    with pytest.raises(
        CheckpointError,
        match=r"holds a pickled object \(detectors\.models\.base\.Detector.*: detectors.save\(model, PATH\)",
    ):
        detectors.load(tmp_path / "module.pth")
    torch.save(nn.Sequential(nn.Conv2d(3, 3, 1)), tmp_path / "module.pth")
    with pytest.raises(
        CheckpointError, match=r"save the state dict instead: torch.save\(model.state_dict\(\)"
    ):
        detectors.load(tmp_path / "module.pth")


class Trap:
    def __reduce__(self):
        return Path.touch, (Path("trap-was-run"),)


def test_no_code_from_a_file_is_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"state": Trap()}, "trap.pth")
    with pytest.raises(CheckpointError, match=r"trap.pth is or holds a pickled object"):
        detectors.load("trap.pth")
    assert not Path("trap-was-run").exists()


def test_a_missing_file_is_answered_with_the_nearest(saved):
    with pytest.raises(CheckpointError, match=r"no checkpoint .*/ful.pth; did you mean .*/full.pth\?"):
        detectors.load(saved.with_name("ful.pth"))
    with pytest.raises(CheckpointError, match=r"no checkpoint .*/nowhere/x.pth$"):
        detectors.load(saved.parent / "nowhere" / "x.pth")


def changed(path: Path, **parts) -> Path:
    torch.save({**torch.load(path, weights_only=True), **parts}, path)
    return path


def test_a_newer_version_is_refused(saved):
    with pytest.raises(CheckpointError, match="has format version 2, this program reads up to 1"):
        detectors.load(changed(saved, version=2))


@pytest.mark.parametrize("part", ["spec", "geometry", "state", "meta"])
def test_a_file_without_one_of_its_parts_is_incomplete(part, saved):
    payload = torch.load(saved, weights_only=True)
    del payload[part]
    torch.save(payload, saved)
    with pytest.raises(CheckpointError, match=f"full.pth is damaged: its {part} is not what it must be"):
        detectors.load(saved)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"geometry": {"network.x": {"channels": 1}}}, "resizes the layer 'network.x', which this detector"),
        (
            {"spec": {"name": "ssd_vgg", "classes": ["a"], "options": {}}},
            "unknown detector 'ssd_vgg'; did you",
        ),
        ({"spec": {"name": "ssd_vgg16_bn", "classes": ["a"], "options": {"x": 1}}}, "has no option 'x'"),
        (
            {"spec": {"name": "ssd_vgg16_bn", "classes": list("abc"), "options": {"size": [64, 64]}}},
            "does not fit the detector: network.backbone.features.0.weight is .* in the file and .* here",
        ),
        ({"state": {}}, r"features.0.weight is missing, .* and \d+ more"),
    ],
)
def test_parts_that_do_not_fit_each_other_are_one_line(parts, message, saved):
    with pytest.raises(CheckpointError, match=rf"full.pth.*{message}") as caught:
        detectors.load(changed(saved, **parts))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"name": "ssd300_vgg16"}, "holds a ssd_vgg16_bn, not a ssd300_vgg16; set detector.name"),
        ({"width": 0.25}, r"was built with width=0.0625, not with width=0.25; make the recipe say the same"),
        ({"size": [64, 64]}, r"was built with size=\[64, 96\], not with size=\[64, 64\]"),
        ({"scales": [0.1, 0.5]}, r"was built without the option scales, not with scales=\[0.1, 0.5\]"),
        ({"classes": ["cat", "dog", "owl"]}, r"its 2 classes differ from the 3 .*only in the data: owl\)"),
        ({"classes": ["cat"]}, r"its 2 classes differ from the 1 .*\(only in the checkpoint: dog\)"),
        ({"classes": ["cat", "cow"]}, "only in the data: cow; only in the checkpoint: dog"),
        (
            {"classes": ["dog", "cat"]},
            r"order than in the checkpoint: cat, dog; .* number 1, dog in the data",
        ),
        (
            {"classes": [f"class {k}" for k in range(80)]},
            r"only in the data: class 0, .*class 5 and 74 more; only in the checkpoint: cat, dog\)",
        ),
    ],
)
def test_what_differs_from_what_was_asked_is_named(asked, message, saved):
    with pytest.raises(CheckpointError, match=message):
        detectors.load(saved, **asked)


def test_asking_for_what_the_file_holds_is_fine(saved, full):
    again = detectors.load(saved, name="ssd_vgg16_bn", classes=list(CLASSES), size=(64, 96), width=0.0625)
    assert same_outputs(again, full)


def test_a_fingerprint_tells_weights_spec_and_geometry_but_not_memory_format(full, slim):
    own = fingerprint(full)
    assert len(own) == 64
    assert fingerprint(fresh()) == own
    assert fingerprint(fresh().to(memory_format=torch.channels_last)) == own
    assert fingerprint(slim) != own
    assert fingerprint(fresh(seed=1)) != own
    nudged = fresh()
    with torch.no_grad():
        nudged.network.conf[0].bias[0] += 1e-7
    assert fingerprint(nudged) != own
    counted = fresh()
    next(m for m in counted.modules() if isinstance(m, nn.BatchNorm2d)).running_mean += 1
    assert fingerprint(counted) != own

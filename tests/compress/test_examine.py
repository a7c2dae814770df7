"""A changed detector is examined without repeating what comes before the change, to the bit."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from toys import shaken

from compress.cost import subject
from compress.graph import trace
from compress.probe import narrowed
from compress.sensitivity.examine import Examiner, Findings, chosen
from compress.sensitivity.replay import START, recorded
from detectors.data import build as build_data
from detectors.errors import DataError
from detectors.images import resize
from detectors.models import build
from detectors.models.base import Detector
from detectors.settings import DataConfig, SyntheticConfig
from detectors.types import Target

DRAWN = SyntheticConfig(classes=2, train=5, size=[64, 96], objects=[1, 2], object_size=[0.3, 0.6])
DATA = build_data(DataConfig(name="synthetic", train=["train"], synthetic=DRAWN), "train")
KINDS: dict[str, dict[str, Any]] = {
    "ssd_vgg16_bn": {"width": 0.0625, "size": [64, 96]},
    "ssd": {"backbone": "resnet18", "width": 0.0625},
    "yolo_v3": {"width": 0.0625, "size": [64, 96], "loss": "yolo"},
    "refinedet": {"width": 0.0625, "size": [64, 128]},
    "torchvision_fasterrcnn_mobilenet_v3_large_320_fpn": {"size": [64, 96], "proposals": 4},
}


def small(name: str = "ssd_vgg16_bn", **options: Any) -> Detector:
    torch.manual_seed(0)
    return shaken(build(name, DATA.classes, **(KINDS[name] | options))).eval()


def same(one: Findings, other: Findings) -> bool:
    pairs = list(zip(one.detections, other.detections, strict=True))
    return np.array_equal(one.losses, other.losses) and all(
        torch.equal(a.boxes, b.boxes) and torch.equal(a.scores, b.scores) and torch.equal(a.labels, b.labels)
        for a, b in pairs
    )


@pytest.mark.parametrize("name", KINDS)
def test_what_comes_before_a_cut_is_not_repeated_and_nothing_else_changes(name: str) -> None:
    detector = small(name)
    network, groups = subject(detector)[0], trace(*subject(detector)).groups
    examiner = Examiner(detector, DATA, [0, 2, 3], batch=2, difficult=False)
    whole = examiner.whole()
    assert len(whole.losses) == len(whole.detections) == 3
    reused = 0
    for group in (groups[1], groups[-1]):
        examiner.enter(member.layer for member in group.members)
        slim = narrowed(network, groups, {group.name: tuple(range(group.channels // 2))})
        found = examiner.changed(slim)
        steps = [frontier.step for frontier in examiner._frontiers]
        assert all(step > reused for step in steps)
        reused = min(steps)
        kept, examiner._frontiers = examiner._frontiers, [START for _ in steps]
        assert same(found, examiner.changed(slim))
        examiner._frontiers = kept
        assert group is groups[-1] or not same(found, whole)  # few anchors read the last map of an SSD
        # Nothing that is kept was written on.
        assert same(examiner.changed(network), whole)


class Entangled(nn.Module):
    """A stem that is read again behind the body, and written on in place; `early` is a number of its own."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.stem, self.body, self.head = (nn.Conv2d(a, b, 1) for a, b in ((3, 8), (8, 8), (8, 4)))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu_(self.stem(x))
        early = float(np.asarray(x.sum().tolist())) if self.how == "numpy" else 0.0
        view = x[:, :4]
        x = x.clone() if self.how == "numpy" else x
        made = self.body(x)
        if self.how == "in place":
            x += made
        if self.how == "through a view":
            view += made[:, 4:]
        return self.head(x + made) + early


@pytest.mark.parametrize("how", ["plain", "in place", "through a view", "numpy"])
def test_a_pass_is_resumed_where_tensors_are_read_late_and_written_on(how: str) -> None:
    torch.manual_seed(0)
    network, images = Entangled(how), torch.rand(2, 3, 5, 5)
    with torch.no_grad():
        wanted = network(images)
        trail, made = recorded(network, lambda: network(images))
        assert torch.equal(made, wanted)
        step = trail.first_step(["body"])
        frontier = trail.advanced(START, step, lambda: network(images))
        assert frontier.step == step
        assert (step > 0) == (how != "through a view")  # of which a copy would see half
        for _ in range(3):
            assert torch.equal(trail.resumed(frontier, lambda: network(images)), wanted)
        network.body.weight.mul_(2)
        assert torch.equal(trail.resumed(frontier, lambda: network(images)), network(images))
        if step:
            network.stem.weight.mul_(2)
            changed = trail.resumed(frontier, lambda: network(images))
            assert not torch.equal(changed, network(images))  # it is not run again


def test_a_pass_that_strays_from_its_record_is_run_in_full() -> None:
    network, images = Entangled("plain"), torch.rand(1, 3, 5, 5)
    with torch.no_grad():
        trail, _ = recorded(network, lambda: network(images))
        frontier = trail.advanced(START, trail.first_step(["head"]), lambda: network(images))
        assert torch.equal(trail.resumed(frontier, lambda: network(images * 2)), network(images * 2))


def test_layers_whose_tensors_would_take_too_much_memory_are_run_from_the_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    detector = small()
    groups = trace(*subject(detector)).groups
    examiner = Examiner(detector, DATA, [0, 2, 3], batch=2, difficult=False)
    whole = examiner.whole()
    monkeypatch.setattr("compress.sensitivity.examine.MOST_KEPT", 1000)
    examiner.enter(member.layer for member in groups[4].members)
    assert [frontier.step for frontier in examiner._frontiers] == [0, 0]
    assert same(examiner.changed(subject(detector)[0]), whole)


def test_the_losses_are_those_of_each_image_by_itself_on_boxes_in_pixels_of_the_input() -> None:
    detector = small(size=[64, 192])  # the images are half as wide
    examiner = Examiner(detector, DATA, [4, 1], batch=2, difficult=False)
    found = examiner.whole()
    for place, index in enumerate((4, 1)):
        image, target = DATA.image(index), DATA.target(index)
        wide = resize(image, (64, 192))[None].float() / 255
        wider = Target.of(target.boxes * torch.tensor([2.0, 1.0, 2.0, 1.0]), target.labels)
        with torch.no_grad():
            alone = sum(float(term) for term in detector.losses(wide, [wider]).values())
        # Batch against single image: another order of additions in float32.
        assert found.losses[place] == pytest.approx(alone, rel=1e-4)
        expected = detector.predict(wide, [(64, 96)])[0]
        torch.testing.assert_close(found.detections[place].scores, expected.scores, rtol=1e-4, atol=1e-5)


def test_a_detector_whose_loss_does_not_part_into_images_sees_them_one_by_one() -> None:
    class Tied(type(small())):  # type: ignore[misc]
        def loss(self, outputs: Any, targets: Any) -> dict[str, Tensor]:
            terms = super().loss(outputs, targets)
            return {name: term + outputs.logits.mean() * len(outputs.logits) for name, term in terms.items()}

        def outputs(self, maps: Any) -> Any:
            rows = super().outputs(maps)
            return rows._replace(logits=rows.logits - rows.logits.mean())

    detector = small()
    detector.__class__ = Tied
    examiner = Examiner(detector, DATA, [0, 2, 3], batch=3, difficult=False)
    image = DATA.image(2)[None].float() / 255
    with torch.no_grad():
        alone = sum(float(term) for term in detector.losses(image, [DATA.target(2)]).values())
    assert examiner.whole().losses[1] == pytest.approx(alone, rel=1e-4)


def test_the_images_are_the_same_for_the_same_seed_and_hold_a_box() -> None:
    assert chosen(DATA, 3, 0) == chosen(DATA, 3, 0) == sorted(chosen(DATA, 3, 0))
    assert len({tuple(chosen(DATA, 3, seed)) for seed in range(8)}) > 1
    assert chosen(DATA, 99, 0) == [0, 1, 2, 3, 4]
    empty = replace(DRAWN, objects=[0, 0])
    bare = build_data(DataConfig(name="synthetic", train=["train"], synthetic=empty), "train")
    with pytest.raises(DataError, match="none of the 2 images of the sweep has a labelled box; raise"):
        chosen(bare, 2, 0)

from typing import Any

import pytest
import torch
from torchvision.ops import box_iou

from detectors.data import Dataset, Split, build
from detectors.data.shapes import SHAPES, TEXTURES, class_names, draw_figure
from detectors.errors import ConfigError, DataError
from detectors.settings import DataConfig, SyntheticConfig


def make(
    split: Split = "train", known: tuple[str, ...] | None = None, data: Any = None, **knobs: Any
) -> Dataset:
    """A small drawn data set; `data` are settings of DataConfig, the knobs those of SyntheticConfig."""
    config = DataConfig(**{"name": "synthetic", "train": ["train"], "test": ["test"]} | (data or {}))
    config.synthetic = SyntheticConfig(**{"train": 30, "val": 6, "test": 6, "size": [96, 96]} | knobs)
    return build(config, split, known)


def test_an_image_is_the_same_whatever_was_drawn_before():
    one, other = make(), make(data={"train": ["train", "val"]})
    backwards = [other.image(i) for i in reversed(range(8))][::-1]
    for index in range(8):
        assert torch.equal(one.image(index), backwards[index])
        assert torch.equal(one.target(index).boxes, other.target(index).boxes)
    assert other.name(31) == "val/000001"


def test_splits_and_seeds_share_no_image():
    sets = [make(), make("test"), make(data={"train": ["val"]}), make(seed=1)]
    images = [data.image(i).numpy().tobytes() for data in sets for i in range(len(data))]
    assert len(set(images)) == len(images) == 30 + 6 + 6 + 30


def test_forty_classes_and_any_few_mix_shapes_and_textures():
    names = class_names()
    assert len(set(names)) == 40
    assert names[:6] == [
        "solid disc", "solid square", "striped disc", "striped square", "solid triangle", "striped triangle",
    ]  # fmt: skip
    for count in range(4, 41):
        textures, shapes = zip(*(name.split() for name in names[:count]), strict=True)
        assert max(textures.count(texture) for texture in set(textures)) < count
        assert max(shapes.count(shape) for shape in set(shapes)) < count


@pytest.mark.parametrize("texture", TEXTURES)
@pytest.mark.parametrize("shape", SHAPES)
def test_a_figure_fills_its_box_and_not_more_than_its_side(shape, texture):
    for side, aspect, angle in [(20, 1.0, 0.0), (40, 0.7, 0.25), (57.3, 1.4, -0.25)]:
        figure = draw_figure(f"{texture} {shape}", side, aspect, angle)
        seen = figure.alpha >= 0.5
        assert seen[0].any() and seen[-1].any() and seen[:, 0].any() and seen[:, -1].any()  # noqa: PT018
        assert 0.6 * side <= max(figure.shape) <= side + 2
        assert 0 <= figure.second.min() <= figure.second.max() <= 1
        if texture != "solid":
            share = figure.second[seen].mean()
            assert 0.2 < share < 0.8


def test_figures_of_all_classes_differ():
    figures = [draw_figure(name, 40, 1.0, 0.0) for name in class_names()]
    drawn = {(figure.alpha.tobytes(), figure.second.tobytes()) for figure in figures}
    assert len(drawn) == 40


def test_boxes_lie_inside_and_overlap_little():
    data = make(objects=[4, 8])
    for index in range(30):
        boxes = data.target(index).boxes
        assert (boxes >= 0).all()
        assert (boxes <= 96).all()
        assert box_iou(boxes, boxes).triu(1).max() < 0.1


def test_crowding_places_that_share_on_one_of_their_own_class():
    overlapping = total = 0
    data = make(objects=[5, 5], crowding=0.5, object_size=[0.1, 0.25], size=[160, 160])
    for index in range(30):
        target = data.target(index)
        iou = box_iou(target.boxes, target.boxes).triu(1)
        alike = target.labels[:, None] == target.labels[None]
        assert iou.max() <= 0.5
        overlapping += int(((iou >= 0.2) & alike).sum())
        total += len(target.boxes) - 1  # the first has nobody to lie on
    assert 0.3 < overlapping / total < 0.65


def test_colours_tell_nothing_of_the_class():
    data = make(objects=[1, 1], clutter=0.0)
    means: dict[int, list[torch.Tensor]] = {}
    for index in range(30):
        x1, y1, x2, y2 = data.target(index).boxes[0].int().tolist()
        middle = data.image(index)[:, (y1 + y2) // 2, (x1 + x2) // 2].float()
        means.setdefault(int(data.target(index).labels[0]), []).append(middle)
    for seen in means.values():
        if len(seen) > 2:
            assert torch.stack(seen).std(0).max() > 20


def test_kept_and_shrunk_images_fit_their_boxes():
    whole, small, kept = make(), make(data={"max_side": 48}), make(data={"max_side": 48, "cache": "ram"})
    assert small.image(3).shape == (3, 48, 48)
    assert torch.equal(small.image(3), kept.image(3))
    torch.testing.assert_close(small.target(3).boxes, whole.target(3).boxes / 2)


def test_objects_stand_out_from_a_plain_ground():
    data = make(clutter=0.0, objects=[1, 1])
    for index in range(10):
        image, box = data.image(index).float(), data.target(index).boxes[0].int().tolist()
        luma = (image * torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(0)
        ground = luma.median() if (box[2] - box[0]) * (box[3] - box[1]) < 96 * 96 / 2 else luma[0, 0]
        differs = (luma - ground).abs() > 20
        rows, columns = differs.any(1).nonzero(), differs.any(0).nonzero()
        found = [int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1]
        assert max(abs(a - b) for a, b in zip(found, box, strict=True)) <= 1


def test_labels_are_positions_in_the_classes_of_a_checkpoint():
    plain = make()
    assert plain.classes == tuple(class_names()[:6])
    known = ("cat", *reversed(plain.classes))
    other = make(known=known)
    assert other.classes == known
    for index in range(30):
        assert other.target(index).labels.tolist() == [
            6 - label for label in plain.target(index).labels.tolist()
        ]


@pytest.mark.parametrize(
    ("knob", "value"),
    [
        ("classes", 0),
        ("classes", 41),
        ("val", -1),
        ("size", [96]),
        ("size", [96, 8]),
        ("objects", [3, 1]),
        ("objects", [-1, 1]),
        ("object_size", [0, 0.5]),
        ("object_size", [0.01, 0.5]),
        ("object_size", [0.2, 1.0]),
        ("object_size", [0.5, 0.2]),
        ("clutter", 1.5),
        ("crowding", -0.1),
        ("seed", -1),
    ],
)
def test_a_knob_out_of_range_is_named(knob, value):
    with pytest.raises(ConfigError) as error:
        make(**{knob: value})
    assert str(error.value).startswith(f"data.synthetic.{knob}={value} ")


def test_splits_and_classes_that_are_not_there_are_named():
    with pytest.raises(DataError, match="has no split 'trainval'; it has train, val and test"):
        make(data={"train": ["trainval"]})
    with pytest.raises(
        DataError, match=r"draws 'striped disc', which is not among the classes; .*(\.|\?) Lower"
    ):
        make(known=("solid disc", "solid square"))
    with pytest.raises(DataError, match=r"data\.train names no image"):
        make(data={"train": ["val"]}, val=0)

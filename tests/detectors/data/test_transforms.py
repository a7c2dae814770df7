import pytest
import torch

from detectors.data import AUGMENTATIONS, outcomes_of
from detectors.images import resize
from detectors.types import Target

NAMES = ("flip", "light", "none", "ssd")


def picture(seed: int = 0, size: tuple[int, int] = (60, 80)) -> torch.Tensor:
    return torch.randint(256, (3, *size), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def blocks() -> tuple[torch.Tensor, Target]:
    """Four grey patches on black, each with its level, its label and flags that follow from the label."""
    image = torch.zeros(3, 60, 80, dtype=torch.uint8)
    boxes = [[5, 5, 25, 20], [40, 5, 75, 25], [5, 35, 30, 55], [45, 35, 70, 50]]
    for label, (x1, y1, x2, y2) in enumerate(boxes):
        image[:, y1:y2, x1:x2] = 60 * (label + 1)
    return image, Target.of(boxes, [0, 1, 2, 3], [False, True, False, True], [False, False, True, True])


def test_all_are_registered():
    assert set(NAMES) <= set(AUGMENTATIONS.names())


@pytest.mark.parametrize("name", NAMES)
def test_size_type_and_bounds_hold_and_flags_stay_with_their_boxes(name):
    augment = AUGMENTATIONS[name]((48, 64))
    torch.manual_seed(0)
    kept = 0
    for _ in range(60):
        image, target = augment(*blocks())
        assert image.shape == (3, 48, 64)
        assert image.dtype == torch.uint8
        assert type(image) is torch.Tensor
        assert type(target.boxes) is torch.Tensor
        assert (target.boxes >= 0).all()
        assert (target.boxes <= torch.tensor([64, 48, 64, 48])).all()
        assert ((target.boxes[:, 2:] - target.boxes[:, :2]) >= 1).all()
        assert torch.equal(target.difficult, target.labels % 2 == 1)
        assert torch.equal(target.crowd, target.labels >= 2)
        kept += len(target.labels)
    assert kept >= 60


@pytest.mark.parametrize("name", ["none", "flip", "light"])
def test_boxes_follow_the_pixels(name):
    augment = AUGMENTATIONS[name]((120, 160))
    torch.manual_seed(1)
    for _ in range(30):
        image, target = augment(*blocks())
        grey = image.float().mean(0)
        for x1, y1, x2, y2 in target.boxes.round().int().tolist():
            inside = grey[y1 + 3 : y2 - 3, x1 + 3 : x2 - 3]
            assert inside.max() - inside.min() < 6
            middle = (y1 + y2) // 2
            outside = [grey[middle, x].item() for x in (x1 - 3, x2 + 3) if 0 <= x < 160]
            assert all(level < inside.mean() - 15 for level in outside)


@pytest.mark.parametrize("name", NAMES)
def test_images_without_boxes_pass(name):
    augment = AUGMENTATIONS[name]((32, 32))
    torch.manual_seed(2)
    for _ in range(10):
        image, target = augment(picture(), Target.of([], []))
        assert image.shape == (3, 32, 32)
        assert target.boxes.shape == (0, 4)
        assert len(target.difficult) == 0


@pytest.mark.parametrize("name", NAMES)
def test_torch_seed_decides_and_the_input_stays_as_it_is(name):
    augment = AUGMENTATIONS[name]((40, 40))
    image, target = blocks()
    before = image.clone(), target.boxes.clone()
    results = []
    for seed in (3, 3, 4, 5, 6):
        torch.manual_seed(seed)
        results.append(augment(image, target))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1].boxes, results[1][1].boxes)
    assert any(not torch.equal(results[0][0], other[0]) for other in results[2:]) == (name != "none")
    assert torch.equal(image, before[0])
    assert torch.equal(target.boxes, before[1])


def test_a_flip_mirrors_image_and_boxes():
    image, target = blocks()
    plain = AUGMENTATIONS["none"]((60, 80))(image, target)
    assert torch.equal(plain[0], image)
    torch.manual_seed(0)
    outcomes = [AUGMENTATIONS["flip"]((60, 80))(image, target) for _ in range(40)]
    mirrored = [result for result in outcomes if not torch.equal(result[0], image)]
    assert 10 < len(mirrored) < 30
    assert torch.equal(mirrored[0][0], image.flip(-1))
    assert mirrored[0][1].boxes[0].tolist() == [55, 5, 75, 20]


def test_boxes_below_a_pixel_are_dropped():
    target = Target.of([[0, 0, 40, 40], [10, 10, 12, 30]], [0, 1], [True, False])
    _, fitted = AUGMENTATIONS["none"]((15, 20))(picture(), target)
    assert fitted.labels.tolist() == [0]
    assert fitted.difficult.tolist() == [True]
    assert fitted.boxes.tolist() == [[0, 0, 10, 10]]


def test_light_keeps_most_of_the_image_and_an_object_in_it():
    torch.manual_seed(0)
    lone = Target.of([[0, 0, 6, 6]], [0])
    augment = AUGMENTATIONS["light"]((60, 80))
    for _ in range(60):
        _, target = augment(picture(), lone)
        assert len(target.boxes) == 1
        width, height = (target.boxes[0, 2:] - target.boxes[0, :2]).tolist()
        assert 0.3 * 36 - 1e-3 <= width * height <= 36 / 0.6 * 1.1


def test_zooming_out_fills_with_the_mean_colour():
    torch.manual_seed(0)
    augment = AUGMENTATIONS["ssd"]((30, 30))
    white = torch.full((3, 60, 80), 255, dtype=torch.uint8)
    corners = [augment(white, Target.of([[0, 0, 80, 60]], [0]))[0][:, 0, 0].tolist() for _ in range(30)]
    assert [123, 117, 104] in corners


def test_resize_keeps_a_flat_colour_and_is_identity_at_the_same_size():
    assert resize(torch.full((3, 9, 7), 200, dtype=torch.uint8), (20, 31)).unique().tolist() == [200]
    assert torch.equal(resize(picture(), (60, 80)), picture())


@pytest.mark.parametrize(("name", "count"), [("none", 1), ("flip", 2), ("light", None), ("overhead", None)])
def test_an_augmentation_makes_no_more_different_images_than_it_says(name, count):
    assert outcomes_of(name) == count
    augment = AUGMENTATIONS[name]((30, 40))
    torch.manual_seed(0)
    made = {augment(*blocks())[0].numpy().tobytes() for _ in range(20)}
    assert len(made) == count if count else len(made) > 10

"""`predict`: the same for one image as for the batches of an evaluation."""

import pytest
import torch

from detectors.data import build as build_data
from detectors.data.loader import eval_loader
from detectors.evaluation.run import predictions
from detectors.models import build
from detectors.settings import DataConfig, SyntheticConfig

CLASSES = ("cat", "dog", "owl")


@pytest.fixture(scope="module")
def detector():
    torch.manual_seed(0)
    return build("ssd_vgg16_bn", CLASSES, size=[64, 96], width=0.0625).eval()


@pytest.fixture(scope="module")
def images():
    knobs = SyntheticConfig(test=5, size=[80, 100], classes=3)
    return build_data(
        DataConfig(name="synthetic", test=["test"], classes=None, synthetic=knobs), split="test"
    )


def same(one, other) -> bool:
    return all(
        torch.equal(getattr(one, field), getattr(other, field)) for field in ("boxes", "scores", "labels")
    )


def test_one_image_gives_what_evaluation_gives(detector, images):
    loader = eval_loader(images, size=detector.size, batch=1)
    scored = predictions(detector.predict, loader, progress=False)
    assert len(scored.detections) == 5
    for index, found in enumerate(scored.detections):
        assert len(found) > 0
        assert same(detector.predict(images.image(index)), found)


def test_a_batch_gives_what_its_images_give(detector, images):
    batch = next(iter(eval_loader(images, size=detector.size, batch=5)))
    together = detector.predict(batch.images, batch.sizes)
    for index, found in enumerate(together):
        alone = detector.predict(images.image(index))
        # Convolutions may add up in another order for another batch size.
        assert torch.allclose(found.scores, alone.scores, atol=1e-5)


def test_detections_lie_in_the_original_image(detector):
    for height, width in ((64, 96), (33, 200), (400, 20)):
        found = detector.predict(torch.randint(0, 256, (3, height, width), dtype=torch.uint8))
        assert len(found) > 0
        assert (found.boxes >= 0).all()
        assert (found.boxes <= torch.tensor([width, height, width, height])).all()
        assert found.boxes[:, 2].max() > 0.6 * width
        assert found.boxes[:, 3].max() > 0.6 * height
        assert found.labels.max() < len(CLASSES)


def test_bytes_and_floats_of_the_input_size_mean_the_same(detector):
    image = torch.randint(0, 256, (3, 64, 96), dtype=torch.uint8)
    assert same(detector.predict(image), detector.predict(image.float() / 255))


@pytest.mark.parametrize("training", [True, False])
def test_prediction_uses_evaluation_mode_and_leaves_the_mode_alone(detector, images, training):
    expected = detector.eval().predict(images.image(0))
    state = {key: value.clone() for key, value in detector.state_dict().items()}
    detector.train(training)
    found = detector.predict(images.image(0))
    assert {module.training for module in detector.modules()} == {training}
    detector.eval()
    assert same(found, expected)
    assert all(torch.equal(value, state[key]) for key, value in detector.state_dict().items())


def test_a_failed_prediction_leaves_the_mode_alone(detector):
    detector.train()
    with pytest.raises((ValueError, RuntimeError)):
        detector.predict(torch.rand(1, 4, 64, 96), [(64, 96)])
    assert detector.training
    detector.eval()


def test_results_carry_no_gradient(detector):
    found = detector.predict(torch.rand(3, 64, 96))
    assert not found.boxes.requires_grad
    assert not found.scores.requires_grad


@pytest.mark.parametrize(
    ("shape", "sizes", "message"),
    [
        ((64, 96), None, r"one image is \[3, height, width\], got \[64, 96\]; a batch needs its sizes"),
        ((1, 64, 96), None, r"got \[1, 64, 96\]"),
        ((64, 96, 3), None, r"got \[64, 96, 3\]"),
        ((2, 3, 64, 96), None, r"got \[2, 3, 64, 96\]; a batch needs its sizes"),
        ((2, 3, 64, 96), [(64, 96)], None),
        ((1, 3, 128, 96), [(64, 96)], None),
        ((1, 3, 64, 95), [(64, 95)], None),
        ((3, 64, 96), [(64, 96)], None),
    ],
)
def test_a_tensor_of_another_shape_is_a_value_error(detector, shape, sizes, message):
    with pytest.raises(ValueError, match=message):
        detector.predict(torch.rand(shape), sizes)

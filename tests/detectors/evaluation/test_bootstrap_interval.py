"""Resampling by weights is resampling, intervals are honest, and a model does not differ from itself."""

import numpy as np
import pytest

from detectors.errors import DataError
from detectors.evaluation import METRICS
from detectors.evaluation.bootstrap import Difference, interval, paired_difference, resamples, score
from detectors.evaluation.ranking import Ranking, area, average_precisions
from detectors.types import Detections, Target

CLASSES = ("a", "b", "c")
ALL = ["voc07", "voc", "coco"]


@pytest.mark.parametrize("metric", ALL)
def test_weights_of_one_give_the_value(draw, metric: str) -> None:
    detections, targets = draw(0, difficult=0.1, crowd=0.1)
    measured = METRICS[metric](detections, targets, CLASSES)
    assert measured.values(np.ones((3, len(targets)), dtype=np.int32)).tolist() == [measured.value] * 3


@pytest.mark.parametrize("metric", ALL)
def test_weights_equal_images_that_are_really_repeated(draw, metric: str) -> None:
    detections, targets = draw(1, images=12, difficult=0.2, crowd=0.2, detections=25)
    weights = resamples(len(targets), 6, seed=3)
    values = METRICS[metric](detections, targets, CLASSES).values(weights)
    for row, resampled in zip(weights, values, strict=True):
        drawn = np.repeat(np.arange(len(targets)), row)
        again = METRICS[metric]([detections[i] for i in drawn], [targets[i] for i in drawn], CLASSES)
        assert resampled == pytest.approx(again.value, abs=1e-12)


def test_a_class_that_a_resample_misses_is_left_out_of_its_mean(draw) -> None:
    detections, targets = draw(2, images=20, empty=0)
    only_b = next(i for i, target in enumerate(targets) if target.labels.unique().tolist() == [1])
    weights = np.zeros((1, len(targets)), dtype=np.int32)
    weights[0, only_b] = 2
    alone = METRICS["voc"]([detections[only_b]], [targets[only_b]], CLASSES)
    assert METRICS["voc"](detections, targets, CLASSES).values(weights)[0] == pytest.approx(alone.value)


def test_chunks_do_not_show(monkeypatch) -> None:
    random = np.random.default_rng(0)
    hit = random.random((2, 40)) < 0.4
    ignored = ~hit & (random.random((2, 40)) < 0.3)
    ranking = Ranking(random.integers(0, 9, 40), hit, ignored, random.integers(5, 8, 9))
    weights = resamples(9, 50, seed=0)
    whole = average_precisions(ranking, weights, area)
    monkeypatch.setattr("detectors.evaluation.ranking._CHUNK", 120)
    assert (average_precisions(ranking, weights, area) == whole).all()


def test_resamples_draw_as_many_images_as_there_are() -> None:
    weights = resamples(50, 200, seed=0)
    assert (weights.sum(axis=1) == 50).all()
    assert weights.mean(axis=0) == pytest.approx(np.ones(50), abs=0.35)
    assert (weights == resamples(50, 200, seed=0)).all()
    assert (weights != resamples(50, 200, seed=1)).any()


@pytest.mark.parametrize("metric", ALL)
def test_the_interval_holds_the_value_and_depends_on_the_seed_alone(draw, metric: str) -> None:
    detections, targets = draw(0, images=60)
    one, same, other = (
        score(detections, targets, CLASSES, metric=metric, bootstrap=100, seed=seed) for seed in (0, 0, 1)
    )
    assert one.low < one.value < one.high
    assert 0.01 < one.high - one.low < 0.4
    assert (one.low, one.high) == (same.low, same.high)
    assert (one.low, one.high) != (other.low, other.high)


def test_more_images_narrow_the_interval(draw) -> None:
    few, many = (score(*draw(0, images=n), CLASSES, metric="voc", bootstrap=200) for n in (30, 480))
    # 16 times the images: a quarter of the width
    assert (many.high - many.low) / (few.high - few.low) == pytest.approx(0.25, abs=0.12)


def test_the_interval_is_moved_onto_the_value_and_leaves_nan_out() -> None:
    values = np.append(np.linspace(0.4, 0.6, 201), np.nan)
    assert interval(0.48, values) == pytest.approx((0.385, 0.575))
    assert all(np.isnan(interval(0.5, np.array([np.nan]))))


def test_an_interval_stays_within_0_and_1(draw, monkeypatch) -> None:
    monkeypatch.setattr("detectors.evaluation.bootstrap.interval", lambda value, values: (-0.1, 1.2))
    wide = score(*draw(0), CLASSES, metric="voc", bootstrap=5)
    assert (wide.low, wide.high) == (0, 1)


def test_a_perfect_detector_scores_1_for_sure(draw) -> None:
    targets = draw(0, images=30)[1]
    perfect = [Detections(t.boxes, t.labels.float() * 0 + 0.9, t.labels) for t in targets]
    exact = score(perfect, targets, CLASSES, metric="voc", bootstrap=50)
    assert (exact.low, exact.value, exact.high) == (1, 1, 1)


@pytest.mark.parametrize("metric", ALL)
def test_a_model_does_not_differ_from_itself(draw, metric: str) -> None:
    detections, targets = draw(4)
    same = paired_difference(detections, detections, targets, CLASSES, metric=metric, bootstrap=50)
    assert same == Difference(metric, 0.0, 0.0, 0.0, len(targets))
    assert same.is_noise


def shaken(detections: list[Detections], share: float) -> list[Detections]:
    """A model that is worse: a share of its boxes is pushed aside by their own width."""
    random = np.random.default_rng(0)
    result = []
    for one in detections:
        boxes = one.boxes.clone()
        pushed = random.random(len(one)) < share
        boxes[pushed, 0::2] += (boxes[pushed, 2] - boxes[pushed, 0])[:, None]
        result.append(Detections(boxes, one.scores, one.labels))
    return result


def test_a_paired_interval_is_narrower_than_that_of_either_score(draw) -> None:
    detections, targets = draw(5, images=80)
    worse = shaken(detections, 0.02)
    single = score(detections, targets, CLASSES, metric="voc", bootstrap=200)
    drop = paired_difference(detections, worse, targets, CLASSES, metric="voc", bootstrap=200)
    other = score(worse, targets, CLASSES, metric="voc", bootstrap=0)
    assert drop.value == pytest.approx(other.value - single.value, abs=1e-12)
    assert drop.high - drop.low < 0.7 * (single.high - single.low)


def test_a_large_drop_is_not_called_noise(draw) -> None:
    detections, targets = draw(5, images=80)
    drop = paired_difference(
        detections, shaken(detections, 0.6), targets, CLASSES, metric="voc", bootstrap=200
    )
    assert drop.value < drop.high < 0
    assert not drop.is_noise


def test_a_difference_reads_as_one_line() -> None:
    assert Difference("voc", -0.0123, -0.0201, -0.0042, 70).line() == "-0.012 [-0.020, -0.004]"
    assert Difference("voc", -0.0123, -0.0301, 0.0042, 70).line() == "-0.012 [-0.030, +0.004] within noise"


def test_a_comparison_without_ground_is_refused(draw) -> None:
    detections, _ = draw(0, images=2)
    with pytest.raises(DataError, match="no ground to compare two models on"):
        paired_difference(detections, detections, [Target.of([], [])] * 2, CLASSES, metric="voc")
    with pytest.raises(ValueError, match="at least 1 resample"):
        paired_difference(detections, detections, [], CLASSES, metric="voc", bootstrap=0)

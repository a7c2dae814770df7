"""What a report is made of: sentences, judged boxes, labels over pictures, round numbers, chosen images."""

import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from reports import run_folder
from tiny_runs import tiny_detector, tiny_recipe

from compress.ledger import Ledger
from compress.recipe import ReportConfig
from compress.report.boxes import judged, overlap
from compress.report.frames import NARROWEST, panel
from compress.report.page import amount
from compress.report.pictures import FILE, chosen, take
from compress.report.svg import ticks
from compress.report.words import headline, points, reach, times
from detectors.data import build as build_data
from detectors.errors import ConfigError
from detectors.types import Target


def facts_with(change: float, low: float | None, high: float | None, **more: Any) -> dict[str, Any]:
    """The facts of a run of one round, as far as its headline needs them."""
    cost = {"macs": 100, "params": 100, "bytes": 410}
    first = {"cost": cost, "score": {"value": 0.8}, "speed_up": 1.0, "difference": None}
    difference = (
        None if low is None else {"metric": "voc", "value": change, "low": low, "high": high, "images": 40}
    )
    last = {
        "cost": {"macs": 25, "params": 30, "bytes": 100},
        "score": {"value": 0.8 + change},
        "speed_up": 1.9,
        "difference": difference,
    }
    return {
        "state": "finished",
        "stopped": None,
        "shown": 1,
        "metric": {"short": "mAP"},
        "rounds": [first, last | more.pop("last", {})],
        **more,
    }


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        (
            facts_with(-0.004, -0.02, 0.005),
            "1.9 times faster, 4.1 times smaller, mAP −0.4, inside the noise of ±0.9",
        ),
        (
            facts_with(-0.03, -0.04, -0.02),
            "1.9 times faster, 4.1 times smaller, mAP −3.0, outside the noise of ±1.0",
        ),
        (
            facts_with(0.02, -0.01, 0.05),
            "1.9 times faster, 4.1 times smaller, mAP +2.0, inside the noise of ±3.0",
        ),
        (facts_with(-0.02, None, None), "1.9 times faster, 4.1 times smaller, mAP −2.0"),
        (
            facts_with(-0.02, None, None, last={"speed_up": None}),
            "4.0 times fewer multiply-adds, 4.1 times smaller, mAP −2.0",
        ),
        (
            facts_with(0.0001, None, None, last={"speed_up": 0.5}),
            "2.0 times slower, 4.1 times smaller, mAP 0.0",
        ),
        (
            facts_with(0.0, None, None, stopped={"round": 2, "score": 0.61, "below": 0.7}),
            "1.9 times faster, 4.1 times smaller, mAP 0.0; round 1 is kept, for round 2 scored 61.0, below "
            "the 70.0 asked for",
        ),
        (
            facts_with(0.0, None, None, shown=None, stopped={"round": 1, "score": 0.2, "below": 0.7}),
            "No slim model is kept: round 1 scored 20.0, below the 70.0 asked for",
        ),
        (
            {"state": "unfinished", "rounds_done": 1, "rounds_wanted": 3},
            "Not finished: 1 of 3 rounds are done",
        ),
        (
            {"state": "unfinished", "rounds_done": 0, "rounds_wanted": None},
            "Not finished: 0 of the rounds are done",
        ),
    ],
)
def test_the_verdict_is_a_sentence(facts: dict[str, Any], said: str) -> None:
    assert headline(facts) == said


@pytest.mark.parametrize(
    ("value", "low", "high", "noise"),
    [
        (-0.02, -0.05, 0.01, True),
        (-0.02, -0.03, -0.01, False),
        (0.02, -0.001, 0.05, True),
        (0.02, 0.01, 0.05, False),
    ],
)
def test_a_change_is_inside_the_noise_where_it_is_no_larger_than_its_reach(
    value: float, low: float, high: float, noise: bool
) -> None:
    assert (abs(value) <= reach({"value": value, "low": low, "high": high})) == noise


@pytest.mark.parametrize(
    ("ratio", "said"),
    [
        (1.9, "1.9 times faster"),
        (0.5, "2.0 times slower"),
        (1.04, "as fast"),
        (0.96, "as fast"),
        (1.06, "1.1 times faster"),
    ],
)
def test_a_ratio_in_words(ratio: float, said: str) -> None:
    assert times(ratio, "faster", "slower", "as fast") == said


@pytest.mark.parametrize(
    ("value", "plain", "signed"),
    [(0.1234, "12.3", "+12.3"), (-0.0041, "−0.4", "−0.4"), (-0.0001, "0.0", "0.0"), (1.0, "100.0", "+100.0")],
)
def test_points_of_a_hundred(value: float, plain: str, signed: str) -> None:
    assert (points(value), points(value, sign=True)) == (plain, signed)


@pytest.mark.parametrize(
    ("value", "kind", "said"),
    [
        (31_374_000_000, "macs", "31.37 G"),
        (231_900_000, "macs", "231.9 M"),
        (9_600, "macs", "9.6 k"),
        (12, "macs", "12"),
        (959_664, "params", "0.960 M"),
        (3_850_000, "bytes", "3.85 MB"),
        (4.56, "time", "4.6 ms"),
    ],
)
def test_amounts_have_their_unit(value: float, kind: str, said: str) -> None:
    assert amount(value, kind) == said


@pytest.mark.parametrize(
    ("low", "high", "marks"),
    [(0, 96.5, [0, 25, 50, 75, 100]), (91.2, 97.9, [90, 92, 94, 96, 98]), (0, 0.4, [0, 0.1, 0.2, 0.3, 0.4])],
)
def test_marks_of_an_axis_are_round_and_hold_all_values(low: float, high: float, marks: list[float]) -> None:
    assert ticks(low, high) == marks


def box(label: str, place: list[float], score: float | None = None, optional: bool = False) -> dict[str, Any]:
    return {"box": place, "label": label, **({"optional": optional} if score is None else {"score": score})}


def test_boxes_are_judged_by_class_overlap_and_order() -> None:
    here, there, far = [0.0, 0.0, 10.0, 10.0], [20.0, 0.0, 30.0, 10.0], [50.0, 0.0, 60.0, 10.0]
    picture = {
        "truth": [box("cat", here), box("dog", there), box("cat", far, optional=True)],
        "first": [
            box("cat", here, 0.9),
            box("cat", here, 0.95),
            box("cat", there, 0.8),
            box("cat", far, 0.7),
        ],
        "slim": [],
    }
    first, slim = (judged({"pictures": [picture]})["pictures"][0][model] for model in ("first", "slim"))
    # Best first: the second box on one cat is wrong, so is a cat where a dog is; a difficult one excuses.
    assert [(found["score"], found["right"]) for found in first["boxes"]] == [
        (0.95, True),
        (0.9, False),
        (0.8, False),
        (0.7, True),
    ]
    assert (first["found"], first["wrong"]) == (1, 2)
    assert [missed["label"] for missed in first["missed"]] == ["dog"]
    assert (slim["found"], slim["wrong"]) == (0, 0)
    assert [missed["label"] for missed in slim["missed"]] == ["cat", "dog"]


@pytest.mark.parametrize(
    ("other", "iou"),
    [
        ([0, 0, 10, 10], 1.0),
        ([0, 0, 10, 5], 0.5),
        ([5, 0, 15, 10], 1 / 3),
        ([10, 0, 20, 10], 0),
        ([3, 3, 3, 3], 0),
    ],
)
def test_overlap_of_two_boxes(other: list[float], iou: float) -> None:
    assert overlap([0, 0, 10, 10], other) == pytest.approx(iou)


def test_labels_stay_in_the_picture_and_apart_and_every_box_is_drawn() -> None:
    picture = {"name": "one", "width": 320, "height": 240}
    places = [[x, y, x + 60.0, y + 40.0] for x in range(0, 260, 13) for y in range(0, 200, 29)]
    boxes = [box("a rather long name of a class", [float(v) for v in place]) for place in places]
    svg = ElementTree.fromstring(panel(0, "truth", picture, boxes, "labelled"))
    assert len(svg.findall("rect")) == len(boxes)
    height = 240 * NARROWEST / 320
    texts = []
    for text in svg.findall("text"):
        left, base = (float(str(text.get(key)).rstrip("%")) / 100 for key in ("x", "y"))
        assert text.text == "a rather long n…"
        texts.append((left * NARROWEST, base * height))
        assert texts[-1][0] + 6 * 16 <= NARROWEST + 4
        assert 0 <= texts[-1][1] <= height
    assert len(texts) > 5
    for k, (x, y) in enumerate(texts):
        for other_x, other_y in texts[k + 1 :]:
            assert abs(x - other_x) >= 90 or abs(y - other_y) >= 13


class Images:
    """Ten images, of which the even ones have a box, and image 4 only a crowd."""

    def __len__(self) -> int:
        return 10

    def target(self, index: int) -> Target:
        boxes = [] if index % 2 else [[0.0, 0.0, 5.0, 5.0]]
        return Target.of(boxes, [0] * len(boxes), crowd=[index == 4] * len(boxes))


def test_images_with_objects_are_drawn_by_the_seed() -> None:
    images: Any = Images()
    drawn = {seed: chosen(images, 2, seed) for seed in range(20)}
    assert drawn == {seed: chosen(images, 2, seed) for seed in range(20)}
    assert len(set(map(tuple, drawn.values()))) > 1
    assert {index for found in drawn.values() for index in found} == {0, 2, 6, 8}
    assert chosen(images, 9, 0) == [0, 2, 6, 8]


def test_pictures_are_taken_only_of_a_kept_model_and_as_many_as_wanted(tmp_path: Path) -> None:
    recipe = tiny_recipe(rounds=1, epochs=[0])
    recipe.report = ReportConfig(after_cut=False, pictures=0)
    folder = run_folder(tmp_path / "run", recipe)
    assert not (folder / FILE).exists()
    ledger = Ledger(folder / "ledger.jsonl")
    assert ledger.find(1, "cut")["score"] is None
    first, test = tiny_detector(recipe), build_data(recipe.data, "test")
    recipe.report = ReportConfig(pictures=2, picture_score=0.0)
    take(recipe, first, test, folder, ledger)
    text = (folder / FILE).read_text()
    assert len(re.findall(r'"jpeg": "', text)) == 2
    take(recipe, first, test, folder, ledger)
    assert (folder / FILE).read_text() == text
    ledger.add({"round": 1, "phase": "stop", "score": 0.1, "below": 0.5})
    take(recipe, first, test, folder, ledger)
    assert not (folder / FILE).exists()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"pictures": -1}, "report.pictures=-1 does not work: it must be 0 or more"),
        ({"picture_score": 1.5}, "report.picture_score=1.5 does not work: it must be between 0 and 1"),
    ],
)
def test_settings_of_the_report_are_checked(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(said)):
        ReportConfig(**settings)

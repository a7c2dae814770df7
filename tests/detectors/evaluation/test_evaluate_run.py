"""`evaluate` runs, gathers and reports: the same score for any batching and any number of processes."""

import json
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, distributed, multiprocessing

from detectors.errors import ConfigError, DataError
from detectors.evaluation.run import Score, evaluate, predictions, score
from detectors.types import Batch, Detections, Target

CLASSES = ("a", "b", "c")


class Replay:
    """A detector that reads the index of an image from its first pixel and answers from a list."""

    def __init__(self, detections: list[Detections]) -> None:
        self.detections = detections

    def __call__(self, images: Tensor, sizes: list[tuple[int, int]]) -> list[Detections]:
        assert torch.is_inference_mode_enabled()
        assert len(images) == len(sizes)
        return [self.detections[int(image[0, 0, 0])] for image in images]


def batches(targets: list[Target], indices: list[int], size: int) -> list[Batch]:
    parts = [indices[i : i + size] for i in range(0, len(indices), size)]
    return [
        Batch(
            torch.tensor(part, dtype=torch.float32)[:, None, None, None].expand(-1, 3, 2, 2),
            [targets[i] for i in part],
            [(300, 300)] * len(part),
            part,
        )
        for part in parts
    ]


@pytest.mark.parametrize("size", [1, 4, 30])
def test_the_score_does_not_depend_on_batches_or_their_order(draw, size: int) -> None:
    detections, targets = draw(0)
    indices = list(range(len(targets)))[::-1]
    run = evaluate(
        Replay(detections),
        batches(targets, indices, size),
        CLASSES,
        metric="voc",
        bootstrap=20,
        progress=False,
    )
    direct = score(detections, targets, CLASSES, metric="voc", bootstrap=20)
    assert (run.value, run.low, run.high) == (direct.value, direct.low, direct.high)
    assert run.images == len(targets)
    assert 0 <= run.seconds < 5


def run_rank(rank: int, folder: str, detections: list[Detections], targets: list[Target]) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    indices = list(range(len(targets)))
    share = (indices + indices[: len(indices) % 2])[rank::2]  # as DistributedSampler fills up
    run = evaluate(
        Replay(detections), batches(targets, share, 4), CLASSES, metric="voc07", bootstrap=20, progress=False
    )
    Path(folder, f"rank{rank}.json").write_text(json.dumps(run.to_dict()))
    distributed.destroy_process_group()


def test_two_processes_give_the_score_of_one(draw, tmp_path: Path) -> None:
    detections, targets = draw(1, images=15)
    arguments = (str(tmp_path), detections, targets)
    multiprocessing.set_forkserver_preload(["detectors.evaluation.run"])  # imported once for both
    multiprocessing.start_processes(run_rank, arguments, nprocs=2, start_method="forkserver")
    alone = score(detections, targets, CLASSES, metric="voc07", bootstrap=20)
    both = [Score.from_dict(json.loads((tmp_path / f"rank{rank}.json").read_text())) for rank in (0, 1)]
    assert both[0] == both[1]
    assert both[0].images == 15
    assert both[0].per_class == alone.per_class
    assert (both[0].value, both[0].low, both[0].high) == (alone.value, alone.low, alone.high)


def test_predictions_come_in_the_order_of_the_data_set(draw) -> None:
    detections, targets = draw(2, images=7)
    found = predictions(Replay(detections), batches(targets, [3, 6, 0, 1, 5, 2, 4], 3), progress=False)
    assert found.indices == list(range(7))
    assert all(a.scores.equal(b.scores) for a, b in zip(found.detections, detections, strict=True))
    assert all(a.boxes.equal(b.boxes) for a, b in zip(found.targets, targets, strict=True))


def test_a_misspelt_metric_is_said_before_the_first_image() -> None:
    def predict(images: Tensor, sizes: list[tuple[int, int]]) -> list[Detections]:
        raise AssertionError("ran")

    with pytest.raises(ConfigError, match="unknown metric 'vok'"):
        evaluate(predict, batches([Target.of([], [])], [0], 1), CLASSES, metric="vok")


def test_an_empty_loader_is_said() -> None:
    with pytest.raises(DataError, match="the loader gave no image"):
        evaluate(Replay([]), [], CLASSES, metric="voc")


def test_an_image_given_twice_is_refused(draw) -> None:
    detections, targets = draw(0, images=2)
    with pytest.raises(ValueError, match="image 1 twice"):
        evaluate(Replay(detections), batches(targets, [0, 1, 1], 2), CLASSES, metric="voc", progress=False)


def test_predict_must_answer_for_every_image(draw) -> None:
    _, targets = draw(0, images=2)
    with pytest.raises(ValueError, match="predict gave 0 detections and the loader 2 targets for 2 images"):
        predictions(lambda images, sizes: [], batches(targets, [0, 1], 2))


def test_progress_is_plain_lines_where_there_is_no_terminal(draw, capsys, monkeypatch) -> None:
    monkeypatch.setattr("detectors.evaluation.run._SECONDS_BETWEEN_LINES", 0.0)
    detections, targets = draw(0, images=6)
    predictions(Replay(detections), batches(targets, list(range(6)), 3))
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(",")[0] for line in lines] == ["evaluate: 3 images", "evaluate: 6 images"]
    assert all(line.endswith(" images/s") for line in lines)


EXAMPLE = Score(
    metric="voc07",
    label="mAP (voc07)",
    value=0.7741,
    low=0.7609,
    high=0.7862,
    per_class={"aeroplane": 0.8012, "cat": math.nan},
    details={"small": 0.25},
    images=4952,
    seconds=12.5,
)


def test_a_score_reads_as_one_line() -> None:
    assert EXAMPLE.line() == "mAP (voc07) 0.774 [0.761, 0.786] on 4952 images"


def test_a_score_without_bootstrap_has_no_interval(draw) -> None:
    plain = score(*draw(0), CLASSES, metric="voc", bootstrap=0)
    assert math.isnan(plain.low)
    assert plain.line() == f"mAP (voc) {plain.value:.3f} on 30 images"


def test_the_table_is_aligned_markdown() -> None:
    assert EXAMPLE.table().splitlines() == [
        "| class           |     voc07 |",
        "| --------------- | --------: |",
        "| aeroplane       |     0.801 |",
        "| cat             |         - |",
        "| **mAP (voc07)** | **0.774** |",
        "| small           |     0.250 |",
    ]


def test_a_score_survives_json() -> None:
    plain = json.loads(json.dumps(EXAMPLE.to_dict(), allow_nan=False))
    assert plain["per_class"] == {"aeroplane": 0.8012, "cat": None}
    again = Score.from_dict(plain)
    assert math.isnan(again.per_class["cat"])
    assert again.to_dict() == EXAMPLE.to_dict()
    with pytest.raises(TypeError, match="colour"):
        Score.from_dict({**plain, "colour": "red"})

"""Tables of what layers take: measured once, given as measured, kept between runs, refused where they lie."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fake_clock import stairs
from torch import nn
from toys import inputs

from compress.cost import Layer, layers_of
from compress.latency.shapes import Shape, shapes_of
from compress.latency.table import LatencyTable, grid
from detectors.errors import PlanError

FACTS = {"device": "a processor", "engine": "torch", "threads": 2}


class Timer:
    """Gives every shape its time, and notes what was asked."""

    def __init__(self) -> None:
        self.asked: list[Shape] = []

    def __call__(self, shapes: Any) -> list[float]:
        self.asked += shapes
        return [stairs(shape) for shape in shapes]


def layer_of(module: nn.Module, example: torch.Tensor) -> tuple[Layer, dict[str, tuple[Shape, ...]]]:
    """The only layer of a network and the shapes of its calls."""
    model = nn.Sequential(module)
    (layer,) = layers_of(model, example)
    return layer, shapes_of(model, example)


@pytest.mark.parametrize(
    ("width", "multiple", "widths"),
    [
        (64, 8, [1, 8, 16, 24, 32, 40, 48, 56, 64]),
        (3, 8, [1, 3]),
        (100, 8, [1, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 100]),
        (21, 1, [1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 21]),
    ],
)
def test_the_grid_is_fine_below_and_in_steps_of_a_seventh_to_a_quarter_above(
    width: int, multiple: int, widths: list[int]
) -> None:
    assert grid(width, multiple) == widths


def test_measured_times_are_given_as_they_are_and_lie_on_a_line_between() -> None:
    layer, shapes = layer_of(nn.Conv2d(64, 128, 3, padding=1), torch.zeros(1, 64, 10, 10))
    timer = Timer()
    price = LatencyTable(timer, FACTS).price(shapes, {}, 8)
    (shape,) = shapes["0"]
    for read in (8, 24, 64):
        for made in (16, 112, 128):
            assert float(price(layer, read, made)) == stairs(shape.sized(layer, read, made))
    at = {pair: stairs(shape.sized(layer, *pair)) for pair in ((24, 96), (24, 112), (32, 96), (32, 112))}
    middle = price(layer, np.array([24, 28, 28]), np.array([104, 96, 104]))
    wanted = [
        (at[24, 96] + at[24, 112]) / 2,
        (at[24, 96] + at[32, 96]) / 2,
        sum(at.values()) / 4,
    ]
    assert middle.tolist() == pytest.approx(wanted)
    assert len(timer.asked) == len(set(timer.asked))  # nothing twice


def test_a_row_is_measured_at_once_and_only_where_it_is_needed() -> None:
    layer, shapes = layer_of(nn.Conv2d(64, 64, 3), torch.zeros(1, 64, 8, 8))
    timer = Timer()
    price = LatencyTable(timer, FACTS).price(shapes, {}, 8)
    price(layer, np.array([16, 24, 32]), 64)
    assert [(shape.inputs, shape.outputs) for shape in timer.asked] == [(16, 64), (24, 64), (32, 64)]


def test_layers_that_are_called_twice_or_do_not_multiply() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.norm(self.conv(self.conv(x)[..., ::2, ::2]))

    example = torch.zeros(1, 4, 16, 16)
    shapes = shapes_of(Shared(), example)
    assert [shape.size for shape in shapes["conv"]] == [(16, 16), (8, 8)]
    price = LatencyTable(Timer(), FACTS).price(shapes, {"conv": 0.5}, 1)
    conv, norm = layers_of(Shared(), example)
    assert float(price(norm, 4, 4)) == 0
    wanted = sum(stairs(shape.sized(conv, 4, 2)) for shape in shapes["conv"])
    assert float(price(conv, 4, 2)) == pytest.approx(wanted + 0.25)  # what is behind it goes with its outputs


@pytest.mark.parametrize(
    ("module", "sizes"),
    [
        (nn.Conv2d(32, 32, 3, groups=32), [(8, 8), (20, 20), (9, 9)]),
        (nn.Conv2d(16, 32, 3, groups=16), [(8, 16), (9, 18)]),
        (nn.Conv2d(32, 48, 3, groups=2), [(16, 24), (30, 48), (22, 34)]),
        (nn.ConvTranspose2d(16, 24, 2, stride=2), [(8, 24), (13, 11)]),
    ],
)
def test_grouped_layers_are_only_measured_at_widths_that_they_can_have(
    module: nn.Module, sizes: list[tuple[int, int]]
) -> None:
    layer, shapes = layer_of(module, torch.zeros(1, module.in_channels, 8, 8))
    timer = Timer()
    price = LatencyTable(timer, FACTS).price(shapes, {}, 4)
    for read, made in sizes:
        assert float(price(layer, read, made)) > 0
    for shape in timer.asked:
        nn.Conv2d(shape.inputs, shape.outputs, 3, groups=shape.groups)  # or torch complains
        assert (shape.groups == module.groups) != layer.by_group or shape.inputs == module.in_channels


def test_a_table_outlives_its_run_and_is_measured_once(tmp_path: Path) -> None:
    layer, shapes = layer_of(nn.Conv2d(16, 16, 3), inputs()[:, :1].repeat(1, 16, 1, 1))
    path, first, second = tmp_path / "latency.json", Timer(), Timer()
    table = LatencyTable(first, FACTS, path)
    times = table.price(shapes, {}, 8)(layer, np.array([8, 16]), 16)
    assert not path.exists()
    table.save()
    assert json.loads(path.read_text())["facts"] == FACTS
    again = LatencyTable(second, FACTS, path).price(shapes, {}, 8)(layer, np.array([8, 16]), 16)
    assert again.tolist() == times.tolist()
    assert (len(first.asked), second.asked) == (2, [])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"device": "another"}, "was measured with device=a processor, here it is another: its times do not"),
        ({"engine": "onnxruntime"}, "was measured with engine=torch, here it is onnxruntime"),
        ({"threads": 1}, "was measured with threads=2, here it is 1"),
        ({"version": "2.15.0"}, "was measured with version=None, here it is 2.15.0"),
    ],
)
def test_a_table_of_another_machine_or_engine_is_refused(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    path = tmp_path / "latency.json"
    path.write_text(json.dumps({"facts": FACTS, "milliseconds": {}}))
    before = path.read_bytes()
    with pytest.raises(PlanError, match=re.escape(f"{path} {message}")):
        LatencyTable(Timer(), {**FACTS, **change}, path)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"facts": {}, "milliseconds": {"a": "b"}}', '{"facts": 1, "milliseconds": {"a": -1}}'],
)
def test_a_file_that_is_no_table_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "latency.json"
    path.write_text(text)
    with pytest.raises(PlanError, match=re.escape(f"{path} is no table of latencies; ")):
        LatencyTable(Timer(), FACTS, path)

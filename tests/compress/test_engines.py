"""Engines: that they run what they are said to run, the same shapes in both, and with which clock."""

import dataclasses
import importlib.util

import pytest
import torch
from torch import Tensor, nn
from toys import TOYS, ThreeConvs, inputs, made

import compress
from compress.export import onnx_pass
from compress.latency.engines import Conditions, Stopwatch
from compress.latency.onnx_layers import layer_bytes
from compress.latency.shapes import Shape, example_of, module_of, shapes_of
from compress.narrow import multiplies
from detectors.errors import ExportError, PlanError

LAYERS = {
    "plain": (nn.Conv2d(6, 4, 3, padding=1), (6, 9, 7)),
    "strided": (nn.Conv2d(6, 4, (3, 5), stride=(2, 1), padding=(1, 2), bias=False), (6, 9, 7)),
    "dilated": (nn.Conv2d(6, 4, 3, padding=6, dilation=6), (6, 9, 7)),
    "same, uneven": (nn.Conv2d(6, 4, (2, 4), padding="same"), (6, 9, 7)),
    "valid": (nn.Conv2d(6, 4, 3, padding="valid"), (6, 9, 7)),
    "depthwise": (nn.Conv2d(6, 6, 3, groups=6), (6, 9, 7)),
    "grouped": (nn.Conv2d(6, 4, 3, groups=2), (6, 9, 7)),
    "transposed": (nn.ConvTranspose2d(6, 4, 3, stride=2, padding=1, output_padding=1), (6, 5, 5)),
    "one dimension": (nn.Conv1d(6, 4, 3), (6, 9)),
    "linear": (nn.Linear(6, 4), (6,)),
    "linear on rows": (nn.Linear(6, 4, bias=False), (5, 6)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_a_shape_says_all_about_a_layer_and_both_engines_run_it(name: str) -> None:
    layer, size = LAYERS[name]
    ((shape,),) = shapes_of(nn.Sequential(layer), torch.zeros(1, *size)).values()
    twin = module_of(shape)
    assert {k: v.shape for k, v in twin.named_parameters()} == {
        k: v.shape for k, v in layer.named_parameters()
    }
    for batch in (1, 3):
        example = example_of(shape, batch)
        wanted = layer(torch.zeros(batch, *size))
        assert twin(example).numel() == wanted.numel()
        (found,) = onnx_pass(layer_bytes(shape, batch), example, threads=1)()
        assert found.shape == tuple(twin(example).shape)


def test_different_layers_have_different_names() -> None:
    shapes = [
        next(iter(shapes_of(nn.Sequential(layer), torch.zeros(1, *size)).values()))[0]
        for layer, size in LAYERS.values()
    ]
    assert len({str(shape) for shape in shapes}) == len(shapes)
    base = shapes[0]
    for spec in dataclasses.fields(Shape):
        value = getattr(base, spec.name)
        other = {"kind": "transposed", "bias": False, "more": (1, 1), "padding": ((2, 2), (1, 1))}
        changed = other.get(spec.name)
        if changed is None:
            changed = value + 1 if isinstance(value, int) else tuple(each + 1 for each in value)
        assert str(dataclasses.replace(base, **{spec.name: changed})) != str(base), spec.name


class Ticking:
    """A clock that goes on by a millisecond each time that it is looked at."""

    def __init__(self) -> None:
        self.looks = 0

    def __call__(self) -> float:
        self.looks += 1
        return self.looks / 1000


@pytest.mark.parametrize("engine", ["torch", "onnxruntime"])
def test_networks_and_layers_are_timed_by_the_given_clock(engine: str) -> None:
    watch = Stopwatch(engine=engine, batch=2, threads=1, runs=3, clock=Ticking())
    threads, model = torch.get_num_threads(), made(ThreeConvs).train()
    first, second = watch.networks([model, made(ThreeConvs)], inputs())
    assert (first.engine, first.batch, first.threads, first.runs) == (engine, 2, 1, 3)
    assert (first.median_ms, second.p90_ms) == (pytest.approx(1), pytest.approx(1))
    shapes = [shape for found in shapes_of(model, inputs()).values() for shape in found] * 3
    under = Conditions.of(model, inputs())
    assert watch.layers(shapes, under) == pytest.approx([1.0] * 9)
    assert torch.get_num_threads() == threads
    assert model.training
    facts = watch.facts(under)
    assert (facts["engine"], facts["batch"], facts["threads"], facts["dtype"]) == (engine, 2, 1, "float32")


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_networks_and_layers_are_timed_in_the_layout_of_the_inputs(
    layout: torch.memory_format, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[bool] = []

    class Looking(nn.Conv2d):
        def forward(self, input: Tensor) -> Tensor:
            seen.append(input.is_contiguous(memory_format=layout) and self.weight.is_contiguous())
            return super().forward(input)

    network = Looking(3, 4, 3).to(memory_format=torch.channels_last)
    images = torch.rand(1, 3, 8, 8).contiguous(memory_format=layout)
    watch = Stopwatch(batch=2, runs=1)
    shapes = shapes_of(network, images)[""]
    seen.clear()
    watch.networks([network], images)
    assert not network.weight.is_contiguous()
    monkeypatch.setattr("compress.latency.engines.module_of", lambda shape: Looking(3, 4, 3))
    watch.layers(shapes, Conditions.of(network, images))
    assert len(seen) > 2
    assert all(seen)
    name = "channels_last" if layout == torch.channels_last else "default"
    assert watch.facts(Conditions.of(network, images))["layout"] == name
    # onnxruntime has a layout of its own.
    assert Stopwatch("onnxruntime").facts(Conditions.of(network, images))["layout"] == "default"


def test_a_network_sees_as_many_images_as_the_batch_says() -> None:
    seen: list[int] = []

    class Counting(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(len(x))
            return x

    Stopwatch(batch=5, runs=1).networks([Counting()], torch.zeros(1, 3, 4, 4))
    assert set(seen) == {5}


def test_what_lies_behind_a_layer_is_timed_up_to_the_next_one() -> None:
    clock = Ticking()

    class Slow(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            clock.looks += 40
            return x

    model = nn.Sequential(nn.Conv2d(3, 4, 1), Slow(), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1), Slow())
    found = Stopwatch(runs=3, clock=clock).between(model, torch.zeros(1, 3, 4, 4))
    assert found == {"0": pytest.approx(41), "2": pytest.approx(1), "3": pytest.approx(41)}
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model)


@pytest.mark.parametrize("kind", TOYS, ids=lambda kind: kind.__name__)
def test_every_layer_that_multiplies_has_a_shape(kind: type[nn.Module]) -> None:
    model = made(kind)
    multiplying = {name for name, module in model.named_modules() if multiplies(module)}
    assert set(shapes_of(model, inputs())) == multiplying


def test_settings_that_no_stopwatch_has() -> None:
    assert compress.Stopwatch is Stopwatch
    with pytest.raises(PlanError, match="engine='onnx' is unknown; known: onnxruntime, torch"):
        Stopwatch(engine="onnx")
    with pytest.raises(PlanError, match="batch=0 is not a whole number of 1 or more"):
        Stopwatch(batch=0)


def test_an_engine_that_is_not_installed_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    absent = {"onnxruntime", "onnx"}
    monkeypatch.setattr("compress.export.find_spec", lambda name: None if name in absent else real(name))
    message = r"packages that are not installed \(onnx, onnxruntime\): pip install 'slimdet\[export\]'"
    with pytest.raises(ExportError, match=message):
        Stopwatch(engine="onnxruntime").check()
    Stopwatch(engine="torch").check()

"""What runs and times networks and single layers: torch on any device, onnxruntime on the CPU."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from compress.environment import cores, processor
from compress.export import need_packages, onnx_bytes, onnx_pass
from compress.inputs import Inputs, call, changed, tensors_in
from compress.latency.passes import Latency, device_of, finish, in_turn, quantiles
from compress.latency.shapes import Shape, example_of, module_of
from compress.narrow import multiplies
from detectors.errors import PlanError
from detectors.memory_format import in_channels_last, in_layout, weights_in_default_layout
from detectors.modes import evaluating
from detectors.registry import did_you_mean

Engine: TypeAlias = Literal["torch", "onnxruntime"]
ENGINES = ("torch", "onnxruntime")

# Layers timed in turn, at most: their inputs and weights are in memory together.
_TOGETHER = 8


@dataclass(frozen=True)
class Conditions:
    """What a layer's time depends on beside its shape and the engine.

    Attributes:
        device: where the network is.
        dtype: of its weights.
        channels_last: memory layout of its maps.
    """

    device: torch.device
    dtype: torch.dtype
    channels_last: bool

    @classmethod
    def of(cls, network: nn.Module, inputs: Inputs) -> "Conditions":
        """Those under which a network takes its inputs."""
        given = list(tensors_in(inputs))
        like = next(network.parameters(), given[0])
        return cls(like.device, like.dtype, any(map(in_channels_last, given)))

    def placed(self, tensor: Tensor) -> Tensor:
        """A tensor as a layer reads it."""
        return in_layout(tensor.to(self.device, self.dtype), self.channels_last)


@dataclass(frozen=True)
class Stopwatch:
    """How times are taken.

    Attributes:
        engine: a name of `ENGINES`.
        batch: images in a pass.
        threads: CPU threads of the engine; None: as many as torch has.
        runs: timed passes behind each median.
        table: file that keeps the times of layers; None: the caller's, or none.
        clock: gives seconds; tests give one of their own.
    """

    engine: Engine = "torch"
    batch: int = 1
    threads: int | None = None
    runs: int = 20
    table: Path | None = None
    clock: Callable[[], float] = time.perf_counter

    def __post_init__(self) -> None:
        if self.engine not in ENGINES:
            raise PlanError(f"engine={self.engine!r} is unknown{did_you_mean(str(self.engine), ENGINES)}")
        for name in ("batch", "threads", "runs"):
            value = getattr(self, name)
            if value is not None and not (isinstance(value, int) and value >= 1):
                raise PlanError(f"{name}={value!r} is not a whole number of 1 or more")

    def check(self) -> None:
        """Raises ExportError where the engine is not installed."""
        if self.engine == "onnxruntime":
            need_packages()

    def facts(self, under: Conditions) -> dict[str, str | int]:
        """All that decides what a layer takes beside its shape; onnxruntime has its own device and layout."""
        torchs = self.engine == "torch"
        cuda = torchs and under.device.type == "cuda"
        return {
            "device": torch.cuda.get_device_name(under.device) if cuda else processor(),
            "cores": cores(),
            "engine": self.engine,
            "batch": self.batch,
            "threads": self.threads or torch.get_num_threads(),
            "dtype": str(under.dtype).removeprefix("torch.") if torchs else "float32",
            "layout": "channels_last" if torchs and under.channels_last else "default",
            "version": version(self.engine),
        }

    def networks(self, networks: Sequence[nn.Module], inputs: Inputs) -> list[Latency]:
        """Times whole networks in turn, each pass of all before the next.

        Args:
            networks: in torch, on the device of the inputs; timed in evaluation mode and with weights in the
                default layout, as files give them, and left as they are.
            inputs: what they take, batch 1, in the layout to time.
        """
        inputs = changed(inputs, self._batched)
        first = next(tensors_in(inputs))
        with weights_in_default_layout(*networks), self._running(*networks) as threads:
            calls = [self._pass(network, inputs, threads) for network in networks]
            times = in_turn(calls, runs=self.runs, clock=self.clock, finish=self._finish(first.device))
        device = device_of(first) if self.engine == "torch" else "cpu"
        return [
            Latency(*quantiles(row), self.runs, self.batch, threads, device, self.engine) for row in times
        ]

    def layers(self, shapes: Sequence[Shape], under: Conditions) -> list[float]:
        """Median milliseconds of single layers with random weights, a few of them in turn.

        Args:
            shapes: of the layers.
            under: as in the network that they are from.
        """
        found: list[float] = []
        with self._running() as threads:
            for start in range(0, len(shapes), _TOGETHER):
                some = shapes[start : start + _TOGETHER]
                calls = [self._layer_pass(shape, under, threads) for shape in some]
                times = in_turn(calls, runs=self.runs, clock=self.clock, finish=self._finish(under.device))
                found += [quantiles(row)[0] for row in times]
        return found

    def between(self, network: nn.Module, inputs: Inputs) -> dict[str, float]:
        """Layer that multiplies -> median milliseconds from its end to the next one's start, or to the end.

        In torch these are activations, norms and pooling, which take time in proportion to the channels that
        the layer makes. onnxruntime runs them within the layers: there is nothing to tell apart.
        """
        if self.engine != "torch":
            return {}
        inputs = changed(inputs, self._batched)
        marks: list[tuple[str, float]] = []

        def mark(name: str) -> Callable[..., None]:
            def note(*_: Any) -> None:
                finish(next(tensors_in(inputs)).device)
                marks.append((name, self.clock()))

            return note

        hooks = []
        passes: list[dict[str, float]] = []
        with self._running(network):
            for name, module in network.named_modules():
                if multiplies(module):
                    hooks += [
                        module.register_forward_pre_hook(mark("")),
                        module.register_forward_hook(mark(name)),
                    ]
            try:
                for _ in range(self.runs):
                    marks.clear()
                    call(network, inputs)
                    mark("")()
                    passes.append(_gaps(marks))
            finally:
                for hook in hooks:
                    hook.remove()
        names = passes[0]
        return {
            name: quantiles(torch.tensor([one[name] for one in passes], dtype=torch.float64))[0]
            for name in names
        }

    @contextmanager
    def _running(self, *networks: nn.Module) -> Iterator[int]:
        """Evaluation mode without gradients, on the wanted number of threads, which it gives."""
        self.check()
        before = torch.get_num_threads()
        threads = self.threads or before
        torch.set_num_threads(threads)
        try:
            with torch.inference_mode(), evaluating(*networks):
                yield threads
        finally:
            torch.set_num_threads(before)

    def _pass(self, network: nn.Module, inputs: Inputs, threads: int) -> Callable[[], object]:
        if self.engine == "torch":
            return lambda: call(network, inputs)
        with torch.inference_mode(False):
            return onnx_pass(onnx_bytes(network, inputs), inputs, threads)

    def _layer_pass(self, shape: Shape, under: Conditions, threads: int) -> Callable[[], object]:
        if self.engine == "torch":
            layer = module_of(shape).to(under.device, under.dtype)
            example = under.placed(example_of(shape, self.batch))
            return lambda: layer(example)
        from compress.latency.onnx_layers import layer_bytes  # imports onnx, which is an extra

        return onnx_pass(layer_bytes(shape, self.batch), example_of(shape, self.batch), threads)

    def _batched(self, tensor: Tensor) -> Tensor:
        """A tensor of one image, or of none, for as many images as are in a pass."""
        if not tensor.ndim:
            return tensor
        return in_layout(tensor.repeat(self.batch, *[1] * (tensor.ndim - 1)), in_channels_last(tensor))

    def _finish(self, device: torch.device) -> Callable[[], None]:
        return (lambda: finish(device)) if self.engine == "torch" else (lambda: None)


def _gaps(marks: Sequence[tuple[str, float]]) -> dict[str, float]:
    """Milliseconds from each named mark to the one behind it, summed where a layer is called again."""
    found: dict[str, float] = {}
    for (name, ended), (_, started) in pairwise(marks):
        if name:
            found[name] = found.get(name, 0.0) + (started - ended) * 1000
    return found

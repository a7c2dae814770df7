"""Networks as ONNX: a file is left under its name only where onnxruntime gives what torch gives."""

import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from compress.inputs import Inputs, call, changed, copied, tensors_in
from detectors.errors import ExportError, some
from detectors.files import write_whole
from detectors.modes import evaluating

# Largest difference of a map over its largest absolute value. Both add the same float32 numbers in another
# order, and batch norms are folded: 1e-6 to 1e-5 was seen over all detectors.
LARGEST = 1e-4

# One pass of a graph, and its maps as numpy arrays.
Pass: TypeAlias = Callable[[], list[Any]]

_PACKAGES = ("onnx", "onnxscript", "onnxruntime")


class _Flat(nn.Module):
    """A network that takes tensors by place and returns a flat tuple of them, as an ONNX graph does."""

    def __init__(self, network: nn.Module, names: tuple[str, ...]) -> None:
        super().__init__()
        self.network, self.names = network, names

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        inputs = dict(zip(self.names, tensors, strict=True)) if self.names else tensors
        return tuple(tensors_in(call(self.network, inputs)))


class Dense(nn.Module):
    """What of a detector is exported: `[1, 3, H, W]` float32, 0..1 RGB, to its raw head maps."""

    def __init__(self, detector: Any) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, images: Tensor) -> Any:
        """As `Detector.dense`."""
        return self.detector.dense(images)


def need_packages() -> None:
    """Raises ExportError, naming the extra to install, unless all that ONNX needs is there."""
    missing = [package for package in _PACKAGES if find_spec(package) is None]
    if missing:
        raise ExportError(
            "export.onnx=true and engine=onnxruntime need packages that are not installed "
            f"({some(missing)}): pip install 'slimdet[export]'"
        )


def export(network: nn.Module, inputs: Inputs, path: Path) -> float:
    """Writes a network as ONNX, checked against torch.

    The graph takes what the network takes, in these shapes and float32, as `images` (several: `input_1`,
    `input_2`, ...), and returns the network's tensors in their order as `map_1`, `map_2`, ...

    Args:
        network: on any device; exported in evaluation mode and left alone.
        inputs: an example, on which torch and onnxruntime are compared.
        path: of the file, which is only there afterwards if all maps agree.

    Returns:
        The largest difference of a map to torch's, as a share of its largest absolute value.

    Raises:
        ExportError: packages that are not installed, a network that torch cannot export, or a map that
            differs by `LARGEST` or more.
        RunError: the file cannot be written.
    """
    need_packages()
    path.unlink(missing_ok=True)  # an older file of that name must not pass for this network's
    content = onnx_bytes(network, inputs)
    largest = check_parity(network, inputs, content, path)
    write_whole(path, content)
    return largest


def onnx_bytes(network: nn.Module, inputs: Inputs) -> bytes:
    """The ONNX graph of `export`, without the comparison; raises ExportError."""
    need_packages()
    flat, example = _flattened(network, inputs)
    many = len(example) > 1
    try:
        with warnings.catch_warnings(), torch.no_grad(), evaluating(flat):
            warnings.simplefilter("ignore")  # they speak to the exporter's authors, not to ours
            outputs = flat(*example)
            program: Any = torch.onnx.export(
                flat,
                example,
                dynamo=True,
                external_data=False,
                verbose=False,
                input_names=[f"input_{k}" for k in range(1, len(example) + 1)] if many else ["images"],
                output_names=[f"map_{k}" for k in range(1, len(outputs) + 1)],
            )
            content: bytes = program.model_proto.SerializeToString()
    except Exception as error:  # of torch, onnxscript or protobuf: their kinds are many
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise ExportError(
            f"torch cannot export this network to ONNX: {reason}; do without export.onnx=true and "
            "engine=onnxruntime"
        ) from error
    return content


def onnx_pass(content: bytes, inputs: Inputs, threads: int) -> Pass:
    """One pass of an ONNX graph through onnxruntime on the CPU.

    Args:
        content: the graph.
        inputs: in the order of the graph's own.
        threads: that share one operation.
    """
    need_packages()
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3  # errors; warnings are about its own optimiser
    # Threads that spin after a pass would take the cores from whatever is timed in turn with this one.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    tensors = [_plain(tensor).numpy() for tensor in tensors_in(inputs)]
    fed = {one.name: tensor for one, tensor in zip(session.get_inputs(), tensors, strict=True)}
    return lambda: session.run(None, fed)


def check_parity(network: nn.Module, inputs: Inputs, content: bytes, path: Path) -> float:
    """The largest relative difference of a map between onnxruntime and torch.

    Raises:
        ExportError: it is `LARGEST` or more.
    """
    flat, example = _flattened(network, inputs)
    with torch.no_grad(), evaluating(flat):
        wanted = flat(*example)
    found = onnx_pass(content, example, torch.get_num_threads())()
    shares = [0.0]
    for place, (ours, theirs) in enumerate(zip(wanted, found, strict=True), start=1):
        shares.append(relative_difference(ours, torch.from_numpy(theirs)))
        if not shares[-1] < LARGEST:  # what is no number is not below it either
            raise ExportError(
                f"{path}: map {place} of {len(wanted)}, {list(ours.shape)}, differs from torch's by "
                f"{shares[-1]:.1e} of its largest value, and less than {LARGEST:.0e} is asked; no file "
                "is left. See that the network gives the same each time for an image, or keep to its .pth"
            )
    return max(shares)


def relative_difference(wanted: Tensor, found: Tensor) -> float:
    """The largest difference of two maps over the largest absolute value of the wanted one.

    inf for maps of different shapes; nan where a map holds nan.
    """
    if wanted.shape != found.shape:
        return float("inf")
    if wanted.numel() == 0:
        return 0.0
    least = torch.finfo(torch.float32).tiny
    return float((wanted - found).abs().max() / wanted.abs().max().clamp(min=least))


def _flattened(network: nn.Module, inputs: Inputs) -> tuple[nn.Module, tuple[Tensor, ...]]:
    names = tuple(inputs) if isinstance(inputs, dict) else ()
    return _Flat(copied(network, _plain), names), tuple(tensors_in(changed(inputs, _plain)))


def _plain(tensor: Tensor) -> Tensor:
    plain = tensor.detach().cpu()
    return plain.float() if plain.is_floating_point() else plain

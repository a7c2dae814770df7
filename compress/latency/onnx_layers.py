"""Single layers as ONNX graphs, written directly: the exporter would take a second for each."""

from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from compress.latency.shapes import Shape

# What torch's exporter writes too.
_OPSET, _IR = 20, 10


def layer_bytes(shape: Shape, batch: int) -> bytes:
    """The graph of one layer with random weights, float32, for so many images; made by `onnx` itself."""
    draw = np.random.default_rng(0)
    weight: tuple[int, ...]
    sizes: tuple[int, ...]
    if shape.kind == "linear":
        weight, sizes = (shape.outputs, shape.inputs), (batch * shape.size[0], shape.inputs)
        node = helper.make_node("Gemm", _inputs(shape), ["map"], transB=1)
    else:
        read, made = shape.inputs, shape.outputs
        first, second = (read, made) if shape.kind == "transposed" else (made, read)
        weight, sizes = (first, second // shape.groups, *shape.kernel), (batch, read, *shape.size)
        befores, behinds = zip(*shape.padding, strict=True)
        options: dict[str, Any] = {
            "kernel_shape": shape.kernel,
            "strides": shape.stride,
            "dilations": shape.dilation,
            "pads": [*befores, *behinds],
            "group": shape.groups,
        }
        if shape.kind == "transposed":
            options["output_padding"] = shape.more
        kind = "ConvTranspose" if shape.kind == "transposed" else "Conv"
        node = helper.make_node(kind, _inputs(shape), ["map"], **options)
    constants = [numpy_helper.from_array(draw.standard_normal(weight, dtype=np.float32), "weight")]
    if shape.bias:
        constants.append(
            numpy_helper.from_array(draw.standard_normal(shape.outputs, dtype=np.float32), "bias")
        )
    graph = helper.make_graph(
        [node],
        "layer",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, sizes)],
        [helper.make_tensor_value_info("map", TensorProto.FLOAT, None)],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR)
    content: bytes = model.SerializeToString()
    return content


def _inputs(shape: Shape) -> list[str]:
    return ["images", "weight", "bias"] if shape.bias else ["images", "weight"]

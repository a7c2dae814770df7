"""The layout of training: on a CPU, oneDNN writes past its memory for narrow strided shortcuts."""

import copy

import pytest
import torch
from torch import nn

from detectors import build
from detectors.memory_format import in_channels_last, to_channels_last


def last(x: torch.Tensor) -> torch.Tensor:
    return x.contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(("inputs", "guarded"), [(3, True), (8, True), (15, True), (16, False), (24, False)])
def test_only_a_narrow_strided_1x1_convolution_computes_in_the_default_layout(
    inputs: int, guarded: bool
) -> None:
    torch.manual_seed(0)
    plain = nn.Conv2d(inputs, 16, 1, stride=2)
    layer = copy.deepcopy(plain)
    to_channels_last(layer)
    to_channels_last(layer)
    assert len(layer._forward_pre_hooks) == 1
    layouts = []
    layer.register_forward_pre_hook(
        lambda _, x: layouts.append(not x[0].is_contiguous(memory_format=torch.channels_last))
    )
    x = torch.rand(3, inputs, 72, 80)
    # Without the guard these passes end the process, at the latest after a few.
    for _ in range(5):
        layer.zero_grad()
        layer(last(x)).square().sum().backward()
    plain(x).square().sum().backward()
    assert set(layouts) == {guarded}
    assert (layer.weight.stride() == (inputs, 1, 1, 1)) == guarded
    # Sums of 3 * 36 * 40 float32 products in another order.
    torch.testing.assert_close(layer.weight.grad, plain.weight.grad, rtol=1e-4, atol=1e-3)


def test_a_narrow_resnet_trains_also_after_a_copy_and_a_cut() -> None:
    torch.manual_seed(0)
    detector = build("ssd", ["a", "b"], backbone="resnet18", width=0.25, size=(300, 300)).train()
    to_channels_last(detector)
    shortcut = next(
        layer
        for layer in detector.modules()
        if isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1) and layer.stride == (2, 2)
    )
    assert shortcut.in_channels == 16
    for model in (detector, copy.deepcopy(detector)):
        for layer in model.modules():
            if isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1) and layer.stride == (2, 2):
                layer.weight = nn.Parameter(layer.weight[:, :8].contiguous(memory_format=torch.channels_last))
                layer.in_channels = 8
                layer(last(torch.rand(3, 8, 72, 80))).sum().backward()
                assert layer.weight.stride()[1:] == (1, 1, 1)


def test_images_are_predicted_in_the_layout_that_convolutions_prefer() -> None:
    torch.manual_seed(0)
    detector = build("ssd_vgg16_bn", ["a"], size=(64, 64), width=0.125).eval()
    layouts: list[bool] = []
    for layer in detector.modules():
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_pre_hook(
                lambda _, x: layouts.append(in_channels_last(x[0]) or x[0].shape[2:] == (1, 1))
            )
    detector.predict(torch.randint(0, 256, (3, 50, 60), dtype=torch.uint8))
    images = torch.rand(2, 3, 64, 64)
    first = detector.predict(images, [(64, 64)] * 2)
    assert len(layouts) > 20
    assert all(layouts)
    with torch.inference_mode():
        other = detector.detect(detector(images), [(64, 64)] * 2)
    for one, two in zip(first, other, strict=True):
        # The same float32 products in another order.
        torch.testing.assert_close(one.scores, two.scores, rtol=1e-4, atol=1e-5)

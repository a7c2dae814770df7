"""ONNX files: there only if onnxruntime gives what torch gives, map by map."""

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from toys import Normed, ThreeConvs, inputs, made

from compress.export import LARGEST, check_parity, export, onnx_bytes, relative_difference
from detectors.errors import ExportError


def ran(path: Path, *tensors: Tensor) -> list[np.ndarray[Any, Any]]:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_inputs()]
    return session.run(None, {n: t.numpy() for n, t in zip(names, tensors, strict=True)})


def test_the_file_gives_the_maps_of_the_network_in_order(tmp_path: Path) -> None:
    model, path = made(Normed).train(), tmp_path / "net.onnx"
    example = torch.rand(inputs().shape, generator=torch.Generator().manual_seed(1))
    assert 0 <= export(model, inputs(), path) < LARGEST
    assert model.training
    model.eval()
    with torch.no_grad():
        wanted = [level for (level,) in model(example)]
    for ours, theirs in zip(wanted, ran(path, example), strict=True):
        torch.testing.assert_close(torch.from_numpy(theirs), ours, rtol=1e-4, atol=1e-5)  # float32, reordered
    session = onnxruntime.InferenceSession(path)
    assert [one.name for one in session.get_inputs()] == ["images"]
    assert [one.name for one in session.get_outputs()] == ["map_1", "map_2"]
    assert [file.name for file in tmp_path.iterdir()] == ["net.onnx"]


def test_networks_that_take_tensors_by_name(tmp_path: Path) -> None:
    class Two(nn.Module):
        def forward(self, *, left: Tensor, right: Tensor) -> dict[str, Tensor]:
            return {"difference": left - right}

    one, other = torch.rand(1, 2), torch.rand(1, 2)
    export(Two(), {"left": one, "right": other}, tmp_path / "two.onnx")
    assert torch.equal(torch.from_numpy(ran(tmp_path / "two.onnx", one, other)[0]), one - other)


class Drifting(nn.Module):
    """Its second map is another one at each call."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        self.calls += 1
        return x + 1, x * self.calls


def test_a_map_that_differs_leaves_no_file_not_even_an_older_one(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    path.write_text("of an earlier network")
    with pytest.raises(ExportError) as caught:
        export(Drifting(), torch.ones(1, 3, 4, 4), path)
    assert str(caught.value).startswith(f"{path}: map 2 of 2, [1, 3, 4, 4], differs from torch's by ")
    assert "less than 1e-04 is asked; no file is left" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_parity_is_asked_of_each_map_by_its_own_size(tmp_path: Path) -> None:
    class Scaled(nn.Module):
        """A large map and a small one, of which the small one is off by a thousandth of itself."""

        def __init__(self, off: float) -> None:
            super().__init__()
            self.off = off

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return x * 1e6, x * 1e-6 * (1 + self.off)

    content, x = onnx_bytes(Scaled(1e-3), torch.ones(1, 2)), torch.ones(1, 2)
    with pytest.raises(ExportError, match=r"map 2 of 2, \[1, 2\], differs from torch's by 1\.0e-03"):
        check_parity(Scaled(0.0), x, content, tmp_path / "net.onnx")
    assert check_parity(Scaled(0.99e-3), x, content, tmp_path / "net.onnx") == pytest.approx(1e-5, rel=0.1)


def test_differences_that_are_no_numbers() -> None:
    ones = torch.ones(2)
    assert relative_difference(ones, 1.5 * ones) == 0.5
    assert relative_difference(0 * ones, 0 * ones) == 0
    assert relative_difference(ones, torch.ones(3)) == float("inf")
    assert not relative_difference(ones, ones * float("nan")) < LARGEST
    assert not relative_difference(ones * float("inf"), ones) < LARGEST


def test_a_network_that_cannot_be_exported_is_one_line(tmp_path: Path) -> None:
    class Looking(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * len([v for v in x.flatten().tolist() if v > 0.5])

    with pytest.raises(ExportError) as caught:
        export(Looking(), torch.rand(1, 3), tmp_path / "net.onnx")
    assert str(caught.value).startswith("torch cannot export this network to ONNX: ")
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_package_that_is_not_installed_is_named_before_the_older_file_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "net.onnx"
    path.write_text("of an earlier network")
    monkeypatch.setattr("compress.export.find_spec", lambda name: None)
    with pytest.raises(ExportError, match=r"not installed \(onnx, onnxscript, onnxruntime\): pip"):
        export(made(ThreeConvs), inputs(), path)
    assert path.exists()

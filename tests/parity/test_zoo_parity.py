"""Every reference pack: the same keys, shapes, default boxes and outputs as the original network."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from detectors import dialects
from detectors.errors import CheckpointError
from tests.parity.__main__ import main
from tests.parity.fill import difference
from tests.parity.reference import TOLERANCE, compare, detector_of, published_in, shapes

PACKS = Path(__file__).parent / "packs"
ALL = sorted(path.relative_to(PACKS).with_suffix("").as_posix() for path in PACKS.rglob("*.json"))


def test_there_are_packs_of_all_four_systems():
    assert len(ALL) == 31
    assert {name.split("/")[0] for name in ALL} == {"ssd.pytorch", "refinedet.pytorch", "ssds", "tencent"}


@pytest.mark.parametrize("name", ALL)
def test_the_network_is_the_original(name):
    found = compare(PACKS / f"{name}.json")
    assert found.passed, found.line()
    assert found.differences


@pytest.mark.parametrize("name", ALL)
def test_keys_and_shapes_alone_tell_the_network(name):
    pack = json.loads((PACKS / f"{name}.json").read_text())
    if name.startswith("refinedet.pytorch"):
        with pytest.raises(CheckpointError, match="refinedet320_vgg16 or refinedet512_vgg16 have"):
            dialects.recognise(shapes(pack), name)
        return
    found = dialects.recognise(shapes(pack), name)
    described = published_in({key: value for key, value in pack.items() if key != "outputs"})
    assert (found.name, found.classes) == (described.name, described.classes)
    assert found.options.get("backbone") == described.options.get("backbone")
    assert found.state.keys() == described.state.keys()


def test_a_changed_weight_fails(tmp_path, capsys):
    name = "ssd_lite_mobilenetv2_train_voc"
    pack = json.loads((PACKS / "ssds" / f"{name}.json").read_text())
    pack["keys"]["loc.0.bias"]["fill"] = "gamma"
    file = tmp_path / f"{name}.json"
    file.write_text(json.dumps(pack))
    file.with_suffix(".npz").write_bytes((PACKS / "ssds" / f"{name}.npz").read_bytes())
    assert main([str(file), str(PACKS / "ssds" / "ssd_resnet50_train_voc.json")]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"FAIL {name}: ")
    told = dict(part.rsplit(" ", 1) for part in lines[0].partition(": ")[2].split(", "))
    assert float(told["loc"]) > 0.1
    assert float(told["conf"]) < TOLERANCE
    assert lines[1].startswith("PASS ssd_resnet50_train_voc: priors ")
    assert lines[2] == "1 of 2 packs pass"


def test_a_network_that_is_not_there_fails_by_name(tmp_path, capsys):
    pack = json.loads((PACKS / "ssds" / "ssd_resnet50_train_voc.json").read_text())
    pack["model"]["SSDS"] = "retina"
    (tmp_path / "a.json").write_text(json.dumps(pack))
    assert main([str(tmp_path / "a.json")]) == 1
    assert "FAIL ssd_resnet50_train_voc: unknown detector 'retina'" in capsys.readouterr().out


def test_without_a_pack_the_command_says_how_to_call_it(capsys):
    assert main([]) == 2
    assert capsys.readouterr().out.startswith("python -m tests.parity PACK.json")


def test_a_pack_gives_a_detector_that_finds_objects():
    pack = json.loads((PACKS / "ssds" / "ssd_lite_mobilenetv2_train_voc.json").read_text())
    found = detector_of(pack).predict(torch.rand(3, 40, 60))
    assert found.boxes.shape[1] == 4


def test_an_output_that_is_not_finite_differs_from_everything():
    assert difference(torch.full((4,), torch.nan), np.zeros(4, dtype=np.float32)) == float("inf")

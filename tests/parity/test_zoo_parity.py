"""Every reference pack: the same keys, shapes, default boxes and outputs as the original network."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from detectors import dialects
from detectors.errors import CheckpointError
from tests.parity import reference
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
    assert found.differences.get("priors", 0) <= 1e-6


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


def test_a_file_without_the_key_that_tells_its_network_names_the_nearest_one():
    state = shapes(json.loads((PACKS / "tencent/resnet.json").read_text()))
    del state["base.4.conv3.weight"]
    nearest = "ssd backbone=resnet50 layout=tencent"
    with pytest.raises(CheckpointError, match=rf"{nearest}\b.* \S+ is missing$") as caught:
        dialects.recognise(state, "x.pth")
    assert str(caught.value).count("missing") == 1


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


def pack_of(name):
    return json.loads((PACKS / "ssds" / f"{name}.json").read_text())


def written(tmp_path, pack, like=None):
    """A changed pack as a file, with the samples of an unchanged one."""
    file = tmp_path / "changed.json"
    file.write_text(json.dumps(pack))
    if like is not None:
        file.with_suffix(".npz").write_bytes((PACKS / "ssds" / f"{like}.npz").read_bytes())
    return file


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_outputs_that_are_not_finite_fail(monkeypatch, value):
    original = reference.tensors_of

    def broken(detector, images):
        found = original(detector, images)
        return found | {"conf": torch.full_like(found["conf"], value)}

    monkeypatch.setattr(reference, "tensors_of", broken)
    found = compare(PACKS / "ssds" / "ssd_lite_mobilenetv2_train_voc.json")
    assert not found.passed
    assert found.fault == "conf has values that are not finite"


def test_a_single_output_that_is_not_a_number_fails_though_no_sample_is_taken_there(monkeypatch):
    original = reference.tensors_of

    def broken(detector, images):
        found = original(detector, images)
        found["conf"].flatten()[1] = float("nan")
        return found

    monkeypatch.setattr(reference, "tensors_of", broken)
    assert not compare(PACKS / "ssds" / "ssd_lite_mobilenetv2_train_voc.json").passed


def test_lists_of_ratios_without_a_1_build_heads_without_squares(tmp_path):
    pack = pack_of("ssd_resnet50_train_voc")
    pack["model"]["ASPECT_RATIOS"] = [[2, 3]] * 4 + [[2]] * 2
    for k, count in enumerate((4, 4, 4, 4, 2, 2)):
        for head, columns in (("loc", 4), ("conf", 21)):
            for part in ("weight", "bias"):
                pack["keys"][f"{head}.{k}.{part}"]["shape"][0] = count * columns
    del pack["parameters"], pack["priors"]
    found = compare(written(tmp_path, pack))
    assert found.line() == "PASS ssd_resnet50_train_voc: keys and shapes"


def test_a_narrow_mobilenet_stands_under_further_maps_of_the_depths_that_are_given(tmp_path):
    pack = pack_of("ssd_lite_mobilenetv1_train_voc")
    del pack["outputs"], pack["parameters"]
    pack["model"]["NETS"] = "mobilenet_v1_075"
    pack["model"]["FEATURE_LAYER"][1][:2] = [384, 768]
    for key, entry in pack["keys"].items():
        shape = entry["shape"]
        if key.startswith("base."):
            entry["shape"] = [n * 3 // 4 if n >= 32 else n for n in shape]
        elif key == "norm.weight":
            entry["shape"] = [384]
        elif key in ("loc.0.weight", "conf.0.weight"):
            shape[1] = 384
        elif key in ("loc.1.weight", "conf.1.weight", "extras.0.0.weight"):
            shape[1] = 768
    found = compare(written(tmp_path, pack))
    assert found.passed, found.line()
    assert list(found.differences) == ["priors"]


def test_sizes_as_two_shares_are_spread_over_the_maps():
    model = pack_of("ssd_resnet50_train_voc")["model"] | {"SIZES": [0.2, 0.95], "STEPS": []}
    boxes = reference._boxes(model)
    assert boxes["sizes"] == pytest.approx([60, 105, 150, 195, 240, 285, 300])
    assert boxes["steps"] == []
    assert "squares" not in boxes


@pytest.mark.parametrize("ratios", [[[1, 2]] * 5 + [[2]], [[2, 1]] * 6])
def test_boxes_in_an_order_that_ours_cannot_give_are_a_fault(tmp_path, ratios):
    pack = pack_of("ssd_resnet50_train_voc")
    pack["model"]["ASPECT_RATIOS"] = ratios
    assert "have a 1 on some maps only, or not in front" in compare(written(tmp_path, pack)).fault


def test_right_samples_do_not_hide_that_the_priors_differ_as_a_whole(tmp_path):
    name = "ssd_lite_mobilenetv2_train_voc"
    pack = pack_of(name)
    pack["priors"]["mean"] += 0.1
    found = compare(written(tmp_path, pack, like=name))
    assert not found.passed
    assert found.differences["priors"] == pytest.approx(0.1, rel=1e-3)


def test_what_is_no_pack_fails_and_the_next_one_is_still_compared(tmp_path, capsys):
    (tmp_path / "text.json").write_text("no JSON")
    (tmp_path / "empty.json").write_text("{}")
    (tmp_path / "list.json").write_text("[]")
    without_samples = written(tmp_path, pack_of("ssd_lite_mobilenetv2_train_voc"))
    good = PACKS / "ssds" / "ssd_resnet50_train_voc.json"
    names = ("missing", "text", "empty", "list")
    assert main([*(str(tmp_path / f"{name}.json") for name in names), str(without_samples), str(good)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines[:4]] == [f"FAIL {name}" for name in names]
    assert lines[4].startswith(
        "FAIL ssd_lite_mobilenetv2_train_voc: it is not in the packs' format: KeyError 'loc'"
    )
    assert lines[5].startswith("PASS ssd_resnet50_train_voc: priors ")
    assert lines[6] == "1 of 6 packs pass"


def test_outputs_of_the_pruned_original_are_named_as_left_out():
    found = compare(PACKS / "tencent" / "vgg.json")
    assert found.passed
    assert found.line().endswith("; not compared here: pruned_out0, pruned_out1, pruned_out2")

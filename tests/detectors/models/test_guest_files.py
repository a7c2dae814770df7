"""The guests filled from torchvision's weight files, those of COCO and older ones included."""

import pytest
import torch
from torchvision.models import detection
from torchvision_originals import (
    CLASSES,
    FASTER_MOBILE,
    FCOS,
    GUESTS,
    RETINANET,
    SSD,
    SSDLITE,
    filled,
    guest,
    image,
    original,
    ours,
)

import detectors
from detectors.dialects.torchvision import COCO_CLASSES, COCO_COLUMNS, key_of, name_of, picked
from detectors.errors import CheckpointError
from detectors.models import build


def older(name, state):
    """The state dict as torchvision wrote it when the published files were made."""

    def key_then(key):
        for part in ("inner_blocks", "layer_blocks"):
            for level in range(4):
                key = key.replace(f"backbone.fpn.{part}.{level}.0.", f"backbone.fpn.{part}.{level}.")
        if name == RETINANET:
            for layer in range(4):
                key = key.replace(f"_head.conv.{layer}.0.", f"_head.conv.{2 * layer}.")
        return key.replace("rpn.head.conv.0.0.", "rpn.head.conv.")

    return {key_then(key): value for key, value in state.items()}


@pytest.mark.parametrize("name", GUESTS)
def test_files_old_and_new_tell_their_name(name):
    with torch.device("meta"):
        state = original(name).state_dict()
    before = older(name, state)
    assert (before.keys() == state.keys()) == (name in (SSD, SSDLITE))
    assert name_of(state) == name_of(before) == name
    assert [key_of(name, key) for key in before] == [key_of(name, key) for key in state]


@pytest.mark.parametrize("name", [SSDLITE, RETINANET, FCOS, FASTER_MOBILE])
def test_the_file_of_a_model_loads_by_its_keys_alone(name, tmp_path):
    model = original(name)
    torch.save(older(name, model.state_dict()), tmp_path / "model.pth")
    options = {} if name == SSDLITE else {"size": [64, 100]}
    loaded = detectors.load(tmp_path / "model.pth", classes=CLASSES, **options)
    assert (loaded.spec.name, loaded.spec.classes) == (name, CLASSES)
    wanted = filled(name, model).state_dict()
    state = loaded.state_dict()
    assert state.keys() == wanted.keys()
    assert all(torch.equal(state[key], wanted[key]) for key in wanted)


@pytest.mark.parametrize("name", [SSDLITE, RETINANET, FCOS, FASTER_MOBILE])
def test_the_columns_of_a_coco_file_are_found_by_name(name, tmp_path):
    model = original(name, classes=91)
    chosen = ("zebra", "person", "hair drier")
    torch.save(model.state_dict(), tmp_path / "coco.pth")
    found = detectors.load(tmp_path / "coco.pth", name, chosen, size=guest(name).size)
    columns = [0, *(COCO_COLUMNS.index(one) for one in chosen)]
    assert columns == [0, 24, 1, 89]
    with torch.no_grad():
        if name == FASTER_MOBILE:
            crops = torch.rand(2, 1024)
            logits, deltas = model.roi_heads.box_predictor(crops)
            mine, boxes = found.model.roi_heads.box_predictor(crops)
            assert torch.allclose(boxes.view(2, 4, 4), deltas.view(2, 91, 4)[:, columns], atol=1e-6)
        else:
            images = found.network.padded(found.normalise(image(name)))
            logits = model.head(list(model.backbone(images).values()))["cls_logits"]
            mine = torch.cat(found.heads(found(image(name)))["cls_logits"], dim=1)
        assert torch.allclose(mine, logits[..., columns], rtol=1e-4, atol=1e-4)


def test_all_eighty_classes_of_coco_and_the_places_of_their_ids_fit(tmp_path):
    model = original(SSDLITE, classes=91)
    torch.save(model.state_dict(), tmp_path / "coco.pth")
    assert len(COCO_CLASSES) == len(set(COCO_CLASSES)) == 80
    key = "head.classification_head.module_list.0.1.weight"
    eighty = detectors.load(tmp_path / "coco.pth", classes=COCO_CLASSES)
    assert len(eighty.network.state_dict()[f"model.{key}"]) == 6 * 81
    ninety = detectors.load(tmp_path / "coco.pth", classes=[f"place {number}" for number in range(1, 91)])
    assert torch.equal(ninety.network.state_dict()[f"model.{key}"], model.state_dict()[key])
    fresh = detectors.load(tmp_path / "coco.pth", classes=CLASSES, ignore_classes=True)
    assert len(fresh.network.state_dict()[f"model.{key}"]) == 6 * 4
    assert len(fresh.meta["left_out"]) == 2 * 6


@pytest.mark.parametrize(
    ("classes", "names", "message"),
    [
        (4, ("cat", "dog"), "model.pth is of 3 classes, but 2 names were given"),
        (
            91,
            ("cat", "dgo"),
            "model.pth: the file has COCO's 80 classes, and 'dgo' is none of them; did you mean",
        ),
        (91, ("N/A",), "'N/A' is none of them.*; for other classes say load.classes=ignore"),
    ],
)
def test_classes_that_a_file_does_not_have_are_one_clear_error(classes, names, message, tmp_path):
    torch.save(original(SSDLITE, classes).state_dict(), tmp_path / "model.pth")
    with pytest.raises(CheckpointError, match=message):
        detectors.load(tmp_path / "model.pth", classes=names)


def test_only_a_file_of_coco_is_taken_apart():
    assert picked(ours(FCOS, original(FCOS, classes=12)), CLASSES) is None


@pytest.mark.parametrize("builder", ["fasterrcnn_resnet50_fpn_v2", "maskrcnn_resnet50_fpn"])
def test_a_model_that_is_no_guest_is_not_taken_for_one(builder):
    with torch.device("meta"):
        model = getattr(detection, builder)(weights=None, weights_backbone=None)
    assert name_of(model.state_dict()) is None
    assert name_of(build("ssd300_vgg16", CLASSES).network.state_dict()) is None

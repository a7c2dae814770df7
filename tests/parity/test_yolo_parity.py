"""YOLOv2 and YOLOv3 equal ssds.pytorch's, tensor by tensor."""

from pathlib import Path

import pytest
import torch

from detectors.dialects import recognise
from detectors.dialects.ssds import key_of
from detectors.models import build
from detectors.models.base import Detector
from detectors.models.yolo_networks import Reorg
from tests.parity.fill import difference, filled, load, network_input, sampled

PACKS = Path(__file__).parent / "packs" / "ssds"
TOLERANCE = 5e-4  # the packs' README: float32 noise of the originals stays below 1e-4
NAMES = {
    "yolo_v2_darknet19_voc": "darknet19",
    "yolo_v2_mobilenetv1_voc": "mobilenet_v1",
    "yolo_v2_mobilenetv2_voc": "mobilenet_v2",
    "yolo_v3_darknet53_voc": "darknet53",
    "yolo_v3_mobilenetv1_voc": "mobilenet_v1",
    "yolo_v3_mobilenetv2_voc": "mobilenet_v2",
}
# The two with outputs and few weights; `python -m tests.parity` takes the others.
LIGHT = ("yolo_v2_mobilenetv2_voc", "yolo_v3_mobilenetv2_voc")


def published(name: str) -> Detector:
    """Our detector as published: no option but the backbone."""
    return build(name[:7], [f"class {k}" for k in range(20)], backbone=NAMES[name])


def test_every_pack_here_is_used():
    assert {path.stem for path in PACKS.glob("yolo_*.json")} == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_keys_shapes_and_parameters_are_the_originals(name):
    pack, _ = load(PACKS / name)
    with torch.device("meta"):
        network = published(name).network
    ours = {key: list(value.shape) for key, value in network.state_dict().items()}
    rename = key_of(name[:7])
    theirs = {rename(key): entry["shape"] for key, entry in pack["keys"].items()}
    assert ours == theirs
    assert sum(p.numel() for p in network.parameters()) == pack["parameters"]


@pytest.mark.parametrize("name", LIGHT)
def test_outputs_and_priors_equal_the_reference(name):
    pack, arrays = load(PACKS / name)
    detector = published(name).eval()
    rename = key_of(name[:7])
    detector.network.load_state_dict({rename(key): value for key, value in filled(pack).items()})
    with torch.no_grad():
        outputs = detector.outputs(detector.network(network_input(pack)))
    assert list(outputs.deltas.shape) == pack["outputs"]["loc"]["shape"]
    assert list(outputs.logits.shape) == pack["outputs"]["conf"]["shape"]
    assert difference(outputs.deltas, arrays["loc"]) < TOLERANCE
    assert difference(outputs.logits, arrays["conf"]) < TOLERANCE
    assert abs(sampled(detector.anchors) - arrays["priors"]).max() <= 1e-6


@pytest.mark.parametrize("name", NAMES)
def test_the_keys_alone_tell_which_network_a_file_is_of(name):
    pack, _ = load(PACKS / name)
    with torch.device("meta"):
        state = {key: torch.empty(entry["shape"]) for key, entry in pack["keys"].items()}
        found = recognise(state, name)
    assert (found.name, found.options, found.classes) == (name[:7], {"backbone": NAMES[name]}, 20)


def test_reorg_takes_neighbours_apart_in_the_order_of_the_original():
    image = torch.arange(32.0).reshape(1, 2, 4, 4)
    found = Reorg(2)(image)
    assert found.shape == (1, 8, 2, 2)
    # Channels 0 and 1 of the even rows and columns, then of the even rows and odd columns, ...
    assert found[0, :, 0, 0].tolist() == [0, 16, 1, 17, 4, 20, 5, 21]
    assert found[0, 3].tolist() == [[17, 19], [25, 27]]

"""The key names of published weight files, turned into ours."""

import re
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from detectors.errors import CheckpointError

_STEP = re.compile(r"^(vgg|base)\.(\d+)\.(weight|bias)$")


@dataclass(frozen=True)
class Published:
    """A recognised file.

    Attributes:
        name: of the detector that its keys and shapes belong to.
        classes: number of classes without the background.
        state: tensors under the keys of our `network`.
    """

    name: str
    classes: int
    state: dict[str, Tensor]

    def options(self, path: str, given: dict[str, Any]) -> dict[str, Any]:
        """Builder options that the class count tells; raises CheckpointError where it does not."""
        known = {20: "voc", 80: "coco"}
        if "anchors" in given:
            return {}
        if self.classes not in known:
            raise CheckpointError(
                f"{path} is ambiguous: weights of {self.classes} classes do not tell their default boxes; "
                "pass anchors='voc' or 'coco' (in a recipe: detector.options.anchors)"
            )
        return {"anchors": known[self.classes]}


def tensors(payload: Any, path: str) -> dict[str, Tensor]:
    """The state dict in a file's content, without a wrapper's key and DataParallel's `module.` prefix."""
    for key in ("state_dict", "model", "state"):
        if isinstance(payload, dict) and isinstance(payload.get(key), dict):
            payload = payload[key]
    if (
        not isinstance(payload, dict)
        or not payload
        or not all(isinstance(v, Tensor) for v in payload.values())
    ):
        raise CheckpointError(
            f"{path} holds no state dict of tensors; save one with torch.save(model.state_dict(), PATH)"
        )
    return {str(key).removeprefix("module."): value for key, value in payload.items()}


def recognise(state: dict[str, Tensor], path: str) -> Published:
    """Finds which published network a state dict is of: ssd.pytorch's keys, or the 2018 tool's `base.`.

    Raises:
        CheckpointError: a backbone alone, or keys of no known network.
    """
    if all(re.match(r"^(features\.)?\d+\.(weight|bias)$", key) for key in state):
        raise CheckpointError(
            f"{path} holds a backbone alone; name the detector and give the file as "
            f"detector.backbone_weights={path}"
        )
    heads = sum(bool(re.match(r"^conf\.\d+\.weight$", key)) for key in state)
    names = {6: "ssd300_vgg16", 7: "ssd512_vgg16"}
    is_ssd = any(_STEP.match(key) for key in state) and "L2Norm.weight" in state
    if not is_ssd or heads not in names or "conf.0.weight" not in state:
        sample = ", ".join(list(state)[:3])
        raise CheckpointError(
            f"{path} is of no network known here (keys such as {sample}); known: {', '.join(names.values())}"
        )
    # Four anchors stand in each cell of the first map.
    outputs, rest = divmod(state["conf.0.weight"].shape[0], 4)
    if rest or outputs < 2:
        raise CheckpointError(
            f"{path}: conf.0.weight has {state['conf.0.weight'].shape[0]} channels, which are not 4 anchors "
            "times (1 + classes): it was trained with other default boxes"
        )
    return Published(names[heads], outputs - 1, {_network_key(key): value for key, value in state.items()})


def backbone(state: dict[str, Tensor], path: str) -> dict[str, Tensor]:
    """A backbone's tensors under our `features.N` keys; raises CheckpointError for anything else."""
    pattern = re.compile(r"^(?:features\.|vgg\.|base\.)?(\d+\.\w+)$")
    found = {f"features.{match[1]}": value for key, value in state.items() if (match := pattern.match(key))}
    if len(found) != len(state):
        odd = next(key for key in state if not pattern.match(key))
        raise CheckpointError(
            f"{path} is not a backbone alone (key {odd}); give a whole detector as model={path}"
        )
    return found


def _network_key(key: str) -> str:
    key = _STEP.sub(r"backbone.features.\2.\3", key)
    key = re.sub(r"^extras\.(\d+)\.", r"extras.\1.0.", key)
    return key.replace("L2Norm.weight", "norm.weight")

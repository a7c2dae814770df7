"""What every detector can do: forward, loss, detect, and the verbs built on them."""

from collections.abc import Sequence
from typing import Any, overload

import torch
from torch import Tensor, nn

from detectors.anchors import AnchorSpec
from detectors.boxes import decode
from detectors.errors import ConfigError
from detectors.images import resize
from detectors.losses.multibox import multibox_loss
from detectors.memory_format import in_layout
from detectors.models.layers import Normalise
from detectors.modes import evaluating
from detectors.postprocess import PostprocessOptions, select
from detectors.shapes_only import ShapesOnly
from detectors.types import ClassLogits, Comparable, Detections, DetectorSpec, Outputs, Target

HeadMaps = list[tuple[Tensor, Tensor]]


class Detector(nn.Module):
    """A network that gives head maps, and what turns them into losses and detections.

    As it stands it is a single-shot detector with softmax heads, whose anchors say what the maps mean. What
    the commands ask of every detector are the verbs `losses` and `predict` with `dense` and `network`, and
    `spec`, `size`, `postprocess` and `meta`: a detector of another kind overrides `outputs`, `loss` and
    `detect`, or, where proposals need the targets, `losses` and `found`, and may have no `anchors`. To be
    distilled by its predictions it overrides `comparable` too.

    Args:
        spec: what rebuilds the full detector.
        network: normalised images -> for each level (class logits, box deltas), `[B, per_cell * K, h, w]`;
            `per_cell` consecutive blocks of K = 1 + num_classes, or 4, channels.
        anchors: default boxes of the levels; None where a subclass makes its own from the maps.
        size: (height, width) of the input.
        normalise: what the network's weights expect.

    Attributes:
        postprocess: thresholds of `detect`; free to change.
        match_iou: overlap from which `loss` takes an anchor for an object, 0..1; free to change.
        negatives: mined background anchors for each positive one of an image; free to change.
        meta: plain data that its file carries along: `parent` is the fingerprint of what it started from.
        anchors: `[A, 4]` float32 centre form, 0..1; absent where none were given.
    """

    anchors: Tensor

    def __init__(
        self,
        spec: DetectorSpec,
        network: nn.Module,
        anchors: AnchorSpec | None,
        size: tuple[int, int],
        normalise: Normalise,
    ) -> None:
        super().__init__()
        self.spec = spec
        self.normalise = normalise
        self.network = network
        self.postprocess = PostprocessOptions()
        self.match_iou = 0.5
        self.negatives = 3.0
        self.meta: dict[str, Any] = {}
        self.size = (size[0], size[1])
        if anchors is not None:
            boxes = anchors.boxes(self.size, checked_map_sizes(spec.name, network, self.size))
            # Not in the state dict: spec and size say all about them.
            self.register_buffer("anchors", boxes, persistent=False)

    @property
    def num_classes(self) -> int:
        """Number of classes, without the background."""
        return len(self.spec.classes)

    def dense(self, images: Tensor) -> HeadMaps:
        """`[B, 3, H, W]`, 0..1 -> for each level (logits, deltas) before flattening.

        Traced, counted, exported.
        """
        maps: HeadMaps = self.network(self.normalise(images))
        return maps

    def forward(self, images: Tensor) -> Outputs:
        """`[B, 3, H, W]`, 0..1 -> raw outputs of all anchors, the same in training and evaluation."""
        return self.outputs(self.dense(images))

    def outputs(self, maps: HeadMaps) -> Outputs:
        """Head maps to one row for each anchor, in the order of `anchors`."""
        columns = 1 + self.num_classes
        logits = [level.permute(0, 2, 3, 1).reshape(len(level), -1, columns) for level, _ in maps]
        deltas = [level.permute(0, 2, 3, 1).reshape(len(level), -1, 4) for _, level in maps]
        return Outputs(torch.cat(logits, dim=1), torch.cat(deltas, dim=1))

    def loss(self, outputs: Outputs, targets: Sequence[Target]) -> dict[str, Tensor]:
        """Named loss terms, scalars whose sum is minimised; target boxes in pixels of the network's input."""
        height, width = self.size
        scale = self.anchors.new_tensor([width, height, width, height])
        return multibox_loss(
            outputs,
            self.anchors,
            [t.boxes / scale for t in targets],
            [t.labels for t in targets],
            threshold=self.match_iou,
            negatives=self.negatives,
        )

    def detect(self, outputs: Outputs, sizes: Sequence[tuple[int, int]]) -> list[Detections]:
        """Raw outputs to detections in pixels of the original images, whose (height, width) are `sizes`."""
        scores = outputs.logits.float().softmax(dim=-1)[..., 1:]
        boxes = decode(outputs.deltas.float(), self.anchors)
        return [select(s, b, size, self.postprocess) for s, b, size in zip(scores, boxes, sizes, strict=True)]

    def comparable(self, outputs: Any) -> Comparable | None:
        """How raw outputs are set beside those of another detector with the same anchors: for distillation.

        As it stands, softmax heads with the background in column 0 and offsets from fixed anchors. A detector
        whose `Outputs` mean something else overrides this.

        Returns:
            None where no row answers to the same row of the other: outputs of another kind than `Outputs`.
        """
        if not isinstance(outputs, Outputs):
            return None
        classes = ClassLogits(outputs.logits.float(), softmax=True, background=True)
        return Comparable((classes,), outputs.deltas.float())

    def found(self, images: Tensor, sizes: Sequence[tuple[int, int]]) -> list[Detections]:
        """Forward and detect in one, in the mode that the detector is in: what `predict` calls."""
        return self.detect(self(images), sizes)

    def pass_through(self, images: Tensor) -> None:
        """Runs images through every layer, as `found` does, for what looks on: what calibration calls."""
        self(images)

    def losses(self, images: Tensor, targets: Sequence[Target]) -> dict[str, Tensor]:
        """Forward and loss in one: what the training loop calls."""
        return self.loss(self(images), targets)

    @overload
    def predict(self, images: Tensor) -> Detections: ...
    @overload
    def predict(self, images: Tensor, sizes: Sequence[tuple[int, int]]) -> list[Detections]: ...

    @torch.inference_mode()
    def predict(
        self, images: Tensor, sizes: Sequence[tuple[int, int]] | None = None
    ) -> Detections | list[Detections]:
        """Finds objects, in evaluation mode, whatever mode the detector is in.

        Args:
            images: one image `[3, h, w]` of any size, uint8 or float 0..1; or with `sizes` a batch `[B, 3, H,
                W]` of float 0..1 that already has the input size.
            sizes: (height, width) of the original images of a batch.

        Returns:
            Detections of the one image, or a list with those of each image of the batch.

        Raises:
            ValueError: a tensor of another shape or type.
        """
        single = sizes is None
        if sizes is not None:
            wanted = (len(sizes), 3, *self.size)
            if images.shape != wanted or not images.is_floating_point():
                got = f"{images.dtype} {list(images.shape)}"
                raise ValueError(f"a batch of {len(sizes)} images is float {list(wanted)}, got {got}")
        else:
            if images.ndim != 3 or images.shape[0] != 3:
                raise ValueError(
                    f"one image is [3, height, width], got {list(images.shape)}; a batch needs its sizes"
                )
            sizes = [(images.shape[1], images.shape[2])]
            images = resize(images, self.size)[None].to(next(self.parameters()).device)
            images = images.float() / 255 if images.dtype == torch.uint8 else images
        with evaluating(self):  # convolutions hand the layout of the images on, and are quicker in this one
            found = self.found(in_layout(images, channels_last=True), sizes)
        return found[0] if single else found


def checked_map_sizes(name: str, network: nn.Module, size: tuple[int, int]) -> list[tuple[int, int]]:
    """As `map_sizes`; raises ConfigError, with a size that fits, where a map would be empty."""
    try:
        return map_sizes(network, size)
    except RuntimeError as error:
        raise ConfigError(
            f"{name}: size={list(size)} does not fit its maps{_fitting(network, size)}"
        ) from error


def _fitting(network: nn.Module, size: tuple[int, int]) -> str:
    """The nearest larger multiples of 32 that the maps can take."""
    for more in range(1, 17):
        grown = (size[0] // 32 * 32 + 32 * more, size[1] // 32 * 32 + 32 * more)
        try:
            map_sizes(network, grown)
        except RuntimeError:
            continue
        return f"; {list(grown)} does"
    return ""


def map_sizes(network: nn.Module, size: tuple[int, int]) -> list[tuple[int, int]]:
    """(height, width) of each map that a network gives for an input of that size; no arithmetic is done.

    Args:
        network: returns a list of maps, or for each level a tuple of maps of one size.
        size: (height, width) of the input.
    """
    state = {name: tensor.to("meta") for name, tensor in network.state_dict(keep_vars=True).items()}
    # In evaluation mode: batch norm in training mode refuses a map of one cell.
    with torch.no_grad(), evaluating(network), ShapesOnly():
        maps = torch.func.functional_call(network, state, torch.empty(1, 3, *size, device="meta"))
    firsts = (level if isinstance(level, Tensor) else level[0] for level in maps)
    return [(level.shape[2], level.shape[3]) for level in firsts]

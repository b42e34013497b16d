"""The detector: a backbone with torchvision's Mask R-CNN behind it; saved, loaded, and run."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN, MaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import (
    FastRCNNConvFCHead,
    FastRCNNPredictor,
    TwoMLPHead,
)
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.ops.feature_pyramid_network import FeaturePyramidNetwork, LastLevelMaxPool

from anyregion.backbones.encoder import Encoder, eval_mode
from anyregion.backbones.stages import maps_along, pyramid_modules
from anyregion.errors import CheckpointError
from anyregion.images import Pixels
from anyregion.masks import RLE, encode_mask
from anyregion.torch_utils.weights import (
    compare_shapes,
)
from anyregion.transfer.detection_config import DetectorConfig
from anyregion.transfer.folder import find_folder, read_parts, save_folder

HEADS, DESCRIPTION = "heads.safetensors", "detector.json"
FORMAT = "anyregion.detector/1"
_ENCODER = "network.backbone.encoder."
_POOLED, _BOX_CONVOLUTIONS, _MASK_CONVOLUTIONS = 7, 4, 4


class PyramidBackbone(nn.Module):
    """An encoder's maps of strides 4 to 32, and one of 64, all with the same channels."""

    def __init__(self, encoder: Encoder, channels: int, *, norm: bool) -> None:
        super().__init__()
        self.encoder, self.out_channels = encoder, channels
        self.names = pyramid_modules(encoder)
        with eval_mode(encoder):
            maps = maps_along(encoder, torch.zeros(1, 3, 64, 64), self.names)[1]
        self.pyramid = FeaturePyramidNetwork(
            [m.shape[1] for m in maps],
            channels,
            extra_blocks=LastLevelMaxPool(),
            norm_layer=nn.BatchNorm2d if norm else None,
        )
        _freeze_beyond(encoder, self.names)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """`(B, 3, H, W)` to the pyramid's maps, by torchvision's names for them."""
        maps = maps_along(self.encoder, images, self.names)[1]
        named = OrderedDict((str(i), m) for i, m in enumerate(maps))
        pyramid: dict[str, Tensor] = self.pyramid(named)
        return pyramid


class DetectorBatch:
    """Images and what there is on them, as torchvision's detectors take them.

    No dataclass and no container: mixed precision would round what it finds in those to bfloat16,
    and coordinates of 800 pixels to multiples of four.

    Attributes:
        images: `(3, H, W)` float32 each, RGB in 0 to 1.
        targets: `boxes` (xyxy), `labels` (from 1) and `masks` of each; None to detect.
    """

    def __init__(
        self, images: list[Tensor], targets: list[dict[str, Tensor]] | None = None
    ) -> None:
        self.images, self.targets = images, targets


@dataclass(frozen=True, eq=False)
class DetectedRegions:
    """The detections of one image, best first.

    Attributes:
        boxes: `(N, 4)` xyxy in pixels of the image.
        labels: `(N,)` positions in the detector's classes.
        scores: `(N,)`.
        masks: of the image's size; None where the detector has no mask head.
    """

    boxes: NDArray[np.float64]
    labels: NDArray[np.int64]
    scores: NDArray[np.float64]
    masks: tuple[RLE, ...] | None


class Detector(nn.Module):
    """Mask R-CNN, or Faster R-CNN, on an encoder.

    Args:
        encoder: becomes part of it.
        classes: what it tells apart; torchvision's class 0 is the background before them.
        frozen: the encoder stays in evaluation mode and asks for no gradient.
    """

    def __init__(
        self,
        encoder: Encoder,
        classes: Sequence[str],
        config: DetectorConfig,
        *,
        frozen: bool = False,
    ) -> None:
        super().__init__()
        self.classes, self.config, self.frozen = tuple(classes), config, frozen
        self.network = _build_network(encoder, len(self.classes) + 1, config)
        if frozen:
            encoder.requires_grad_(False)
        elif config.norm == "frozen":
            for part in _batch_norms(encoder):
                part.requires_grad_(False)

    @property
    def encoder(self) -> Encoder:
        """The backbone."""
        encoder: Encoder = self.network.backbone.encoder
        return encoder

    def train(self, mode: bool = True) -> Detector:
        """As `nn.Module`'s; what is frozen stays in evaluation."""
        super().train(mode)
        if self.frozen:
            self.encoder.eval()
        elif self.config.norm == "frozen":
            for part in _batch_norms(self.encoder):
                part.eval()
        return self

    def forward(self, batch: DetectorBatch) -> Any:
        """torchvision's losses by name in training, else its detections of each image."""
        return self.network(batch.images, batch.targets)

    @torch.no_grad()
    def predict(self, pixels: Pixels) -> DetectedRegions:
        """The detections of one image. In evaluation mode only."""
        device = next(self.parameters()).device
        output = self(DetectorBatch([as_image(pixels, device)]))[0]
        masks = None
        if self.config.masks:
            inside = (output["masks"][:, 0] > 0.5).cpu().numpy()  # (N, H, W)
            masks = tuple(encode_mask(mask) for mask in inside)
        return DetectedRegions(
            output["boxes"].double().cpu().numpy(),
            output["labels"].cpu().numpy() - 1,
            output["scores"].double().cpu().numpy(),
            masks,
        )


def as_image(pixels: Pixels, device: torch.device) -> Tensor:
    """`(3, H, W)` float32 in 0 to 1, as torchvision's detectors take an image."""
    image = torch.from_numpy(np.ascontiguousarray(pixels)).to(device)
    return image.permute(2, 0, 1).float() / 255


def save_detector(detector: Detector, folder: Path, **about: Any) -> None:
    """Write the backbone as a folder of its own, the rest of the weights, and what both are.

    Raises:
        AnyRegionError: it cannot be written.
    """
    save_folder(
        folder,
        detector.encoder,
        _heads(detector),
        {
            "format": FORMAT,
            "classes": list(detector.classes),
            "detector": asdict(detector.config),
            "about": about,
        },
        head=HEADS,
        description=DESCRIPTION,
        transferred_to="detection",
    )


def load_detector(folder: str | Path) -> Detector:
    """A detector as `save_detector` wrote it, or a run that holds one as `model/`.

    It is on the CPU, in evaluation mode.

    Raises:
        CheckpointError: files are missing, malformed, or not of one another.
    """
    place, content = find_folder(folder, DESCRIPTION, FORMAT)
    classes, config = _read_info(place / DESCRIPTION, content)
    encoder, state = read_parts(place, content, head=HEADS, description=DESCRIPTION)
    detector = Detector(encoder, classes, config)
    if problem := compare_shapes(state, _heads(detector)):
        raise CheckpointError(f"{place / HEADS}: of another detector: {problem}")
    detector.load_state_dict(state, strict=False)
    return detector.eval()


def _read_info(path: Path, content: dict[str, Any]) -> tuple[tuple[str, ...], DetectorConfig]:
    classes, stated = content.get("classes"), content.get("detector")
    try:
        if not isinstance(classes, list) or not all(isinstance(c, str) for c in classes):
            raise ValueError("classes are no names")
        if not isinstance(stated, dict) or stated.keys() != {
            f.name for f in fields(DetectorConfig)
        }:
            raise ValueError("settings of the detector are missing, or too many")
        # JSON has no tuples
        plain: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in stated.items()
        }
        for name, default in asdict(DetectorConfig()).items():
            value, several = plain[name], isinstance(default, tuple)
            kind = int if several else type(default)
            if isinstance(value, tuple) is not several:
                raise ValueError(f"{name} is {value!r:.40}")
            if not all(type(part) is kind for part in (value if several else (value,))):
                raise ValueError(f"{name} is {value!r:.40}")
        return tuple(classes), DetectorConfig(**plain)
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: malformed ({error})") from None


def _build_network(encoder: Encoder, classes: int, config: DetectorConfig) -> FasterRCNN:
    """torchvision's network; with norms, heads are those of its second version of it."""
    norm = nn.BatchNorm2d if config.norm == "batch" else None
    channels, hidden = config.channels, config.hidden
    box_head: nn.Module
    if norm is not None:
        convolutions = [channels] * _BOX_CONVOLUTIONS
        size = (channels, _POOLED, _POOLED)
        box_head = FastRCNNConvFCHead(size, convolutions, [hidden], norm_layer=norm)
    else:
        box_head = TwoMLPHead(channels * _POOLED**2, hidden)
    options: dict[str, Any] = {
        "min_size": config.short_side,
        "max_size": config.long_side,
        "image_mean": list(encoder.mean),
        "image_std": list(encoder.std),
        "rpn_anchor_generator": AnchorGenerator(
            tuple((side,) for side in config.anchors), ((0.5, 1.0, 2.0),) * len(config.anchors)
        ),
        "rpn_pre_nms_top_n_train": config.proposals[0],
        "rpn_post_nms_top_n_train": config.proposals[0],
        "rpn_pre_nms_top_n_test": config.proposals[1],
        "rpn_post_nms_top_n_test": config.proposals[1],
        "box_head": box_head,
        "box_predictor": FastRCNNPredictor(hidden, classes),
        "box_score_thresh": config.min_score,
        "box_detections_per_img": config.detections,
        "box_batch_size_per_image": config.samples,
    }
    backbone = PyramidBackbone(encoder, channels, norm=norm is not None)
    if not config.masks:
        return FasterRCNN(backbone, **options)
    return MaskRCNN(
        backbone,
        mask_head=MaskRCNNHeads(channels, [channels] * _MASK_CONVOLUTIONS, 1, norm_layer=norm),
        mask_predictor=MaskRCNNPredictor(channels, channels, classes),
        **options,
    )


def _freeze_beyond(encoder: Encoder, names: Sequence[str]) -> None:
    """Freeze what lies behind the pyramid's last map, such as an EfficientNet's last convolution:
    it is run and changes nothing."""
    with eval_mode(encoder), torch.enable_grad():
        maps = maps_along(encoder, torch.zeros(1, 3, 64, 64), names)[1]
        parameters = [p for p in encoder.parameters() if p.requires_grad]
        gradients = torch.autograd.grad(
            torch.stack([m.sum() for m in maps]).sum(), parameters, allow_unused=True
        )
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.requires_grad_(gradient is not None)


def _batch_norms(encoder: Encoder) -> list[nn.Module]:
    kinds = (nn.modules.batchnorm._BatchNorm,)
    return [part for part in encoder.modules() if isinstance(part, kinds)]


def _heads(detector: Detector) -> dict[str, Tensor]:
    """All weights but the encoder's."""
    state = detector.state_dict()
    return {name: tensor for name, tensor in state.items() if not name.startswith(_ENCODER)}

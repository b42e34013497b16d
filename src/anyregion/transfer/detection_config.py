"""The settings of the transfer to detection and instance segmentation."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from anyregion.errors import InputError


@dataclass(frozen=True)
class DetectionSource:
    """Images with boxes, and with masks.

    Attributes:
        annotations: as `read_annotations` reads them: COCO-format JSON, LVIS, VOC, ...
        images: the folder of the images.
        limit: no more than the first so many images.
        terms: licence or terms of use, for the card.
    """

    annotations: str
    images: str
    limit: int | None = None
    terms: str = "not stated"

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < 1:
            raise InputError(f"limit must be at least 1, not {self.limit}")


@dataclass(frozen=True)
class DetectorConfig:
    """Mask R-CNN with a feature pyramid (He et al., 2017; Lin et al., 2017), as torchvision has it.

    Attributes:
        masks: with the mask head; else Faster R-CNN.
        norm: `batch`: BatchNorm learns in the backbone, and stands in the pyramid and in the heads
            too. `frozen`: the backbone's stays as it was
            pretrained, and nowhere else is any, as in detectors before.
        short_side: images are scaled to one of these in training, to the last one in tests.
        long_side: that no image exceeds.
        anchors: side of the anchors on the maps of stride 4 to 64, in pixels of the scaled image.
        channels: of the pyramid and of the convolutions of the heads.
        hidden: width of the box head's fully connected layer.
        samples: regions of an image that the box head learns from.
        proposals: kept of an image in training and in tests.
        detections: kept of an image.
        min_score: of a detection.
    """

    masks: bool = True
    norm: Literal["batch", "frozen"] = "batch"
    short_side: tuple[int, ...] = (640, 672, 704, 736, 768, 800)
    long_side: int = 1333
    anchors: tuple[int, int, int, int, int] = (32, 64, 128, 256, 512)
    channels: int = 256
    hidden: int = 1024
    samples: int = 512
    proposals: tuple[int, int] = (2000, 1000)
    detections: int = 100
    min_score: float = 0.05

    def __post_init__(self) -> None:
        if self.norm not in ("batch", "frozen"):
            raise InputError(f"detector.norm: {self.norm!r} is not batch or frozen")
        numbers = (*self.short_side, self.long_side, *self.anchors, self.channels, self.hidden)
        numbers += (self.samples, *self.proposals, self.detections)
        if not self.short_side or min(numbers) < 1:
            raise InputError("detector: sizes and numbers must be at least 1")
        if not 0 <= self.min_score < 1:
            raise InputError(f"detector.min_score must lie in 0 to 1, not {self.min_score}")


@dataclass(frozen=True)
class DetectionConfig:
    """Detection with a backbone, fine-tuned or frozen. The defaults are COCO's.

    Attributes:
        data: what is trained on; all of the same classes.
        validation: what is judged on; None for none.
        backbone: `torchvision/resnet50`, ..., a saved backbone's folder, or a run of `pretrain`. It
            needs maps of strides 4 to 32: no plain ViT.
        weights: of a name: None for random ones, `pretrained`, or a file.
        freeze: the backbone does not learn.
        detector: the network.
        batch: images of a step, of all processes.
        flip: chance of being mirrored.
        sync_norm: BatchNorms count over all processes, where `detector.norm` is `batch`.
        licence: under which the weights may be used.
    """

    data: tuple[DetectionSource, ...] = ()
    validation: DetectionSource | None = None
    backbone: str = "torchvision/resnet50"
    weights: str | None = None
    freeze: bool = False
    detector: DetectorConfig = field(default_factory=DetectorConfig)
    batch: int = 16
    flip: float = 0.5
    sync_norm: bool = True
    licence: str = "not stated"

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise InputError(f"detection.batch must be at least 1, not {self.batch}")
        if not 0 <= self.flip <= 1:
            raise InputError(f"detection.flip must lie in 0 to 1, not {self.flip}")

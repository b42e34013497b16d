"""The settings of the transfer to semantic segmentation; the loop's are in `training.config`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from anyregion.data.semantic.dataset import SemanticSource
from anyregion.errors import InputError


@dataclass(frozen=True)
class CropConfig:
    """How an image is shown in training: scaled, cropped, mirrored.

    Attributes:
        crop: height and width of what is cut out, in pixels. Where the image ends, the crop is
            filled with the mean colour, and void.
        short_side: the image's short side is first scaled to this; None for its own size.
        scale: range of the factor by which it is scaled then.
        flip: chance of being mirrored.
    """

    crop: tuple[int, int] = (513, 513)
    short_side: int | None = None
    scale: tuple[float, float] = (0.5, 2.0)
    flip: float = 0.5

    def __post_init__(self) -> None:
        if min(self.crop) < 1 or (self.short_side is not None and self.short_side < 1):
            raise InputError("augment.crop and short_side must be at least 1 pixel")
        if not 0 < self.scale[0] <= self.scale[1] < float("inf"):
            raise InputError(f"augment.scale must be a range above 0: {self.scale}")
        if not 0 <= self.flip <= 1:
            raise InputError(f"augment.flip must lie in 0 to 1, not {self.flip}")


@dataclass(frozen=True)
class WindowConfig:
    """How an image is looked at in a test.

    Attributes:
        mode: `whole` images, or `slide`: windows of the training's crop, whose logits are averaged
            where they overlap.
        stride: of windows, as a share of their sides.
    """

    mode: Literal["whole", "slide"] = "whole"
    stride: float = 2 / 3

    def __post_init__(self) -> None:
        if self.mode not in ("whole", "slide"):
            raise InputError(f"test.mode: {self.mode!r} is not whole or slide")
        if not 0 < self.stride <= 1:
            raise InputError(f"test.stride must lie in 0 to 1, not {self.stride}")


@dataclass(frozen=True)
class SegmentationConfig:
    """Semantic segmentation with a backbone, fine-tuned or frozen. The defaults are VOC's.

    Attributes:
        data: what is trained on, with a class for every pixel; all of the same classes.
        validation: what is judged on; None for none.
        backbone: `torchvision/resnet50`, `timm/convnext_tiny`, ..., a saved backbone's folder, or a
            run of `anyregion pretrain`.
        weights: of a name: None for random ones, `pretrained`, or a file.
        head: `fcn`, a 3 x 3 convolution with BatchNorm and one of 1 x 1 (Long et al., 2015; as
            torchvision has it), or `linear`: BatchNorm without weights and one of 1 x 1.
        freeze: the backbone does not learn. With `head: linear` that is the linear probe.
        dilate: the last stage's stride becomes dilation: a last map of stride 16, not 32.
        auxiliary: weight of the loss of a further FCN head on the intermediate map, which helps
            to train and is not part of what is saved; 0 for none.
        batch: images of a step, of all processes.
        augment: how they are shown.
        test: how images are looked at in validation.
        sync_norm: BatchNorms count over all processes.
        channels_last: memory order of images and weights: often faster, on GPUs above all.
        licence: under which the weights may be used.
    """

    data: tuple[SemanticSource, ...] = ()
    validation: SemanticSource | None = None
    backbone: str = "torchvision/resnet50"
    weights: str | None = None
    head: Literal["fcn", "linear"] = "fcn"
    freeze: bool = False
    dilate: bool = True
    auxiliary: float = 0.4
    batch: int = 16
    augment: CropConfig = field(default_factory=CropConfig)
    test: WindowConfig = field(default_factory=WindowConfig)
    sync_norm: bool = True
    channels_last: bool = False
    licence: str = "not stated"

    def __post_init__(self) -> None:
        if self.head not in ("fcn", "linear"):
            raise InputError(f"semseg.head: {self.head!r} is not fcn or linear")
        if not 0 <= self.auxiliary < float("inf"):
            raise InputError(f"semseg.auxiliary must not be negative: {self.auxiliary}")
        if self.batch < 1:
            raise InputError(f"semseg.batch must be at least 1, not {self.batch}")
        if self.freeze and self.auxiliary:
            raise InputError(
                "semseg.auxiliary helps a backbone to learn, and a frozen one does not: set it to 0"
            )

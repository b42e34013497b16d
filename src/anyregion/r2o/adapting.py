"""Training on from weights that are good already: what stays, what learns slowly, what anchors it.

Heads of random weights send gradients of little sense through a pretrained backbone, and a few
thousand photographs teach less than its own training set did. These settings limit what is lost.
Layer-wise rates are those of Clark et al. (ELECTRA, ICLR 2020) and BEiT; the anchor distils the
start's own features (Li and Hoiem, "Learning without forgetting", ECCV 2016, of features here);
the mean of both weights is Wortsman et al.'s (WiSE-FT, CVPR 2022).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from anyregion.backbones.encoder import Encoder
from anyregion.errors import InputError

# how torchvision and timm number the stages of a network, and the blocks of a ViT
_NUMBERED = re.compile(
    r"(?:^|\.)(?:layer|layers\.|stages\.|stages_|s(?=\d+\.b)|blocks\.|block|denseblock|features\."
    r"|encoder_layer_)\d+"
)


@dataclass(frozen=True)
class AdaptConfig:
    """How a backbone that has weights already (`r2o.start`) is kept near them. The defaults let it
    go, and mean nothing without a start.

    Attributes:
        rate: the backbone's learning rate over the heads', which start anew and learn at
            `optimizer.lr`.
        stage_decay: the rate of each stage over that of the stage behind it; the last stage learns
            at `rate`. A stem is a stage, and so is each block of a ViT.
        frozen_stages: so many stages, counted from the image, stay as they are, their BatchNorm
            statistics too.
        frozen_norms: all BatchNorms of the backbone use the running statistics of the start, and
            keep them.
        anchor: weight of the anchor's loss, 1 less the cosine between the backbone's last features
            of the views and those of the start. 0 for none.
        anchor_on: what is compared with the start: each `cell` of the feature map, or its `mean`.
    """

    rate: float = 1.0
    stage_decay: float = 1.0
    frozen_stages: int = 0
    frozen_norms: bool = False
    anchor: float = 0.0
    anchor_on: Literal["cell", "mean"] = "cell"

    def __post_init__(self) -> None:
        for name in ("rate", "stage_decay"):
            if not 0 < getattr(self, name) <= 1:
                raise InputError(
                    f"adapt.{name} must be above 0 and at most 1, not {getattr(self, name)}"
                )
        if self.frozen_stages < 0:
            raise InputError(f"adapt.frozen_stages must not be negative: {self.frozen_stages}")
        if not 0 <= self.anchor < float("inf"):
            raise InputError(f"adapt.anchor must not be negative: {self.anchor}")
        if self.anchor_on not in ("cell", "mean"):
            raise InputError(f"adapt.anchor_on: {self.anchor_on!r} is not cell or mean")


def stages_of(encoder: Encoder) -> dict[str, int]:
    """The stage of every parameter and buffer of an encoder by name, from 0 at the image.

    What comes in front of the first numbered stage is a stage of its own, the stem; what comes
    behind the last one belongs to it.

    Raises:
        InputError: nothing in its names is numbered.
    """
    order: list[str] = []
    stages: dict[str, int] = {}
    for name in encoder.state_dict():
        match = _NUMBERED.search(name.removeprefix("body."))
        if match is not None and match[0] not in order:
            order.append(match[0])
        elif match is None and not order:
            order.append("")
        # a number that comes again (a norm between stages) goes where its stage is
        stages[name] = len(order) - 1 if match is None else order.index(match[0])
    if len(order) < 2:
        raise InputError(
            f"{encoder.name}: its stages are not numbered in its names; leave adapt.stage_decay "
            "and adapt.frozen_stages as they are"
        )
    return stages


def freeze_stages(encoder: Encoder, config: AdaptConfig) -> None:
    """Freeze the parameters of the first `frozen_stages` stages.

    Raises:
        InputError: the encoder has no more than so many.
    """
    if not config.frozen_stages:
        return
    stages = stages_of(encoder)
    count = max(stages.values()) + 1
    if config.frozen_stages >= count:
        raise InputError(
            f"adapt.frozen_stages: {encoder.name} has {count} stages; "
            f"{config.frozen_stages} frozen ones leave none to learn"
        )
    for name, parameter in encoder.named_parameters():
        if stages[name] < config.frozen_stages:
            parameter.requires_grad_(False)


def rate_scales(encoder: Encoder, config: AdaptConfig) -> dict[str, float]:
    """The learning rate of each parameter of an encoder over the heads', by its name."""
    names = [name for name, _ in encoder.named_parameters()]
    if config.stage_decay == 1:
        return dict.fromkeys(names, config.rate)
    stages = stages_of(encoder)
    last = max(stages.values())
    return {name: config.rate * config.stage_decay ** (last - stages[name]) for name in names}


def hold_norms(encoder: Encoder, config: AdaptConfig) -> None:
    """Put the BatchNorms that keep their statistics into evaluation mode."""
    if not (config.frozen_norms or config.frozen_stages):
        return
    stages = {} if config.frozen_norms else stages_of(encoder)
    for name, module in encoder.named_modules():
        if isinstance(module, _BatchNorm) and (
            config.frozen_norms or stages[f"{name}.running_mean"] < config.frozen_stages
        ):
            module.eval()


def anchor_losses(features: Tensor, start: Tensor, *, on: str) -> Tensor:
    """1 less the cosine between features and the start's of the same views, averaged.

    Args:
        features, start: `(2 B, C, h, w)` last feature maps: view 1 of all images, then view 2.
        on: `cell` or `mean`, see `AdaptConfig.anchor_on`.

    Returns:
        `(B,)`, 0 to 2.
    """
    with torch.autocast(features.device.type, enabled=False):
        online, target = (maps.float().flatten(2) for maps in (features, start))  # (2 B, C, P)
        if on == "mean":
            online, target = online.mean(dim=2, keepdim=True), target.mean(dim=2, keepdim=True)
        losses = 1 - F.cosine_similarity(online, target, dim=1).mean(dim=1)  # (2 B,)
    return losses.view(2, -1).mean(dim=0)

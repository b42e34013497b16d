"""A real, tiny, deterministic recogniser for tests: it names regions by their mean colour."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ImageColor

from anyregion.errors import InputError
from anyregion.images import Pixels
from anyregion.masks import decode_mask, encode_mask
from anyregion.recognizer import Recognizer
from anyregion.region_encoder import RegionEmbeddings
from anyregion.regions import Regions

COLOURS = ["red", "lime", "blue", "yellow", "white", "black"]


class ColourWords:
    """The last word of a text as a point in colour space; words that are no colour are unknown."""

    fingerprint = "colours-1"
    templates: tuple[str, ...] = ("the colour {}",)

    def encode_text(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return np.stack([_direction(text.split()[-1]) for text in texts])

    def unreadable(self, texts: Sequence[str]) -> list[bool]:
        return [text.split()[-1].lower() not in ImageColor.colormap for text in texts]


class ColourEncoder:
    """Mean colour inside a region's mask, or its extent.

    An image whose first pixel is (1, 2, 3) is refused, as a model refuses broken numbers.
    """

    name = "colours"
    logit_scale = 10.0
    logit_bias = 0.0
    default_score = "softmax"

    def __init__(self) -> None:
        self.text = ColourWords()
        self.images_encoded = 0

    @property
    def fingerprint(self) -> str:
        return f"{self.name} {self.logit_scale} {self.text.fingerprint}"

    def encode_images(self, images: Sequence[Pixels]) -> Sequence[Any]:
        if any(tuple(image[0, 0]) == (1, 2, 3) for image in images):
            raise InputError("this image is refused")
        self.images_encoded += len(images)
        return images

    def embed_regions(
        self,
        encoded: Sequence[Any],
        regions: Sequence[Regions],
        *,
        masks: bool = False,
        multimask: bool = False,
        features: bool = False,  # nothing but the embedding
    ) -> list[RegionEmbeddings]:
        return [
            _embed(image, image_regions, masks, multimask)
            for image, image_regions in zip(encoded, regions, strict=True)
        ]


def colour_recognizer(*_: Any, **__: Any) -> Recognizer:
    """Takes the place of `load_recognizer`, whatever it is asked for."""
    return Recognizer(ColourEncoder(), cache=None)


def _embed(image: Pixels, regions: Regions, masks: bool, multimask: bool) -> RegionEmbeddings:
    height, width = image.shape[:2]
    candidates = (1.0, 0.6, 0.3) if multimask else (1.0,)
    boxes, inside, rows = [], [], []
    for row, box in enumerate(regions.extents()):
        for share in candidates:
            x0, y0 = np.floor(box[:2]).astype(int).clip(0)
            x1 = max(x0 + 1, x0 + round((box[2] - x0) * share))
            y1 = max(y0 + 1, y0 + round((box[3] - y0) * share))
            mask = np.zeros((height, width), dtype=bool)
            mask[y0:y1, x0:x1] = True
            own_mask = regions.masks[row]
            boxes.append(box)
            inside.append(mask if own_mask is None else decode_mask(own_mask))
            rows.append(row)
    colours = [image[m].mean(axis=0) for m in inside]
    return RegionEmbeddings(
        embeddings=np.array([_point(c) for c in colours], dtype=np.float32).reshape(-1, 4),
        boxes=np.array(boxes, dtype=np.float64).reshape(-1, 4),
        rows=np.array(rows, dtype=np.int64),
        masks=tuple(encode_mask(m) for m in inside) if masks else None,
        mask_scores=np.tile(np.float32([0.9, 0.6, 0.3][: len(candidates)]), len(regions))
        if multimask
        else None,
    )


def _direction(word: str) -> NDArray[np.float32]:
    try:
        return _point(np.array(ImageColor.getrgb(word)[:3], dtype=np.float64))
    except ValueError:
        return np.float32([0, 0, 0, -1])


def _point(colour: NDArray[np.float64]) -> NDArray[np.float32]:
    # the fourth number keeps grey away from zero, which has no direction
    return np.float32([*(colour - 127.5), 40.0])

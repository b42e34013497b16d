"""Regions of large images, in tiles and in the whole image, against the same in single photographs.

Photographs of the annotations, each with a long side of --side pixels, are named one by one, and
then joined to mosaics of 2 x 2, 3 x 3, ... of them, which a model sees as one image. Prints, for
each size, the percentage of regions named rightly, images encoded for a mosaic (itself and its
tiles), and CPU seconds for each of them. A mosaic is a worst case: things of all of its photographs
are small in it, and around a region lies another photograph. With `--side 1664 --sizes 1` the
photographs are enlarged: large images, but with no more to see. With `--frame 160 --sizes 1` they
are a scale model of large photographs: the encoder sees 160 pixels of 416, as it sees 640 of 1,664,
of each of them and of its tiles.

    python benchmarks/mosaics.py --annotations COCO.json --images DIR [--photographs 144]
        [--side 416] [--frame 640] [--sizes 1 2 3 4 6] [--model compact] [--method dense]
        [--tiles N] [--masks] [--points] [--proposals]

With --masks also the mean IoU of masks grown from the boxes, with --points that of the boxes grown
from one pixel of each mask, and with --proposals the percentage of boxes that a proposal meets with
an IoU of at least a half, and proposals for each image.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from anyregion import Regions, load_proposer, load_recognizer, load_regions, read_image
from anyregion.baselines.dense import DenseEncoder
from anyregion.compact.image_encoder import (
    ALL_MAPS,
    LONG_SIDE,
    FeaturePyramid,
    ImageEncoder,
    MapName,
)
from anyregion.compact.model import TILE_SIDE, CompactEmbedder, CompactEncoder, CompactModel
from anyregion.factory import Method
from anyregion.images import Pixels
from anyregion.masks import RLE, decode_mask, encode_mask, mask_iou
from anyregion.proposals import RegionProposer, box_iou
from anyregion.recognizer import Recognizer
from anyregion.region_encoder import RegionEncoder
from anyregion.tile_grids import TileOptions
from anyregion.tiles import mask_from_tile, tiled, untiled
from anyregion.vocabulary import EncodedVocabulary, Vocabulary

GREY = 127


@dataclass(frozen=True, eq=False)
class Photograph:
    """An image and its regions.

    Attributes:
        pixels: the image.
        boxes: `(N, 4)` xyxy in its pixels.
        labels: `(N,)`, positions in the vocabulary.
        masks: per region, or None where none is annotated.
    """

    pixels: Pixels
    boxes: NDArray[np.float64]
    labels: NDArray[np.int64]
    masks: tuple[RLE | None, ...]


def read_photographs(
    annotations: Path, images: Path, count: int, *, side: int, seed: int
) -> tuple[list[Photograph], Vocabulary]:
    """Some photographs drawn at random, their long side `side`, and the names of their classes."""
    file = load_regions(annotations, masks=True, scores=False)
    ids = list(file.categories)
    entries = [e for e in file.images.values() if len(e.regions) and e.file_name]
    drawn = np.random.default_rng(seed).permutation(len(entries))[:count]
    photographs = []
    for entry in (entries[i] for i in drawn):
        pixels = read_image(images / str(entry.file_name))
        height, width = pixels.shape[:2]
        regions, _ = entry.regions.fit(height, width)
        factor = side / max(height, width)
        new = (max(1, round(width * factor)), max(1, round(height * factor)))
        if new != (width, height):
            resized = Image.fromarray(pixels).resize(new, Image.Resampling.BILINEAR)
            pixels = np.asarray(resized)
        scale = np.tile([new[0] / width, new[1] / height], 2)
        assert regions.categories is not None
        labels = [ids.index(c) for c in regions.categories.tolist()]
        masks = tuple(None if m is None else _resized(m, new) for m in regions.masks)
        photographs.append(Photograph(pixels, regions.boxes * scale, np.array(labels), masks))
    return photographs, Vocabulary.from_names([file.categories[i] for i in ids])


def mosaics(photographs: Sequence[Photograph], count: int, *, side: int) -> list[Photograph]:
    """The photographs, `count` x `count` to an image; those that fill no image are left out."""
    joined = []
    for start in range(0, len(photographs) - count * count + 1, count * count):
        canvas = np.full((count * side, count * side, 3), GREY, dtype=np.uint8)
        boxes, masks = [], []
        part = photographs[start : start + count * count]
        for i, photograph in enumerate(part):
            y, x = i // count * side, i % count * side
            height, width = photograph.pixels.shape[:2]
            canvas[y : y + height, x : x + width] = photograph.pixels
            boxes.append(photograph.boxes + np.tile([x, y], 2))
            window = (x, y, x + width, y + height)
            masks += [m and mask_from_tile(m, window, canvas.shape[:2]) for m in photograph.masks]
        labels = np.concatenate([p.labels for p in part])
        joined.append(Photograph(canvas, np.concatenate(boxes), labels, tuple(masks)))
    return joined


class Counter:
    """Counts the images that an encoder encodes."""

    def __init__(self, encoder: RegionEncoder) -> None:
        self.images = 0
        self._encode = encoder.encode_images
        encoder.encode_images = self._counted  # type: ignore[method-assign]

    def _counted(self, images: Sequence[Pixels]) -> Sequence[Any]:
        self.images += len(images)
        return self._encode(images)


def measure(
    photographs: Sequence[Photograph],
    recognizer: Recognizer,
    vocabulary: EncodedVocabulary,
    counter: Counter,
    *,
    masks: bool,
    points: bool,
    proposer: RegionProposer | None,
) -> dict[str, float]:
    """The figures of one size."""
    right: list[NDArray[np.bool_]] = []
    ious: list[float] = []
    point_ious: list[float] = []
    met: list[NDArray[np.bool_]] = []
    proposals = 0
    counter.images, seconds = 0, 0.0
    for photograph in photographs:
        started = time.process_time()
        recognizer.set_image(photograph.pixels)
        answer = recognizer.predict(Regions.from_boxes(photograph.boxes), vocabulary, top_k=1)
        seconds += time.process_time() - started
        right.append(answer.indices[:, 0] == photograph.labels)
    encoded = counter.images
    for photograph in photographs:
        annotated = [i for i, mask in enumerate(photograph.masks) if mask is not None]
        if (masks or points) and annotated:
            recognizer.set_image(photograph.pixels)
        true = [m for m in photograph.masks if m is not None]
        if masks and annotated:
            regions = Regions.from_boxes(photograph.boxes[annotated])
            answer = recognizer.predict(regions, vocabulary, top_k=1, masks=True)
            ious += [mask_iou(a, b) for a, b in zip(answer.masks or (), true, strict=True)]
        if points and annotated:
            rng = np.random.default_rng(0)
            inside = [np.argwhere(decode_mask(mask))[:, ::-1] for mask in true]  # x, y
            drawn = [p[rng.integers(len(p))][None].astype(float) for p in inside]
            answer = recognizer.predict(Regions.from_prompts(points=drawn), vocabulary, top_k=1)
            boxes = photograph.boxes[annotated]
            point_ious += np.diag(box_iou(answer.boxes, boxes)).tolist()
        if proposer is not None:
            found = proposer.propose(photograph.pixels)
            proposals += len(found)
            overlaps = box_iou(photograph.boxes, found.boxes)
            met.append(overlaps.max(axis=1, initial=0.0) >= 0.5)
    figures = {
        "top1": 100 * float(np.concatenate(right).mean()),
        "encoded": encoded / len(photographs),
        "seconds": seconds / encoded,
    }
    if ious:
        figures["mask_iou"] = float(np.mean(ious))
    if point_ious:
        figures["point_iou"] = float(np.mean(point_ious))
    if met:
        figures["recall"] = 100 * float(np.concatenate(met).mean())
        figures["proposals"] = proposals / len(photographs)
    return figures


@dataclass(frozen=True, eq=False)
class FramedEncoder(ImageEncoder):
    """`compact`'s image encoder with another long side."""

    frame: int

    def encode(
        self,
        pixels: Pixels,
        *,
        outputs: Sequence[MapName] = ALL_MAPS,
        long_side: int = LONG_SIDE,
    ) -> FeaturePyramid:
        return super().encode(
            pixels, outputs=outputs, long_side=long_side * self.frame // LONG_SIDE
        )


def load(model: str, method: Method | None, tiles: int, frame: int) -> Recognizer:
    """The recogniser; `compact` with one thread, so that its CPU time is the time of a core."""
    if model != "compact" or method not in (None, "dense"):
        return load_recognizer(model, method=method, tiles=tiles)
    one = CompactModel(threads=1)
    one.image_encoder = FramedEncoder(one.image_encoder.session, frame)
    side = TILE_SIDE * frame // LONG_SIDE
    encoder = CompactEncoder(one) if method is None else DenseEncoder(CompactEmbedder(one))
    return Recognizer(tiled(encoder, TileOptions(limit=tiles, side=side, whole=frame)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--annotations", type=Path, required=True)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--photographs", type=int, default=144)
    parser.add_argument("--side", type=int, default=416)
    parser.add_argument("--frame", type=int, default=LONG_SIDE)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1, 2, 3, 4, 6])
    parser.add_argument("--model", default="compact")
    parser.add_argument("--method")
    parser.add_argument("--tiles", type=int, default=128)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--masks", action="store_true")
    parser.add_argument("--points", action="store_true")
    parser.add_argument("--proposals", action="store_true")
    args = parser.parse_args()
    photographs, names = read_photographs(
        args.annotations, args.images, args.photographs, side=args.side, seed=args.seed
    )
    for tiles in (0, args.tiles):
        recognizer = load(args.model, args.method, tiles, args.frame)
        counter = Counter(untiled(recognizer.encoder))
        proposer = None
        if args.proposals:
            proposer = load_proposer("compact", recognizer=recognizer, tiles=tiles)
        vocabulary = recognizer.encode_vocabulary(names)
        for count in args.sizes:
            # photographs that the encoder does not shrink have no tiles
            if tiles == 0 or count * args.side > args.frame or args.model != "compact":
                figures = measure(
                    mosaics(photographs, count, side=args.side), recognizer, vocabulary, counter,
                    masks=args.masks, points=args.points, proposer=proposer,
                )  # fmt: skip
                text = "  ".join(f"{name} {value:.3g}" for name, value in figures.items())
                print(f"{count} x {count}, at most {tiles} tiles: {text}", flush=True)


def _resized(mask: RLE, size: tuple[int, int]) -> RLE | None:
    """A mask at another `(width, height)`; None where nothing is left of it."""
    image = Image.fromarray(decode_mask(mask)).resize(size, Image.Resampling.NEAREST)
    return encode_mask(np.asarray(image)) if np.asarray(image).any() else None


if __name__ == "__main__":
    main()

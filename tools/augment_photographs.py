"""Write crops and mosaics of annotated photographs, for trainings on stores of frozen features.

    python tools/augment_photographs.py --annotations instances_train.json --images images \\
        --out views
    anyregion cache --annotations views/instances.json --images views/images --masks --no-mirror \\
        --out stores/views

The image encoder has to see an augmented photograph itself: maps of other pixels cannot be had of
stored ones. Of every photograph there are some crops, which enlarge what they show, and photographs
are joined to mosaics of two by two, which shrink it; half of all are mirrored. A box that is cut
off stays where a quarter of it is seen. The same seed gives the same files.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from PIL import Image

from anyregion.data.annotations.annotations import Annotations
from anyregion.data.annotations.reading import read_annotations
from anyregion.data.image_files import image_path
from anyregion.images import read_image
from anyregion.masks import decode_mask, encode_mask, segmentation_to_rle

# sides of a crop as shares of the photograph's, and those of a part of a mosaic
CROP_SIDES = (0.5, 0.9)
PART_SIDES = (0.6, 1.0)
# where the parts of a mosaic meet, as a share of its sides
MEETING = (0.35, 0.65)
# of landscapes: 4 to 3, as most photographs are
MOSAIC = (480, 640)
SEEN_SHARE = 0.25
QUALITY = 92


class View:
    """Pixels of a picture; boxes `(n, 4)`, labels `(n,)`, crowds `(n,)`, masks or None."""

    def __init__(self, pixels, boxes, labels, crowd, masks):
        self.pixels, self.boxes, self.labels = pixels, boxes, labels
        self.crowd, self.masks = crowd, masks

    @property
    def size(self) -> tuple[int, int]:
        return self.pixels.shape[:2]

    def cropped(self, x0: int, y0: int, x1: int, y1: int) -> View:
        """A part of it; of what is cut off no more than three quarters."""
        limits = np.array([x1 - x0, y1 - y0] * 2)
        boxes = np.clip(self.boxes - np.array([x0, y0, x0, y0]), 0, limits)
        kept = []
        for i, (whole, part) in enumerate(zip(self.boxes, boxes, strict=True)):
            sides = part[2:] - part[:2]
            seen = sides.prod() / max((whole[2:] - whole[:2]).prod(), 1e-9)
            if sides.min() >= 2 and seen >= SEEN_SHARE:
                kept.append(i)
        masks = [None if m is None else m[y0:y1, x0:x1] for m in self.masks]
        # a box that its mask has left is no box of anything
        kept = [i for i in kept if masks[i] is None or masks[i].any()]
        for i in kept:
            if masks[i] is not None:
                y, x = np.nonzero(masks[i])
                boxes[i] = [x.min(), y.min(), x.max() + 1, y.max() + 1]
        return View(
            self.pixels[y0:y1, x0:x1],
            boxes[kept],
            self.labels[kept],
            self.crowd[kept],
            [masks[i] for i in kept],
        )

    def resized(self, height: int, width: int) -> View:
        factors = np.array([width / self.size[1], height / self.size[0]] * 2)
        image = Image.fromarray(self.pixels)
        masks = [
            None
            if m is None
            else np.asarray(Image.fromarray(m).resize((width, height), Image.Resampling.NEAREST))
            for m in self.masks
        ]
        return View(
            np.asarray(image.resize((width, height), Image.Resampling.BILINEAR)),
            self.boxes * factors,
            self.labels,
            self.crowd,
            masks,
        )

    def mirrored(self) -> View:
        boxes = self.boxes.copy()
        boxes[:, [0, 2]] = self.size[1] - self.boxes[:, [2, 0]]
        masks = [None if m is None else m[:, ::-1] for m in self.masks]
        return View(self.pixels[:, ::-1], boxes, self.labels, self.crowd, masks)


def read_view(annotations: Annotations, image: int, folder: Path) -> View:
    """One photograph with all its regions, crowds too."""
    pixels = read_image(image_path(folder, annotations.file_names[image]))
    rows = np.flatnonzero(annotations.image_of == image)
    masks = [
        decode_mask(segmentation_to_rle(annotations.segmentations[row], *pixels.shape[:2]))
        if annotations.segmentations is not None and annotations.segmentations[row]
        else None
        for row in rows
    ]
    return View(
        pixels, annotations.boxes[rows], annotations.labels[rows], annotations.crowd[rows], masks
    )


def random_crop(
    view: View,
    random: np.random.Generator,
    sides: tuple[float, float],
    aspect: float | None = None,
) -> View:
    """A part of random size and place; of its own shape or about that of the photograph.

    Args:
        view: what is cut.
        random: its draws.
        sides: least and largest share of the sides.
        aspect: width over height; None for the photograph's, changed by up to a quarter.
    """
    height, width = view.size
    shape = width / height * np.exp(random.uniform(-0.22, 0.22)) if aspect is None else aspect
    # the largest part of that shape, and less of it
    tall = min(height, width / shape) * random.uniform(*sides)
    w, h = max(8, round(tall * shape)), max(8, round(tall))
    w, h = min(w, width), min(h, height)
    x, y = random.integers(0, width - w + 1), random.integers(0, height - h + 1)
    return view.cropped(int(x), int(y), int(x + w), int(y + h))


def mosaic(views: list[View], random: np.random.Generator) -> View:
    """Parts of four photographs, two by two."""
    height, width = MOSAIC if random.random() < 0.7 else MOSAIC[::-1]
    x, y = (round(side * random.uniform(*MEETING)) for side in (width, height))
    pixels = np.zeros((height, width, 3), np.uint8)
    parts: list[View] = []
    places = [(0, 0, x, y), (x, 0, width, y), (0, y, x, height), (x, y, width, height)]
    for view, (x0, y0, x1, y1) in zip(views, places, strict=True):
        part = random_crop(view, random, PART_SIDES, aspect=(x1 - x0) / (y1 - y0))
        part = part.resized(y1 - y0, x1 - x0)
        pixels[y0:y1, x0:x1] = part.pixels
        masks: list[np.ndarray | None] = []
        for mask in part.masks:
            whole = None if mask is None else np.zeros((height, width), bool)
            if whole is not None:
                whole[y0:y1, x0:x1] = mask
            masks.append(whole)
        parts.append(
            View(pixels, part.boxes + np.array([x0, y0, x0, y0]), part.labels, part.crowd, masks)
        )
    return View(
        pixels,
        *(
            np.concatenate([getattr(p, name) for p in parts])
            for name in ("boxes", "labels", "crowd")
        ),
        [mask for p in parts for mask in p.masks],
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--annotations", type=Path, required=True)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--crops", type=float, default=1.0, help="a photograph (default: 1)")
    parser.add_argument("--mosaics", type=float, default=0.5, help="a photograph (default: 0.5)")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    annotations = read_annotations(args.annotations, masks=True, images=args.images)
    random = np.random.default_rng(args.seed)
    folder = args.out / "images"
    folder.mkdir(parents=True, exist_ok=True)
    images: list[dict[str, object]] = []
    regions: list[dict[str, object]] = []

    def write(view: View, name: str) -> None:
        if random.random() < 0.5:
            view = view.mirrored()
        if view.crowd.all():  # nothing to learn from
            return
        Image.fromarray(np.ascontiguousarray(view.pixels)).save(folder / name, quality=QUALITY)
        height, width = view.size
        images.append({"id": len(images) + 1, "file_name": name, "height": height, "width": width})
        for box, label, crowd, mask in zip(
            view.boxes, view.labels, view.crowd, view.masks, strict=True
        ):
            x0, y0, x1, y1 = box.round(2).tolist()
            regions.append(
                {
                    "id": len(regions) + 1,
                    "image_id": len(images),
                    "category_id": int(annotations.categories.ids[label]),
                    "bbox": [x0, y0, x1 - x0, y1 - y0],
                    "area": float((x1 - x0) * (y1 - y0) if mask is None else mask.sum()),
                    "iscrowd": int(crowd),
                    "segmentation": [] if mask is None else encode_mask(mask),
                }
            )

    count = len(annotations)
    # each photograph once before any comes again
    order = np.concatenate([random.permutation(count) for _ in range(int(args.crops) + 1)])
    for number, image in enumerate(order[: round(args.crops * count)].tolist()):
        view = random_crop(read_view(annotations, image, args.images), random, CROP_SIDES)
        write(view, f"crop_{number:05d}.jpg")
    for number in range(round(args.mosaics * count)):
        chosen = random.choice(count, 4, replace=count < 4)
        views = [read_view(annotations, int(image), args.images) for image in chosen]
        write(mosaic(views, random), f"mosaic_{number:05d}.jpg")
    categories = [
        {"id": int(i), "name": name}
        for i, name in zip(annotations.categories.ids, annotations.categories.names, strict=True)
    ]
    content = {"images": images, "annotations": regions, "categories": categories}
    (args.out / "instances.json").write_text(json.dumps(content), encoding="utf-8")
    print(f"{len(images):,} pictures with {len(regions):,} regions in {args.out}")


if __name__ == "__main__":
    main()

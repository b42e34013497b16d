"""A data set of discs and bars whose frozen maps are their pixels, mixed: small, but learnable."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from anyregion.compact.image_encoder import CHANNELS, letterbox, network_input
from anyregion.data.annotations.annotations import Annotations
from anyregion.data.annotations.reading import read_annotations
from anyregion.data.features import Features
from anyregion.data.mirror import mirror_pixels
from anyregion.data.region_dataset import RegionDataset, region_dataset
from anyregion.images import Pixels, read_image
from anyregion.masks import encode_mask, mask_box

SIDE = 128


@dataclass(eq=False)
class ToyReader:
    """A `FeatureReader` of maps that are a random mixture of the pixels' means."""

    annotations: Annotations
    folder: Path
    fingerprint: str = "toy"

    def read(self, image: int, *, flipped: bool = False) -> Features:
        pixels = read_image(self.folder / self.annotations.file_names[image])
        return toy_maps(mirror_pixels(pixels) if flipped else pixels)


def toy_maps(pixels: Pixels) -> Features:
    pixels, span = letterbox(pixels, long_side=SIDE)
    frame = network_input(pixels)
    maps: dict[str, np.ndarray] = {"span": np.array(span, dtype=np.float32)}
    for (name, width), stride in zip(CHANNELS.items(), (8, 16, 32, 32), strict=True):
        mixture = np.random.default_rng(width).normal(size=(3, width)) + 0.5
        rows, columns = frame.shape[2] // stride, frame.shape[3] // stride
        means = frame[0].reshape(3, rows, stride, columns, stride).mean((2, 4)).transpose(1, 2, 0)
        maps[name] = (means @ mixture).astype(np.float16)
    return maps


def toy_dataset(folder: Path, *, images: int = 3, seed: int = 0) -> RegionDataset:
    """Write the images and their COCO annotations, each with a disc, a bar and a crowd."""
    draw = np.random.default_rng(seed)
    entries, regions = [], []
    y, x = np.mgrid[:96, :SIDE]
    for i in range(images):
        pixels = np.full((96, SIDE, 3), 40, np.uint8)
        cx, cy, radius = draw.uniform(25, 50), draw.uniform(25, 70), draw.uniform(12, 22)
        disc = (x - cx) ** 2 + (y - cy) ** 2 < radius**2
        bar = (abs(x - 95) < draw.uniform(8, 25)) & (abs(y - 48) < draw.uniform(8, 30))
        pixels[disc], pixels[bar] = (220, 60, 60), (60, 60, 220)
        Image.fromarray(pixels).save(folder / f"{i}.png")
        entries.append({"id": i, "file_name": f"{i}.png", "height": 96, "width": SIDE})
        for k, mask in enumerate((disc, bar, disc | bar)):
            rle = encode_mask(mask)
            x0, y0, x1, y1 = mask_box(rle).tolist()
            regions.append(
                {
                    "id": 3 * i + k + 1,
                    "image_id": i,
                    "category_id": 1,
                    "bbox": [x0, y0, x1 - x0, y1 - y0],
                    "area": float(mask.sum()),
                    "iscrowd": int(k == 2),
                    "segmentation": rle,
                }
            )
    content = {
        "images": entries,
        "annotations": regions,
        "categories": [{"id": 1, "name": "thing"}],
    }
    path = folder / "toy.json"
    path.write_text(json.dumps(content))
    reader = ToyReader(read_annotations(path, masks=True), folder)
    return region_dataset("toy", reader, folder=folder)

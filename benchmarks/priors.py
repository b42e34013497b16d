"""Superpixels of R2O: what stored label maps save, and how far each prior agrees with people.

    python benchmarks/priors.py [--shared ../shared] [--photos 100] [--limit 130] [--size 224]

Speed: CPU time of one thread for an image of training (decode, two views, the whole image, label
map), with the map read from a store, and with SLIC each time; both ways in turns on the photographs
of `coco/images`. Quality: every prior on the images of `bsds500`, against one person's segmentation
of each, both squashed to the spanning view. Needs the extra `[dev]`.

Boundary recall: share of the person's border pixels with a border of the prior within 2 pixels.
Borders: share of all pixels that are the prior's borders; more of them find more by chance.
ASA: achievable segmentation accuracy, the share of pixels that are right if every segment gets
the person's region that it overlaps most. UE: undersegmentation error, what segments spill over the
borders of the person's regions, the smaller part of each counted (Neubert and Protzel 2012).
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import distance_transform_edt

from anyregion.images import Pixels, read_image
from anyregion.masks import decode_mask, segmentation_to_rle
from anyregion.r2o.augmentations import ViewConfig, make_views, spanning_view
from anyregion.r2o.label_store.image_list import list_images
from anyregion.r2o.label_store.store import LabelStore
from anyregion.r2o.superpixels import PriorConfig, segment

Labels = NDArray[np.int64]
TOLERANCE = 2
PRIORS = {
    "slic, plain": PriorConfig(normalised=False),
    "slic, normalised (published)": PriorConfig(normalised=True),
    "slic, normalised, 170 asked for": PriorConfig(normalised=True, segments=170),
    "felzenszwalb": PriorConfig(kind="felzenszwalb"),
    "grid": PriorConfig(kind="grid"),
}


def timed(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def speed(photos: Path, count: int, size: int) -> None:
    """Both ways in turns, image by image; medians would hide SLIC's own spread, so means."""
    images, config, prior = list_images(photos), ViewConfig(size=size), PriorConfig()
    chosen = np.linspace(0, len(images) - 1, min(count, len(images))).astype(int).tolist()
    with tempfile.TemporaryDirectory() as folder:
        used = Path(folder) / "images"
        used.mkdir()
        for image in chosen:
            path = images.path(image).resolve()
            (used / path.name).symlink_to(path)
        store = LabelStore.open_or_fill(Path(folder) / "cache", list_images(used), size, prior)
        seconds = {"stored": 0.0, "each time": 0.0}

        def example(image: int, *, stored: bool) -> None:
            pixels = read_image(store.images.path(image))
            make_views(pixels, config, np.random.default_rng(image))
            whole = spanning_view(pixels, size)
            store.read(image) if stored else segment(whole, prior)

        example(0, stored=True)
        example(0, stored=False)
        for image in store.usable.tolist():
            for way in seconds:
                seconds[way] += timed(lambda i=image, w=way: example(i, stored=w == "stored"))
        size_each = sum(s.path.stat().st_size for s in store.shards.specs) / len(store.usable)
    ms = {way: 1000 * total / len(store.usable) for way, total in seconds.items()}
    print(
        f"data path at {size}, {len(store.usable)} photographs, CPU ms an image: "
        f"{ms['stored']:.1f} with stored maps, {ms['each time']:.1f} with SLIC each time: "
        f"ratio {ms['each time'] / ms['stored']:.2f} (wanted: 3); {size_each:,.0f} bytes a map"
    )


def people(shared: Path, limit: int, size: int) -> list[tuple[Pixels, Labels]]:
    """Spanning views of BSDS500's images, each with one person's segmentation, squashed alike."""
    images: list[tuple[Pixels, Labels]] = []
    for part in ("train", "val"):
        file = shared / "data" / "bsds500" / "annotations" / f"regions_{part}.json"
        content = json.loads(file.read_text())
        for image in content["images"]:
            # what no segment covers stays 0, a region of its own
            labels = np.zeros((image["height"], image["width"]), dtype=np.int64)
            mine = (a for a in content["annotations"] if a["image_id"] == image["id"])
            for number, annotation in enumerate(mine, start=1):
                rle = segmentation_to_rle(annotation["segmentation"], *labels.shape)
                labels[decode_mask(rle)] = number
            squashed = Image.fromarray(labels.astype(np.uint16)).resize(
                (size, size), Image.Resampling.NEAREST
            )
            pixels = read_image(shared / "data" / "bsds500" / "images" / image["file_name"])
            images.append((spanning_view(pixels, size), np.array(squashed).astype(np.int64)))
    step = max(1, len(images) // limit)
    return images[::step][:limit]


def borders(labels: Labels) -> NDArray[np.bool_]:
    """Pixels whose right or lower neighbour is of another segment."""
    edges = np.zeros(labels.shape, dtype=bool)
    edges[:, :-1] |= labels[:, :-1] != labels[:, 1:]
    edges[:-1] |= labels[:-1] != labels[1:]
    return edges


def recall(reference: NDArray[np.bool_], edges: NDArray[np.bool_]) -> float:
    near = distance_transform_edt(~edges) <= TOLERANCE if edges.any() else edges
    return float(near[reference].mean()) if reference.any() else 1.0


def overlaps(labels: Labels, truth: Labels) -> Labels:
    """`(segments, regions)` pixels in common."""
    wide = int(truth.max()) + 1
    counts = np.bincount((labels * wide + truth).reshape(-1), minlength=(labels.max() + 1) * wide)
    return counts.reshape(-1, wide)


def figures(labels: Labels, truth: Labels) -> list[float]:
    """Boundary recall, borders, ASA, UE in percent; segments."""
    edges, common = borders(labels), overlaps(labels, truth)
    spilled = np.minimum(common, common.sum(axis=1, keepdims=True) - common)
    return [
        100 * recall(borders(truth), edges),
        100 * edges.mean(),
        100 * common.max(axis=1).sum() / labels.size,
        100 * spilled.sum() / labels.size,
        len(common),
    ]


def quality(shared: Path, limit: int, size: int) -> None:
    images = people(shared, limit, size)
    regions = np.mean([len(np.unique(truth)) for _, truth in images])
    print(f"\n{len(images)} images of BSDS500 at {size}, {regions:.1f} regions a person\n")
    print("| prior | segments | boundary recall | borders | ASA | UE | CPU ms |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    rows: dict[str, NDArray[np.float64]] = {}
    maps: dict[str, list[Labels]] = {}
    for name, prior in PRIORS.items():
        start = time.process_time()
        maps[name] = [segment(pixels, prior).astype(np.int64) for pixels, _ in images]
        ms = 1000 * (time.process_time() - start) / len(images)
        pairs = zip(maps[name], images, strict=True)
        rows[name] = np.array([figures(labels, truth) for labels, (_, truth) in pairs])
        recalled, near, asa, spilled, segments = rows[name].mean(axis=0)
        print(
            f"| {name} | {segments:.0f} | {recalled:.1f} | {near:.1f} | {asa:.1f} | {spilled:.1f} "
            f"| {ms:.0f} |"
        )
    plain, published = list(PRIORS)[:2]
    change = rows[plain] - rows[published]
    error = change.std(axis=0, ddof=1) / len(change) ** 0.5
    print(
        f"\nplain less normalised, mean and standard error over images: boundary recall "
        f"{change[:, 0].mean():+.2f} +- {error[0]:.2f}, ASA {change[:, 2].mean():+.2f} +- "
        f"{error[2]:.2f}, UE {change[:, 3].mean():+.2f} +- {error[3]:.2f}"
    )
    both = [figures(a, b)[0::2] for a, b in zip(maps[plain], maps[published], strict=True)]
    recalled, asa, _ = np.mean(both, axis=0)
    print(f"plain against normalised: boundary recall {recalled:.1f}, ASA {asa:.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    beside = Path(__file__).parents[2] / "shared"
    shared = os.environ.get("ANYREGION_SHARED", beside)
    parser.add_argument("--shared", type=Path, default=Path(shared))
    parser.add_argument("--photos", type=int, default=100, help="for speed (default: %(default)s)")
    parser.add_argument("--limit", type=int, default=130, help="for quality (default: all)")
    parser.add_argument("--size", type=int, default=224, help="of the views (default: %(default)s)")
    args = parser.parse_args()
    speed(args.shared / "data" / "coco" / "images", args.photos, args.size)
    quality(args.shared, args.limit, args.size)


if __name__ == "__main__":
    main()

"""A picture of the regions that a backbone's features join superpixels into.

    python benchmarks/r2o_regions.py --backbone runs/r2o --out regions.jpg
    python benchmarks/r2o_regions.py --backbone torchvision/resnet18 --size 96 --out random.jpg

By default of four photographs that come with scikit-image. As in training, but for two things: the
segments of each photograph are clustered on their own, and by the backbone that a run leaves, which
is the online network's, not the target's.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import skimage.data
import torch
from PIL import Image

from anyregion.backbones.encoder import eval_mode, normalize
from anyregion.backbones.loading import load_encoder
from anyregion.images import Pixels, read_image
from anyregion.r2o.augmentations import spanning_view
from anyregion.r2o.refinement import cluster_segments, segment_features
from anyregion.r2o.superpixels import PriorConfig, segment
from anyregion.r2o.training.monitor import region_picture
from anyregion.training.seeds import generator, seed_torch


def photographs(paths: list[Path], size: int) -> list[Pixels]:
    """Squashed to a square, as R2O sees whole images."""
    photos = [read_image(path) for path in paths]
    own = (skimage.data.coffee, skimage.data.chelsea, skimage.data.astronaut, skimage.data.rocket)
    return [spanning_view(pixels, size) for pixels in photos or [photo() for photo in own]]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("photos", type=Path, nargs="*")
    parser.add_argument("--backbone", required=True, help="a run, a folder of it, or a name")
    parser.add_argument("--out", type=Path, required=True, help="the picture")
    parser.add_argument("--size", type=int, help="side of the images (default: the backbone's)")
    parser.add_argument("--segments", type=int, default=36, help="superpixels (default: 36)")
    parser.add_argument("--regions", type=int, default=4, help="an image (default: 4)")
    parser.add_argument("--seed", type=int, default=0, help="of random weights and of k-means")
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()

    seed_torch(args.seed, "weights")
    encoder = load_encoder(args.backbone, size=args.size).to(args.device)
    photos = photographs(args.photos, encoder.size)
    prior = PriorConfig(segments=args.segments)
    labels = torch.from_numpy(np.stack([segment(p, prior).astype(np.int64) for p in photos]))
    with eval_mode(encoder):
        device = torch.device(args.device)
        images = normalize(photos, device, mean=encoder.mean, std=encoder.std)
        pooled = segment_features(encoder.intermediate(images), labels.to(device))
    draws = [generator(args.seed, "regions", number) for number in range(len(photos))]
    ids = cluster_segments(pooled, args.regions, draws, scope="image").cpu()
    regions = ids.gather(1, labels.flatten(1)).view_as(labels)
    rows = zip(photos, labels.numpy(), regions.numpy(), strict=True)
    picture = region_picture(list(rows), f"regions, K = {args.regions}")
    Image.fromarray(picture).save(args.out, quality=90)


if __name__ == "__main__":
    main()

"""A training step of RegionSpot from the store, against the frozen models on the fly.

    python benchmarks/training_step.py [--images 16] [--regions 50] [--no-sam]

B/16's sizes, random weights, one thread, CPU seconds, one run: reading or computing what is frozen,
and then the same step for all (adapter forward, sigmoid focal loss over 365 names, backward,
gradient norm, AdamW). SAM ViT-B is timed on one image with its boxes and scaled to the batch: it
does the same work for every image.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPConfig, CLIPModel, SamConfig, SamModel

from anyregion.data.features import Features
from anyregion.data.store.store import Store
from anyregion.images import read_image
from anyregion.localizers.sam import SamBackend
from anyregion.localizers.segmenter import PromptableSegmenter
from anyregion.regions import Regions
from anyregion.regionspot.adapter import Adapter, AdapterConfig
from anyregion.regionspot.extractor import RegionSpotExtractor
from anyregion.regionspot.losses import focal_losses, region_logits
from anyregion.training.optimizers import count_trainable
from anyregion.vlms.clip import ClipTower
from anyregion.vlms.preprocess import squash
from random_weights import unit_gain
from token_store import small_store

NAMES = 365
PHOTO = Path(__file__).parents[1] / "examples" / "coffee.jpg"
GOALS = {"CLIP on the fly": 4.0, "SAM and CLIP on the fly": 100.0}


class Step:
    """The part that learns, and one step of it."""

    def __init__(self, regions: int) -> None:
        torch.manual_seed(0)
        self.adapter = Adapter(AdapterConfig(feature_width=768, embed_width=512)).train()
        self.optimizer = torch.optim.AdamW(self.adapter.parameters(), lr=2.5e-5, weight_decay=1e-4)
        self.words = F.normalize(torch.randn(NAMES, 512), dim=1)
        self.regions = regions

    def __call__(self, tokens: Tensor, features: Tensor) -> None:
        labels = torch.randint(0, NAMES, tokens.shape[:2])
        embedded = self.adapter(tokens, features)
        loss = focal_losses(region_logits(embedded, self.words, 100.0), labels).mean()
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.adapter.parameters(), 1.0)
        self.optimizer.step()


def stacked(features: list[Features], name: str, rows: int | None = None) -> Tensor:
    """One array of several images as a float32 batch; to `rows` rows, the last one repeated."""
    parts = [f[name] if rows is None else np.resize(f[name], (rows, 256)) for f in features]
    return torch.from_numpy(np.stack(parts)).float()


class ClipFeatures:
    """CLIP B/16's image side as the extractor knows it; its text side plays no part here."""

    name, fingerprint = "random CLIP B/16", "random"
    image_size, feature_width, embed_width = 224, 768, 512

    def __init__(self) -> None:
        vision = {"patch_size": 16}  # the rest of B/16 is transformers' default
        config = CLIPConfig(vision_config=vision, text_config={"num_hidden_layers": 1})
        self.tower = ClipTower(unit_gain(CLIPModel(config)).requires_grad_(False), None)

    @torch.no_grad()
    def feature_map(self, images, *, antialias=True):  # type: ignore[no-untyped-def]
        from anyregion.vlms.protocol import FeatureMap

        tower = self.tower
        pixels = squash(
            images, 224, mean=tower.mean, std=tower.std, antialias=antialias, device="cpu"
        )
        return FeatureMap(tower.tokens(pixels), tower.grid)


def cpu_seconds(work: Callable[[], object], times: int) -> float:
    """The median of several goes."""
    seconds = []
    for _ in range(times):
        start = time.process_time()
        work()
        seconds.append(time.process_time() - start)
    return statistics.median(seconds)


def measure(store: Store, images: int, regions: int, *, with_sam: bool) -> None:
    """Time each part, and print sums and ratios."""
    step, rng = Step(regions), np.random.default_rng(0)

    def read() -> tuple[Tensor, Tensor]:
        rows = rng.choice(len(store), images, replace=False).tolist()
        features = [store.read(i, flipped=bool(rng.integers(2))) for i in rows]
        return stacked(features, "tokens", regions), stacked(features, "features")

    batch = read()
    step(*batch)  # AdamW makes its buffers
    reading, learning = cpu_seconds(read, 15), cpu_seconds(lambda: step(*batch), 5)
    from_store = reading + learning
    millions = count_trainable(step.adapter) / 1e6
    print(f"{images} images x {regions} regions, {millions:.1f} M parameters learn; CPU seconds")
    print(f"  reading the store             {reading:8.3f}  {100 * reading / learning:.1f} % more")
    print(f"  the step itself               {learning:8.3f}")

    clip = RegionSpotExtractor(None, ClipFeatures(), images_at_once=images)  # type: ignore[arg-type]
    none = Regions.from_boxes(np.zeros((0, 4)))
    clip.extract([read_image(PHOTO)], [none])
    seeing = cpu_seconds(
        lambda: clip.extract([read_image(PHOTO) for _ in range(images)], [none] * images), 2
    )
    print(f"  CLIP B/16 on the images       {seeing:8.3f}")
    rows = {"CLIP on the fly": seeing + learning}
    if with_sam:
        config = SamConfig(mask_decoder_config={"layer_norm_eps": 1e-5})
        model = unit_gain(SamModel(config))
        segmenter = PromptableSegmenter(SamBackend, model, name="random SAM ViT-B")
        sam = RegionSpotExtractor(segmenter)
        low = rng.uniform(0, 250, (regions, 2))
        boxes = Regions.from_boxes(np.concatenate([low, low + rng.uniform(8, 120, low.shape)], 1))
        pointing = images * cpu_seconds(lambda: sam.extract([read_image(PHOTO)], [boxes]), 1)
        print(f"  SAM ViT-B on the images       {pointing:8.3f}  one image timed, and scaled")
        rows["SAM and CLIP on the fly"] = pointing + seeing + learning
    print(f"whole step from the store       {from_store:8.3f}")
    for name, seconds in rows.items():
        print(f"{name:31} {seconds:8.3f}  ratio {seconds / from_store:.1f} (goal: {GOALS[name]:g})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--regions", type=int, default=50)
    parser.add_argument("--no-sam", action="store_true", help="leave out SAM: a minute of CPU")
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        store = small_store(Path(name), images=128, each=args.regions, maps=True, mirrored=True)
        measure(store, args.images, args.regions, with_sam=not args.no_sam)


if __name__ == "__main__":
    main()

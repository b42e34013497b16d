# %% [markdown]
# # R2O: regions grow
#
# R2O learns from images without labels. It begins with superpixels, and lets a network's own
# features join those that are alike: into 128 regions at first, into 4 at the end. What it learns
# from grows from textures to things. This shows the joining on one photograph. Needs the extra
# `train` (torch, scikit-image).

# %%
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import anyregion
from anyregion.compact.model import CompactModel
from anyregion.r2o.curriculum import CurriculumConfig, clusters_at
from anyregion.r2o.refinement import refine
from anyregion.r2o.superpixels import PriorConfig, segment

SIDE, EPOCHS = 384, 300
photo = anyregion.read_image(Path("..") / "astronaut.jpg")
view = np.asarray(Image.fromarray(photo).resize((SIDE, SIDE), Image.Resampling.BICUBIC))

# %% [markdown]
# Superpixels are computed once for a data set, from colour and place alone.

# %%
labels = segment(view, PriorConfig(segments=150))


def paint(ids: np.ndarray) -> np.ndarray:
    """The photograph with each region in its mean colour, and white lines between regions."""
    tall, wide = view.shape[:2]
    rows, columns = np.arange(tall) * ids.shape[0] // tall, np.arange(wide) * ids.shape[1] // wide
    full = ids[rows][:, columns]
    flat, count = full.ravel(), int(full.max()) + 1
    sums = np.stack([np.bincount(flat, view[..., c].ravel(), count) for c in range(3)], axis=1)
    picture = (sums / np.maximum(np.bincount(flat, minlength=count), 1)[:, None])[full]
    edges = np.zeros(full.shape, dtype=bool)
    edges[:, 1:] |= full[:, 1:] != full[:, :-1]
    edges[1:] |= full[1:] != full[:-1]
    picture[edges] = 255
    return picture.astype(np.uint8)


print(int(labels.max()) + 1, "superpixels")
Image.fromarray(np.hstack([view, paint(labels)]))

# %% [markdown]
# The curriculum: how many regions in which epoch. Most epochs are spent on small regions.

# %%
curriculum = CurriculumConfig()
steps = [0, 150, 240, 285, 300]
counts = [clusters_at(curriculum, epoch, epochs=EPOCHS) for epoch in steps]
for epoch, count in zip(steps, counts, strict=True):
    print(f"epoch {epoch}: {count} regions")

# %% [markdown]
# Whose features join them? In a pretraining they are the target network's, which knows nothing at
# first. Hours of training do not fit here, so two ends stand in for it: **above** a convolution
# with random weights, as at the start; **below** the built-in model's image encoder, which was
# trained (with labels, on ImageNet), for what features of a trained network do.

# %%
torch.manual_seed(0)
tensor = torch.from_numpy(view.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1
with torch.no_grad():
    untrained = torch.nn.Conv2d(3, 64, kernel_size=16, stride=16)(tensor)  # (1, 64, 24, 24)
maps = CompactModel().image_encoder.encode(view, long_side=SIDE).maps
trained = torch.from_numpy(maps["stride16"]).permute(2, 0, 1)[None]  # (1, 112, 24, 24)


def grown(features: torch.Tensor, clusters: int | None) -> np.ndarray:
    """The regions that superpixels are joined to, as ids, `(SIDE, SIDE)`."""
    ids = torch.from_numpy(labels.astype(np.int64))[None]
    generators = [np.random.default_rng(0)]
    regions = refine(features, ids, clusters, generators, (SIDE, SIDE), scope="image")
    return regions.masks[0].argmax(dim=0).numpy()


rows = [
    np.hstack([paint(grown(features, count)) for count in counts])
    for features in (untrained, trained)
]
Image.fromarray(np.vstack(rows)).resize((SIDE * 5 // 2, SIDE), Image.Resampling.LANCZOS)

# %% [markdown]
# At 128 there are fewer superpixels than that, so each is a region of its own. Then walls, suit and
# helmet grow together. Look twice before calling the lower row better: random weights see colour,
# and this photograph's things have colours of their own, so that at 4 regions the upper row is
# suit, background, dark things and hair, while the lower one joins flag and suit. What counts is
# whether features that are trained on such regions carry over to other tasks:
# docs/results/r2o_comparison.md measures that.
counts

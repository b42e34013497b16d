"""The monitor of a pretraining: collapse metrics and pictures of regions, of a few fixed images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from skimage.segmentation import mark_boundaries
from torch import Tensor
from torch.nn import functional

from anyregion.backbones.encoder import eval_mode, normalize
from anyregion.errors import InputError
from anyregion.images import Pixels, read_image
from anyregion.r2o.augmentations import spanning_view
from anyregion.r2o.label_store.store import LabelStore
from anyregion.r2o.method import MIN_AREA, R2O
from anyregion.r2o.refinement import (
    cell_shares,
    cluster_segments,
    count_segments,
    mask_pool,
    segment_features,
)
from anyregion.r2o.training.config import R2OConfig
from anyregion.training.seeds import generator
from anyregion.training.task import Metric

# images that the metrics are of: always the same, drawn from the training's
MONITORED_IMAGES = 256
_BATCH = 64

_GAP, _TITLE, _SIDE = 6, 18, 160  # pixels of the picture
# told apart by people who see few colours: Okabe and Ito (2008), and tints of them
_COLOURS = np.array(
    [
        (230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178),
        (213, 94, 0), (204, 121, 167), (120, 120, 120), (245, 207, 128), (170, 217, 244),
        (128, 206, 185), (247, 241, 160), (128, 184, 216), (234, 174, 128), (229, 188, 211),
    ]
) / 255  # fmt: skip
METRICS = {
    "feature_spread": Metric("how far apart the images' pooled features point, 0 to 1"),
    "feature_rank": Metric("how many dimensions they fill"),
    "projection_spread": Metric("how far apart the superpixels' projections point, 0 to 1"),
    "projection_rank": Metric("how many dimensions they fill"),
    "clusters": Metric("regions that the curriculum asks for", higher_is_better=False),
    "cluster_entropy": Metric("how evenly the superpixels share the clusters, 0 to 1"),
}


@dataclass(frozen=True, eq=False)
class _Outputs:
    """Outputs of the networks for some images: pooled features `(n, C)` of the online encoder,
    projections `(R, D)` of superpixels, unit features `(n, N, C)` of the target's superpixels."""

    features: Tensor
    projections: Tensor
    segments: Tensor


class Monitor:
    """Measures and draws a few images of the training, always the same: `seed` draws them."""

    def __init__(self, store: LabelStore, config: R2OConfig, *, seed: int) -> None:
        order = generator(seed, "looks").permutation(len(store.usable))[:MONITORED_IMAGES]
        self.store, self.images = store, store.usable[order]
        self.config, self.seed = config, seed

    @torch.no_grad()
    def metrics(self, module: R2O, clusters: int | None) -> dict[str, float]:
        """Spread and rank of features and of projections, and how evenly clusters are filled."""
        parts = [
            self._forward(module, self.images[i : i + _BATCH])
            for i in range(0, len(self.images), _BATCH)
        ]
        features = torch.cat([p.features for p in parts])
        projections = torch.cat([p.projections for p in parts])
        metrics = {
            "feature_spread": spread(features),
            "feature_rank": effective_rank(features),
            "projection_spread": spread(projections),
            "projection_rank": effective_rank(projections),
        }
        if clusters is None:
            return metrics
        # of one batch: segments are clustered by the batch, and a few thousand tell enough
        ids = self._cluster(parts[0].segments, clusters)
        return {**metrics, "clusters": clusters, "cluster_entropy": cluster_entropy(ids, clusters)}

    def advise(self, metrics: Mapping[str, float]) -> Sequence[str]:
        """Warnings of a collapse; see `advice`."""
        return advice(metrics, rows=len(self.images)) if metrics else []

    @torch.no_grad()
    def pictures(self, module: R2O, clusters: int | None) -> dict[str, Pixels]:
        """One picture: a row an image, with its superpixels and the regions that became of them."""
        if not self.config.shown:
            return {}
        images = self.images[: self.config.shown]
        labels = self._labels(images)  # (n, S, S)
        ids = labels
        if clusters is not None:
            segment_ids = self._cluster(self._forward(module, images).segments, clusters).cpu()
            ids = segment_ids.gather(1, labels.flatten(1)).view_as(labels)
        views = [self._spanning_view(i) for i in images]
        rows = zip(views, labels.numpy(), ids.numpy(), strict=True)
        title = "regions: the superpixels" if clusters is None else f"regions, K = {clusters}"
        return {"regions": region_picture(list(rows), title)}

    def _forward(self, module: R2O, images: NDArray[np.int64]) -> _Outputs:
        networks = module.networks
        device = next(module.parameters()).device
        whole = normalize(
            [self._spanning_view(i) for i in images],
            device,
            mean=networks.online.encoder.mean,
            std=networks.online.encoder.std,
            channels_last=self.config.channels_last,
        )
        labels = self._labels(images).to(device)
        with eval_mode(module):
            features = networks.online.encoder(whole).float()  # (n, C, h, w)
            # of segments, whose statistics the heads' BatchNorms track; whole images differ
            projections = networks.online.projector(_segment_rows(features, labels))  # (R, D)
            intermediate = networks.target.encoder.intermediate(whole)
        return _Outputs(
            features.mean(dim=(2, 3)), projections, segment_features(intermediate, labels)
        )

    def _cluster(self, segments: Tensor, clusters: int) -> Tensor:
        """Clusters by this process alone: scope `image` communicates with no other."""
        # the key "looks" is part of the seed: it stays, or every picture changes
        draw = [generator(self.seed, "looks", "clusters")]
        if self.config.method.scope == "image":
            draw = [generator(self.seed, "looks", "clusters", i) for i in range(len(segments))]
            return cluster_segments(segments, clusters, draw, scope="image")
        flat = segments.reshape(1, -1, segments.shape[2])
        return cluster_segments(flat, clusters, draw, scope="image").view(segments.shape[:2])

    def _labels(self, images: Sequence[int] | NDArray[np.int64]) -> Tensor:
        maps = [self.store.read(int(i)).astype(np.int64) for i in images]
        return torch.from_numpy(np.stack(maps))

    def _spanning_view(self, image: int) -> Pixels:
        return spanning_view(reread_image(self.store, int(image)), self.config.views.size)


def _segment_rows(features: Tensor, labels: Tensor) -> Tensor:
    """Mean features of the segments that an image has: `(n, C, h, w)`, `(n, S, S)` to `(R, C)`."""
    shares = cell_shares(labels, count_segments(labels), (features.shape[2], features.shape[3]))
    masks = shares.flatten(2)
    return mask_pool(features.flatten(2), masks)[masks.sum(dim=2) > MIN_AREA]


def reread_image(store: LabelStore, image: int) -> Pixels:
    """Read an image once more; `InputError` where its file changed since its map was made."""
    try:
        return read_image(store.images.path(image))
    except InputError as error:
        raise InputError(
            f"{error}. It could be read when the label maps were made. The same command goes on "
            "from the last checkpoint, without the image if it is gone"
        ) from None


def region_picture(
    rows: Sequence[tuple[Pixels, NDArray[np.integer], NDArray[np.integer]]], title: str
) -> Pixels:
    """Draw a row an image: the image, the outlines of its superpixels, its regions in colour.

    Args:
        rows: image `(S, S, 3)`, superpixels `(S, S)`, regions `(S, S)`; a region has the same
            colour in all rows, -1 none.
        title: of the third column.
    """
    width = 3 * _SIDE + 4 * _GAP
    height = _TITLE + len(rows) * (_SIDE + _GAP)
    canvas = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(canvas)
    for column, text in enumerate(("image", "superpixels", title)):
        draw.text((_GAP + column * (_SIDE + _GAP), 3), text, fill="black")
    for number, (pixels, superpixels, regions) in enumerate(rows):
        image = np.asarray(Image.fromarray(pixels).resize((_SIDE, _SIDE))) / 255
        outlines = _outlined(image, _enlarged(superpixels))
        joined = _enlarged(regions)
        for column, panel in enumerate(
            (image, outlines, _outlined(_coloured(image, joined), joined))
        ):
            corner = (_GAP + column * (_SIDE + _GAP), _TITLE + number * (_SIDE + _GAP))
            canvas.paste(Image.fromarray((panel * 255).round().astype(np.uint8)), corner)
    return np.asarray(canvas)


def _outlined(image: NDArray[np.float64], labels: NDArray[np.int64]) -> NDArray[np.float64]:
    outlined: NDArray[np.float64] = mark_boundaries(image, labels, color=(1, 1, 0))  # type: ignore[no-untyped-call]
    return outlined


def _coloured(image: NDArray[np.float64], regions: NDArray[np.int64]) -> NDArray[np.float64]:
    """Each region in its colour, the image shining through in grey."""
    grey = image.mean(axis=2, keepdims=True)
    colours = _COLOURS[regions % len(_COLOURS)]
    return np.where(regions[..., None] >= 0, 0.55 * colours + 0.45 * grey, image)


def _enlarged(labels: NDArray[np.integer]) -> NDArray[np.int64]:
    """Nearest neighbours: ids are not mixed."""
    rows = np.arange(_SIDE) * labels.shape[0] // _SIDE
    columns = np.arange(_SIDE) * labels.shape[1] // _SIDE
    enlarged: NDArray[np.int64] = labels[rows][:, columns].astype(np.int64)
    return enlarged


# projections of superpixels, in evaluation: random weights give 0.45 to 0.48, healthy runs 0.63 to
# 0.76 after some hundred steps (ResNet-18 at 64 and 96 pixels). Runs with the stop-gradient taken
# out fall below 0.1 within twenty to thirty steps
LOW_SPREAD = 0.1
# the same give 49 to 53, and 10 to 25; a point gives 1, a line at most 2. A healthy run of eight
# images and a tiny network gave 3.3
LOW_RANK = 3.0
# about what four clusters give of which one has 92 % of the segments
LOW_ENTROPY = 0.25
# fewer rows can be few directions in a healthy run, too
FEWEST_ROWS = 16
_FLOORS = (
    (
        "projection_spread",
        LOW_SPREAD,
        "the vectors are nearly one: the run collapses, and its falling loss means nothing. "
        "Lower the learning rate or warm up longer; raise the target momentum; see that the "
        "predictor learns and that no gradient reaches the target; give BatchNorm the rows of "
        "more images (a larger batch or micro-batch, or BatchNorm synchronised between processes)",
    ),
    (
        "projection_rank",
        LOW_RANK,
        "the vectors fill only a few dimensions. Raise the batch (more images and regions for "
        "BatchNorm); lower the learning rate or the weight decay; raise the target momentum; or "
        "the images are all too much alike",
    ),
    (
        "cluster_entropy",
        LOW_ENTROPY,
        "one cluster has nearly all segments, so that the regions are the whole image. If spread "
        "or rank fall too, the features collapse: lower the learning rate or raise the target "
        "momentum. Otherwise take another number of clusters or another prior, and see whether "
        "the images are plain",
    ),
)


def spread(rows: Tensor) -> float:
    """How far apart the directions of `rows` are: 0 where all are one, 1 where they are isotropic.

    The standard deviation of every dimension of the L2-normalised rows `(R, D)`, their mean times
    sqrt(D) (SimSiam, Chen and He 2021, section 4.1); NaN for fewer than two rows.
    """
    unit = functional.normalize(_checked(rows), dim=1)
    if len(unit) < 2:
        return float("nan")
    return float(unit.std(dim=0, correction=0).mean() * unit.shape[1] ** 0.5)


def effective_rank(rows: Tensor) -> float:
    """How many dimensions the directions of `rows` `(R, D)` fill: between 1 and min(R, D); 0 if all
    are zero, NaN without any, or if one is not finite.

    The exponential of the entropy of the singular values' shares (Roy and Vetterli 2007).
    """
    # of L2-normalised rows: the loss sees no more, and a few long ones would hide the others
    # (measured early in a healthy run: 3 instead of 32). Not centred: about their mean, a cloud of
    # rounding errors around one point would pass for full rank
    exact = _checked(rows)
    if not len(exact) or not bool(exact.isfinite().all()):
        return float("nan")
    sizes = torch.linalg.svdvals(functional.normalize(exact, dim=1))
    total = sizes.sum()
    if not total > 0:
        return 0.0
    return float(torch.special.entr(sizes / total).sum().exp())


def cluster_entropy(labels: Tensor, clusters: int) -> float:
    """How evenly segments share the clusters: 1 for evenly, 0 if one has them all.

    Labels outside 0 to `clusters` - 1 are left out. With one cluster, or no label, nothing is
    uneven: 1.
    """
    if clusters < 1:
        raise InputError(f"clusters must be at least 1, not {clusters}")
    valid = labels[(labels >= 0) & (labels < clusters)].long().cpu()
    if clusters == 1 or not len(valid):
        return 1.0
    shares = torch.bincount(valid, minlength=clusters).double() / len(valid)
    return float(torch.special.entr(shares).sum() / torch.tensor(float(clusters)).log())


def _checked(rows: Tensor) -> Tensor:
    if rows.ndim != 2:
        raise InputError(f"(R, D) is needed, not {tuple(rows.shape)}")
    return rows.detach().cpu().double()


def advice(metrics: Mapping[str, float], *, rows: int | None = None) -> list[str]:
    """Warnings about the metrics of one validation, each with what may help.

    Args:
        metrics: `projection_spread`, `projection_rank` (the effective one), `cluster_entropy`; one
            that is missing, or not a number, says nothing, and others are passed over.
        rows: of which spread and rank are; fewer than `FEWEST_ROWS` say nothing of collapse.
            None for enough.
    """
    # floors hold from the first step on and nothing is remembered: a continued run says what
    # one that never ended says. Only projections are judged: their head's BatchNorm keeps random
    # weights of any encoder far above the floors; features of a random ViT or ConvNeXt need not be
    few = rows is not None and rows < FEWEST_ROWS
    return [
        f"{name} is {metrics[name]:.3g}, below {floor:g}: {text}"
        for name, floor, text in _FLOORS
        if name in metrics and metrics[name] < floor and not (few and name.startswith("projection"))
    ]

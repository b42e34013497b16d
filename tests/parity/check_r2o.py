"""Compare the package with an R2O fixture: `python check_r2o.py FIXTURE_DIR`.

Every array of the fixture is computed through the package's own classes and compared. The judge
is the fixture's own: `|ours - reference| <= max(10 x floor, 1e-6 x max|reference|)`, with 1e-5
for the scalar losses; integers, flags and label maps exactly (the blur: one level); the k-means
and LARS cases to 1e-6; schedules to 1e-9. Prints the worst array; exits 1 if any is beyond, if one
of the fixture was not computed, or if the fixture lacks one.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from anyregion.backbones.encoder import normalize
from anyregion.backbones.loading import build_encoder
from anyregion.r2o.augmentations import (
    crop_and_resize,
    gaussian_blur,
    solarize,
    spanning_view,
)
from anyregion.r2o.checkpoint import from_published, published_names
from anyregion.r2o.curriculum import (
    CurriculumConfig,
    clusters_at,
    clusters_float,
    rate_scale,
    target_momentum,
)
from anyregion.r2o.method import (
    R2O,
    Comparison,
    MethodConfig,
    align_masks,
    mask_weights,
    shared_masks,
    similarity_losses,
)
from anyregion.r2o.model import Networks
from anyregion.r2o.refinement import (
    count_segments,
    mask_pool,
    published_map,
    segment_features,
    soft_masks,
)
from anyregion.r2o.superpixels import PriorConfig, segment
from anyregion.torch_utils.kmeans import Draws, kmeans, start_points
from anyregion.training.config import OptimizerConfig, ScheduleConfig
from anyregion.training.optimizers import build_optimizer, rate_factor

Array = NDArray[Any]
Named = Iterator[tuple[str, Any]]
CPU = torch.device("cpu")
STEM_NORM = "online.encoder.body.bn1.weight"


class Fixture:
    """The files of a fixture folder."""

    def __init__(self, folder: Path) -> None:
        self.config = json.loads((folder / "config.json").read_text())
        self.settings = self.config["config"]
        self.floor = json.loads((folder / "noise_floor.json").read_text())
        self.data = dict(np.load(folder / "data.npz"))
        self.outputs = dict(np.load(folder / "model_outputs.npz"))
        self.cases = dict(np.load(folder / "kmeans_and_lars.npz"))
        self.schedules = json.loads((folder / "schedules.json").read_text())
        images = np.load(folder / "images.npz")
        self.images = [images[f"image_{i}"] for i in range(len(images.files))]
        spec = importlib.util.spec_from_file_location("fixture_weights", folder / "weights.py")
        if spec is None or spec.loader is None:
            raise ValueError(f"{folder}: no weights.py")
        self._weights = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(self._weights)

    def method(self) -> R2O:
        """Networks with the fixture's weights, in training mode, as published."""
        settings, weights = self.settings, self.config["weights"]
        state, digest = self._weights.make_weights(weights["state"], settings["seed"])
        if digest != weights["sha256"]:
            raise ValueError("the fixture's weights do not have their hash")
        encoder = build_encoder(f"torchvision/{settings['backbone']}")
        networks = Networks(
            encoder, width=settings["feat_dim"], hidden=settings["hidden"], out=settings["out"]
        )
        tensors = {name: torch.from_numpy(np.array(value)) for name, value in state.items()}
        networks.load_state_dict(from_published(tensors))
        return R2O(networks, MethodConfig(published=True)).train()

    def group(self, name: str) -> dict[str, Array]:
        """The arrays of `data`, `outputs` or `cases`."""
        return {"data": self.data, "outputs": self.outputs, "cases": self.cases}[name]

    def tolerance(self, name: str, group: str) -> float:
        """How far from the reference is still the same."""
        reference = self.group(group)[name]
        if reference.dtype.kind in "iubU":
            return 1.0 if name == "augment_blur_uint8" else 0.0
        most = float(np.nanmax(np.abs(reference), initial=0))
        if group == "cases":
            return 1e-6 * max(most, 1.0)
        if group == "data":
            return 1e-6 * most
        share = 1e-5 if "loss" in name else 1e-6
        return max(10 * self.floor.get(name, {}).get("abs", 0.0), share * most)


@dataclass(frozen=True, eq=False)
class Inputs:
    """The fixture's batch as the networks take it."""

    views: Tensor
    whole: Tensor
    labels: Tensor
    boxes: Tensor
    flipped: Tensor

    @staticmethod
    def of(data: dict[str, Array]) -> Inputs:
        rois = torch.from_numpy(data["roi_transforms"])
        pixels = [*data["view1_uint8"], *data["view2_uint8"]]
        return Inputs(
            views=normalize(pixels, CPU),
            whole=normalize(list(data["raw_uint8"]), CPU),
            labels=torch.from_numpy(data["slic_labels"]),
            boxes=torch.cat([rois[:, 0, :4], rois[:, 1, :4]]),
            flipped=torch.cat([rois[:, 0, 4], rois[:, 1, 4]]) > 0,
        )


def data_arrays(fixture: Fixture) -> Named:
    """Views, superpixels, colours."""
    boxes, rois = fixture.data["crop_boxes_ijhw"], fixture.data["roi_transforms"]
    size = fixture.data["raw_uint8"].shape[1]
    for view in (0, 1):
        yield (
            f"view{view + 1}_uint8",
            np.stack(
                [
                    np.asarray(
                        crop_and_resize(
                            image, tuple(box[view].tolist()), size=size, flipped=bool(roi[view, 4])
                        )
                    )
                    for image, box, roi in zip(fixture.images, boxes, rois, strict=True)
                ]
            ),
        )
    raw = np.stack([spanning_view(image, size) for image in fixture.images])
    yield "raw_uint8", raw
    prior = PriorConfig(segments=fixture.settings["slic_segments"], normalised=True)
    yield "slic_labels", np.stack([segment(pixels, prior) for pixels in raw])
    fractions = np.zeros_like(rois)
    for number, image in enumerate(fixture.images):
        height, width = image.shape[:2]
        whole = np.array([0, 0, height, width])
        for row, (i, j, h, w) in enumerate([*boxes[number], whole]):
            box = [i / height, j / width, (i + h) / height, (j + w) / width]
            fractions[number, row] = [*box, rois[number, row, 4]]
    yield "roi_transforms", fractions
    yield "crop_boxes_ijhw", np.round(_pixel_boxes(rois[:, :2, :4], fixture.images)).astype(int)
    first = fixture.data["view1_uint8"][0]
    sigma = float(fixture.data["augment_blur_sigma"])
    yield "augment_blur_sigma", np.float64(sigma)
    yield "augment_blur_uint8", gaussian_blur(first, kernel=23, sigma=sigma)
    yield "augment_solarize_uint8", solarize(first, threshold=128)


def _pixel_boxes(fractions: Array, images: list[Array]) -> Array:
    sizes = np.array([image.shape[:2] for image in images])[:, None, [0, 1, 0, 1]]
    box = fractions * sizes
    return np.concatenate([box[..., :2], box[..., 2:] - box[..., :2]], axis=-1)


def refinement_arrays(fixture: Fixture, method: R2O, inputs: Inputs) -> Named:
    """From the target's features to the masks of each view."""
    outputs, count = fixture.outputs, fixture.settings["k"]
    with torch.no_grad():
        features = method.networks.target.encoder.intermediate(inputs.whole)
    yield "c4_features", features
    segments = count_segments(inputs.labels)
    grid = (features.shape[2], features.shape[3])
    masks = soft_masks(inputs.labels, segments, grid)
    yield "superpixel_masks_14", masks
    yield "superpixel_features", mask_pool(features.flatten(2), masks.flatten(2))
    points = segment_features(features, inputs.labels, published=True)
    flat = points.flatten(0, 1)
    yield "kmeans_input", flat
    start = torch.from_numpy(outputs["kmeans_init_centroids"])[None]
    yield "kmeans_init_centroids", _nearest(flat, start[0])
    clustered = kmeans(flat[None], count, start=start)
    yield "kmeans_labels", clustered.labels[0]
    yield "kmeans_centroids", clustered.centres[0]
    yield "kmeans_inertia", clustered.inertia[0]
    yield "kmeans_n_iter", clustered.passes[0]
    yield "kmeans_min_margin", _min_margin(flat, start, int(clustered.passes[0]))
    clusters = clustered.labels.view(points.shape[:2])
    size = (outputs["refined_label_map_56"].shape[1], outputs["refined_label_map_56"].shape[2])
    refined = published_map(inputs.labels, clusters, size)
    yield "refined_label_map_56", refined
    yield "num_segs", _distinct(refined)
    yield "refined_foreign_id_fraction", _foreign(inputs.labels, clusters, refined)
    one_hot = torch.nn.functional.one_hot(refined, count).permute(0, 3, 1, 2).float()
    yield "aligned_masks", _aligned(one_hot, inputs, method)


def _aligned(masks: Tensor, inputs: Inputs, method: R2O) -> Tensor:
    grid = method.networks.online.encoder.grid(inputs.views.shape[-1]).height_width
    parts = zip(inputs.boxes.chunk(2), inputs.flipped.chunk(2), strict=True)
    return torch.cat([align_masks(masks, box, flip, grid, published=True) for box, flip in parts])


def _nearest(points: Tensor, centres: Tensor) -> Tensor:
    """k-means++ starts from points: those nearest to the given centres."""
    return points[torch.cdist(centres.double(), points.double()).argmin(dim=1)]


def _min_margin(points: Tensor, start: Tensor, passes: int) -> Tensor:
    """The smallest gap between the best and the second-best squared distance in any pass."""
    least = []
    for done in range(passes):
        centres = start
        if done:
            centres = kmeans(points[None], start.shape[1], start=start, max_passes=done).centres
        squared = torch.cdist(points.double(), centres[0].double()).square()
        best = squared.topk(2, dim=1, largest=False).values
        least.append((best[:, 1] - best[:, 0]).min())
    return torch.stack(least).min()


def _distinct(maps: Tensor) -> Tensor:
    return torch.tensor([len(one.unique()) for one in maps]).float().mean()


def _foreign(labels: Tensor, clusters: Tensor, refined: Tensor) -> float:
    """The share of pixels whose id belongs to no segment that touches them."""
    masks = soft_masks(labels, clusters.shape[1], (refined.shape[1], refined.shape[2]))
    own = (clusters[:, :, None, None] == refined[:, None]) & (masks > 0)
    return float(1 - own.any(dim=1).float().mean())


def step_arrays(fixture: Fixture, method: R2O, inputs: Inputs) -> Named:
    """The step after the clustering: forward, target, losses, gradients, LARS, buffers."""
    networks, outputs = method.networks, fixture.outputs
    masks = torch.nn.functional.one_hot(
        torch.from_numpy(outputs["refined_label_map_56"]), fixture.settings["k"]
    )
    comparison = method.compare(
        inputs.views, masks.permute(0, 3, 1, 2).float(), inputs.boxes, inputs.flipped, 0.99
    )
    images, count = masks.shape[0], fixture.settings["k"]
    yield "online_projection", _by_image(comparison.projected, images, count)
    yield "q", _by_image(comparison.predicted, images, count)
    yield "target_z", _by_image(comparison.targets, images, count)
    yield "mean_masks_in_both_views", shared_masks(*comparison.areas).sum(dim=1).float().mean()
    losses = _losses(comparison)
    yield from losses.items()
    target = networks.target
    yield "target_stem_conv_after_ema", target.encoder.body.conv1.weight
    yield "target_projector_l2_after_ema", target.projector.output.weight
    named = published_names(networks.state_dict())
    branch = "target_network."
    target_parameters = {
        published.removeprefix(branch): networks.get_parameter(own_name)
        for own_name, published in named.items()
        if published.startswith(branch) and own_name in dict(networks.named_parameters())
    }
    yield "target_param_names", np.array(list(target_parameters))
    yield "target_param_sums_after_ema", _sums(target_parameters.values())
    yield "target_param_abs_sums_after_ema", _sums([p.abs() for p in target_parameters.values()])
    losses["loss__weight0_overlap1"].backward()
    learned = {
        named[name]: parameter
        for name, parameter in networks.named_parameters()
        if parameter.requires_grad
    }
    yield "grad_names", np.array(list(learned))
    # the figures by name, in the fixture's order
    learned = {name: learned[name] for name in outputs["grad_names"].tolist() if name in learned}
    gradients = [p.grad for p in learned.values() if p.grad is not None]
    yield "grad_norms", torch.stack([g.double().norm() for g in gradients])
    yield "grad_stem_conv", networks.online.encoder.body.conv1.weight.grad
    yield "grad_predictor_l2_weight", networks.predictor.output.weight.grad
    for branch_name, network in (("online", networks.online), ("target", networks.target)):
        norm = network.encoder.body.bn1
        yield f"{branch_name}_stem_bn_running_mean", norm.running_mean
        yield f"{branch_name}_stem_bn_running_var", norm.running_var
        yield f"{branch_name}_stem_bn_num_batches", norm.num_batches_tracked
        yield f"{branch_name}_projector_bn_running_mean", network.projector.norm.running_mean
    optimizer = build_optimizer(
        networks,
        OptimizerConfig(
            kind="lars", lr=fixture.settings["lr"], momentum=0.9, eta=1e-3, weight_decay=1e-6,
            decay_all=False, decay_also=(STEM_NORM,),
        ),
    )  # fmt: skip
    adapted = {id(p) for g in optimizer.param_groups if g["adapted"] for p in g["params"]}
    yield "lars_excluded_flags", np.array([id(p) not in adapted for p in learned.values()])
    optimizer.step()
    yield "online_param_sums_after_lars", _sums(learned.values())
    yield "online_stem_conv_after_lars", networks.online.encoder.body.conv1.weight
    yield "predictor_l2_weight_after_lars", networks.predictor.output.weight


def _by_image(rows: Tensor, images: int, count: int) -> Tensor:
    return rows.reshape(2 * images, count, rows.shape[-1])


def _losses(comparison: Comparison) -> dict[str, Tensor]:
    losses = torch.stack(
        [
            similarity_losses(p, w)
            for p, w in zip(comparison.predicted, comparison.targets, strict=True)
        ]
    ).mean(dim=0)
    named = {}
    for by_area in (False, True):
        for shared_only in (False, True):
            weights = mask_weights(
                *comparison.areas, by_area=by_area, shared_only=shared_only
            ).flatten()
            name = f"loss__weight{int(by_area)}_overlap{int(shared_only)}"
            named[name] = (losses * weights).sum() / weights.sum()
    return named


def _sums(parameters: Any) -> Tensor:
    return torch.stack([p.detach().double().sum() for p in parameters])


def no_clustering_arrays(fixture: Fixture, inputs: Inputs) -> Named:
    """The segments are the regions; fresh weights; through `R2O.forward` as training calls it."""
    method = fixture.method()
    regions = method.find_regions(inputs.whole, inputs.labels, None, [0])
    images, count = regions.masks.shape[:2]
    size = (regions.masks.shape[2], regions.masks.shape[3])
    winner = soft_masks(inputs.labels, count, size).argmax(dim=1)
    yield "sliconly_label_map_56", winner
    yield "sliconly_num_segs", _distinct(winner)
    yield "sliconly_aligned_masks", _aligned(regions.masks, inputs, method)
    comparison = method.compare(inputs.views, regions.masks, inputs.boxes, inputs.flipped, 0.99)
    yield "sliconly_q", _by_image(comparison.predicted, images, count)
    yield "sliconly_target_z", _by_image(comparison.targets, images, count)
    shared = shared_masks(*comparison.areas).sum(dim=1).float().mean()
    yield "sliconly_mean_masks_in_both_views", shared
    losses = fixture.method()(
        inputs.views, inputs.whole, inputs.labels, inputs.boxes, inputs.flipped,
        clusters=None, seeds=[0], momentum=0.99,
    )  # fmt: skip
    yield "sliconly_loss", losses["loss"].mean()


def kmeans_cases(fixture: Fixture) -> Named:
    """k-means on given points; the published collapse, which must not happen here."""
    cases = fixture.cases
    points = torch.from_numpy(cases["kmeans_case_x"])[None]
    start = torch.from_numpy(cases["kmeans_case_init"])[None]
    yield "kmeans_case_x", points[0]
    yield "kmeans_case_init", start[0]
    limit = "kmeans_case_labels_maxiter"
    for passes in [int(name.removeprefix(limit)) for name in cases if name.startswith(limit)]:
        clustered = kmeans(points, start.shape[1], start=start, max_passes=passes)
        yield f"kmeans_case_labels_maxiter{passes}", clustered.labels[0]
        yield f"kmeans_case_centroids_maxiter{passes}", clustered.centres[0]
        yield f"kmeans_case_n_iter_maxiter{passes}", clustered.passes[0]
    count = len(cases["kpp_case_chosen_index"])
    trials = 2 + int(np.log(count))
    torch.manual_seed(int(cases["kpp_case_seed"]))
    yield "kpp_case_seed", cases["kpp_case_seed"]
    first = (torch.randint(points.shape[1], (1,)).double() + 0.5) / points.shape[1]
    uniform = torch.stack([torch.rand(trials) for _ in range(count - 1)])
    chosen = start_points(points, count, draws=Draws(first, uniform[None].double()))
    yield "kpp_case_chosen_index", chosen[0]
    yield "kpp_case_centroids", points[0, chosen[0]]
    start = torch.from_numpy(cases["empty_case_init"])[None]
    yield "empty_case_init", start[0]
    clustered = kmeans(points, start.shape[1], start=start)
    if (
        not bool(clustered.centres.isfinite().all())
        or len(clustered.labels.unique()) != start.shape[1]
    ):
        raise ValueError("an empty cluster was not re-seeded")
    # what the published code makes of it: NaN, and every point in one cluster
    published_collapse = {"empty_case_labels", "empty_case_centroids", "empty_case_n_iter"}
    for name in sorted(published_collapse):
        yield name, cases[name]


def lars_cases(fixture: Fixture) -> Named:
    """Steps of LARS on given gradients."""
    cases = fixture.cases
    listed = [name.removeprefix("lars_") for name in cases if name.startswith("lars_")]
    tensors = [name.removesuffix("_start") for name in listed if name.endswith("_start")]
    starts = {name: torch.from_numpy(cases[f"lars_{name}_start"]) for name in tensors}
    module = nn.ParameterDict({f"case_{n}": nn.Parameter(s.clone()) for n, s in starts.items()})
    parameters = {name: module[f"case_{name}"] for name in tensors}
    config = OptimizerConfig(
        kind="lars", lr=1.0, decay_all=False,
        momentum=float(cases["lars_momentum"]), eta=float(cases["lars_eta"]),
        weight_decay=float(cases["lars_weight_decay"]),
    )  # fmt: skip
    for name in ("lars_lrs", "lars_weight_decay", "lars_momentum", "lars_eta"):
        yield name, cases[name]
    optimizer = build_optimizer(module, config)
    for name, parameter in parameters.items():
        yield f"lars_{name}_start", parameter.detach().clone()
    for step, lr in enumerate(cases["lars_lrs"]):
        for group in optimizer.param_groups:
            group["lr"] = float(lr)
        for name, parameter in parameters.items():
            gradient = cases[f"lars_{name}_grad{step}"]
            parameter.grad = torch.from_numpy(gradient.copy())
            yield f"lars_{name}_grad{step}", parameter.grad
        optimizer.step()
        for name, parameter in parameters.items():
            yield f"lars_{name}_after{step}", parameter.detach().clone()


def schedule_differences(fixture: Fixture) -> float:
    """The largest relative difference of any schedule's value."""
    worst = 0.0
    for case in fixture.schedules["cluster_schedules"]:
        about = case["config"]
        config = CurriculumConfig(about["type"], tuple(about["epochs"]), tuple(about["values"]))
        rows = zip(case["epochs"], case["k_float"], case["num_segments"], strict=True)
        for epoch, value, count in rows:
            worst = max(worst, _relative(clusters_float(config, epoch), value))
            clusters = clusters_at(config, epoch)
            worst = max(worst, _relative(9999 if clusters is None else clusters, count))
    for case in fixture.schedules["lr_and_momentum"]:
        steps, warmup = case["total_steps"], case["warmup_steps"]
        kind = case["lr_type"]
        schedule = ScheduleConfig(kind="cosine", warmup_steps=warmup, warmup_from=0.0)
        if kind != "cosine":
            schedule = ScheduleConfig(
                kind="step", warmup_steps=warmup, warmup_from=0.0,
                milestones=(int(np.ceil(0.96 * steps)),),
            )  # fmt: skip
        for step, count, rate, momentum in case["rows"]:
            per = case["scale_lr_by_k"] or None
            factor = rate_factor(schedule, step, steps) * rate_scale(count, per=per, most=None)
            worst = max(worst, _relative(case["max_lr"] * factor, rate))
            own_momentum = target_momentum(step, steps, case["base_momentum"])
            worst = max(worst, _relative(own_momentum, momentum))
    return worst


def _relative(value: float, reference: float) -> float:
    return abs(value - reference) / max(abs(reference), 1.0)


def compare(fixture: Fixture, name: str, value: Any, group: str = "outputs") -> float:
    """The difference over what is allowed: at most 1 is the same."""
    reference = fixture.group(group)[name]
    result = value.detach().numpy() if isinstance(value, Tensor) else np.asarray(value)
    if reference.dtype.kind in "U":
        return 0.0 if result.tolist() == reference.tolist() else float("inf")
    if result.shape != reference.shape:
        return float("inf")
    both = np.isnan(reference.astype(float)) & np.isnan(result.astype(float))
    difference = np.abs(result.astype(float) - reference.astype(float))[~both]
    most = float(difference.max(initial=0))
    allowed = fixture.tolerance(name, group)
    if not np.isfinite(most):
        return float("inf")
    return most / allowed if allowed else (0.0 if most == 0 else float("inf"))


def main(folder: Path) -> int:
    """Compare everything; print the worst; 0 if it is within tolerance."""
    fixture = Fixture(folder)
    inputs = Inputs.of(fixture.data)
    method = fixture.method()
    ratios: dict[tuple[str, str], float] = {}
    lacking: list[str] = []
    parts = (
        ("data", data_arrays(fixture)),
        ("outputs", refinement_arrays(fixture, method, inputs)),
        ("outputs", step_arrays(fixture, method, inputs)),
        ("outputs", no_clustering_arrays(fixture, inputs)),
        ("cases", kmeans_cases(fixture)),
        ("cases", lars_cases(fixture)),
    )
    for group, arrays in parts:
        for name, value in arrays:
            if name in fixture.group(group):
                ratios[group, name] = compare(fixture, name, value, group)
            else:
                lacking.append(name)
    everything = {("data", n) for n in fixture.data} | {("outputs", n) for n in fixture.outputs}
    missing = (everything | {("cases", n) for n in fixture.cases}) - ratios.keys()
    schedules = schedule_differences(fixture)
    bad = {name: ratio for (_, name), ratio in ratios.items() if not ratio <= 1}
    for name, ratio in sorted(bad.items(), key=lambda pair: -pair[1]):
        print(f"beyond tolerance: {name}, {ratio:.3g} times what is allowed")
    if missing:
        print(f"not computed: {', '.join(sorted(name for _, name in missing))}")
    if lacking:
        print(f"not in the fixture: {', '.join(lacking)}")
    (_, worst), ratio = max(ratios.items(), key=lambda pair: pair[1])
    print(f"{len(ratios)} arrays; worst array {worst}: {ratio:.3g} of what is allowed")
    print(f"schedules: {schedules:.3g} (allowed 1e-9)")
    return 1 if bad or missing or lacking or not schedules <= 1e-9 else 0


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    torch.set_num_threads(1)
    sys.exit(main(Path(sys.argv[1])))

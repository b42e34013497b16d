"""Pictures and regions to ask about, and the answers of a plain forward pass."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from anyregion.localizers.frame import mask_to_logits
from anyregion.localizers.segmenter import PromptableSegmenter
from anyregion.regions import Regions

PORTRAIT, LANDSCAPE = (45, 31), (40, 64)


def photo(size: tuple[int, int], seed: int = 0) -> Any:
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (5, 4, 3)).astype(np.uint8)
    rows = np.arange(size[0]) * 5 // size[0]
    columns = np.arange(size[1]) * 4 // size[1]
    return coarse[rows][:, columns]


def regions_of(
    prompt: str, size: tuple[int, int], low_side: int, count: int = 3, seed: int = 1
) -> Regions:
    """`count` regions, each with the parts that `prompt` names."""
    height, width = size
    rng = np.random.default_rng(seed)
    low = rng.uniform(0, 0.5, (count, 2)) * [width, height]
    high = low + rng.uniform(0.2, 0.45, (count, 2)) * [width, height]
    parts = prompt.split("+")
    points = {"point": 1, "points": 3}
    number = next((points[p] for p in parts if p in points), 0)
    masks = []
    for (x0, y0), (x1, y1) in zip(low.astype(int), np.ceil(high).astype(int), strict=True):
        mask = np.zeros(size, dtype=bool)
        mask[y0:y1, x0:x1] = True
        mask[y0, x0] = False
        masks.append(mask)
    logits = [rng.normal(0, 4, (low_side, low_side)).astype(np.float32) for _ in masks]
    return Regions.from_prompts(
        boxes=np.concatenate([low, high], axis=1)
        if "box" in parts
        else np.full((count, 4), np.nan),
        points=[rng.uniform(0, 1, (number, 2)) * [width, height] for _ in masks],
        point_labels=[np.array([1, 0, 1][:number]) for _ in masks],
        masks=masks if "mask" in parts else None,
        mask_logits=logits if "logits" in parts else None,
    )


@torch.no_grad()
def reference_outputs(
    localizer: PromptableSegmenter, image: Any, regions: Regions, *, multimask: bool
) -> tuple[Any, Any, Any]:
    """Tokens, masks and scores by the model's own forward pass, one region at a time."""
    backend, model = localizer.backend, localizer.backend.model
    pixels, frame = backend.preprocess(image)
    pixels = pixels[None]
    caught: list[Any] = []
    hooks = [
        model.mask_decoder.transformer.register_forward_hook(
            lambda _module, _inputs, output: caught.append((output[0][0, 0], output[1]))
        )
    ]
    if hasattr(model.mask_decoder, "hq_token"):
        # transformers (5.23) drops the image side of SAM-HQ's two-way transformer and upscales the
        # embedding of before, height and width exchanged; the published model upscales that side
        grid = localizer.low_side // 4
        hooks.append(
            model.mask_decoder.upscale_conv1.register_forward_pre_hook(
                lambda *_: caught[-1][1][:, 0].transpose(1, 2).unflatten(2, (grid, grid))
            )
        )
    tokens, logits, scores = [], [], []
    scale = np.array([frame.inside[1] / frame.size[1], frame.inside[0] / frame.size[0]])
    for row in range(len(regions)):
        inputs: dict[str, Any] = {}
        box, points = regions.boxes[row], regions.points[row]
        if regions.mask_logits[row] is not None:
            inputs["input_masks"] = torch.tensor(regions.mask_logits[row])[None, None]
        elif regions.masks[row] is not None:
            mask = regions.mask(row)
            inputs["input_masks"] = mask_to_logits(mask, frame, localizer.low_side)[None, None]
            if np.isnan(box).any() and not len(points):
                y, x = np.nonzero(mask)
                box = np.array([x.min(), y.min(), x.max() + 1, y.max() + 1], dtype=np.float64)
        if np.isfinite(box).all():
            inputs["input_boxes"] = torch.tensor(
                (box.reshape(2, 2) * scale).reshape(1, 1, 4)
            ).float()
        if len(points):
            inputs["input_points"] = torch.tensor(points * scale)[None, None].float()
            inputs["input_labels"] = torch.tensor(regions.point_labels[row])[None, None]
        out = model(pixel_values=pixels, multimask_output=multimask, **inputs)
        rows = slice(1, 4) if multimask else slice(0, 1)
        tokens.append(caught[-1][0][backend.mask_row : backend.mask_row + 4][rows])
        logits.append(out.pred_masks[0, 0])
        scores.append(out.iou_scores[0, 0])
    for hook in hooks:
        hook.remove()
    return torch.stack(tokens), torch.stack(logits), torch.stack(scores)


def close(values: Any, reference: Any, tolerance: float = 2e-5) -> None:
    assert values.shape == reference.shape
    limit = tolerance * max(1.0, float(reference.abs().max()))
    assert float((values - reference).abs().max()) <= limit

"""`evaluate masks`: prompts, the comparison, faults."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from anyregion import Recognizer, Regions
from anyregion.baselines.crop import prompt_masks
from anyregion.cli.main import main
from anyregion.errors import InputError
from anyregion.evaluation.regions.mask_quality import evaluate_masks
from anyregion.masks import encode_mask
from anyregion.region_encoder import RegionEmbeddings
from tests.helpers.halves import edit


class Masks:
    """Gives the filled box, or for a point the left half of the image; remembers what was asked."""

    name, logit_scale, logit_bias, default_score = "masks", 1.0, 0.0, "softmax"
    text: Any = None
    fingerprint = "masks"

    def __init__(self, *, masks: bool = True) -> None:
        self.prompts: list[Regions] = []
        self.masks = masks

    def encode_images(self, images: Sequence[Any]) -> list[tuple[int, int]]:
        return [image.shape[:2] for image in images]

    def embed_regions(
        self, encoded: Any, regions: Sequence[Regions], **options: Any
    ) -> list[RegionEmbeddings]:
        assert options == {"masks": True}
        self.prompts += regions
        half = np.zeros((30, 40), dtype=bool)
        half[:, :20] = True
        embeddings = []
        for size, r in zip(encoded, regions, strict=True):
            codes = (
                prompt_masks(r, size)
                if np.isfinite(r.boxes).all()
                else (encode_mask(half),) * len(r)
            )
            embeddings.append(
                RegionEmbeddings(
                    embeddings=np.zeros((len(r), 1), dtype=np.float32),
                    boxes=r.extents(size),
                    masks=codes if self.masks else None,
                    mask_scores=np.linspace(0.9, 0.1, len(r), dtype=np.float32),
                )
            )
        return embeddings


def test_boxes(annotated: tuple[Path, Path]) -> None:
    report = evaluate_masks(Recognizer(Masks(), cache=None), *annotated)
    assert (report.mean_iou, report.box_iou, report.above_half) == (1, 1, 1)
    assert (report.regions, report.images) == (8, 4)
    assert report.by_size == {"small": 1}
    assert report.auroc is None


def test_points(annotated: tuple[Path, Path]) -> None:
    masks = Masks()
    report = evaluate_masks(Recognizer(masks, cache=None), *annotated, prompt="point")
    assert report.mean_iou == 0.5, "every left half is right"
    assert report.mask_box_iou == 0.5
    assert report.above_half == 0.5
    assert report.box_iou is None
    assert report.auroc == 1, "the left half comes first, and has the higher score"
    for regions in masks.prompts:
        (left,), (right,) = (p[0] for p in zip(regions.points, strict=True))
        assert left[0] < 20 <= right[0]
    again, other = Masks(), Masks()
    evaluate_masks(Recognizer(again, cache=None), *annotated, prompt="point")
    evaluate_masks(Recognizer(other, cache=None), *annotated, prompt="point", seed=1)
    points = [[p.tolist() for r in m.prompts for p in r.points] for m in (masks, again, other)]
    assert points[0] == points[1] != points[2]


def test_a_polygon_against_its_box(annotated: tuple[Path, Path]) -> None:
    def triangle(content: dict[str, Any]) -> None:
        content["annotations"] = content["annotations"][:1]
        content["annotations"][0]["segmentation"] = [[0, 0, 20, 0, 0, 30]]

    edit(annotated[0], triangle)
    report = evaluate_masks(Recognizer(Masks(), cache=None), *annotated)
    assert report.mean_iou == pytest.approx(0.5, abs=0.03)
    assert report.box_iou == report.mean_iou


def test_faults(annotated: tuple[Path, Path]) -> None:
    with pytest.raises(InputError, match="masks makes no masks"):
        evaluate_masks(Recognizer(Masks(masks=False), cache=None), *annotated)
    with pytest.raises(InputError, match="prompt must be"):
        evaluate_masks(Recognizer(Masks(), cache=None), *annotated, prompt="word")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="seed must not be negative"):
        evaluate_masks(Recognizer(Masks(), cache=None), *annotated, prompt="point", seed=-1)
    (annotated[1] / "1.png").unlink()
    report = evaluate_masks(Recognizer(Masks(), cache=None), *annotated)
    assert report.images == 3
    assert "1.png" in report.set_aside[0].item

    def bare(content: dict[str, Any]) -> None:
        for annotation in content["annotations"]:
            annotation["segmentation"] = []

    edit(annotated[0], bare)
    with pytest.raises(InputError, match="no region has a mask"):
        evaluate_masks(Recognizer(Masks(), cache=None), *annotated)


def test_command(
    annotated: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    loaded: list[dict[str, Any]] = []

    def load(**choice: Any) -> Recognizer:
        loaded.append(choice)
        return Recognizer(Masks(), cache=None)

    monkeypatch.setattr("anyregion.factory.load_recognizer", load)
    where = ["--annotations", str(annotated[0]), "--images", str(annotated[1])]
    assert main(["evaluate", "masks", *where, "--prompt", "point", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["mean_iou"] == 0.5
    assert main(["evaluate", "masks", *where]) == 0
    assert "mean IoU" in capsys.readouterr().out
    assert loaded[0]["model"] == "compact"

"""`evaluate discovery`: partitions, their comparison, the whole way on images in two colours."""

from __future__ import annotations

import json
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch")
pytest.importorskip("torchvision")
pytest.importorskip("scipy")

from anyregion.cli.main import main  # noqa: E402
from anyregion.errors import InputError  # noqa: E402
from anyregion.evaluation.backbones.discovery import (  # noqa: E402
    DiscoveryOptions,
    cluster,
    evaluate_discovery,
)
from anyregion.evaluation.backbones.features import open_backbone  # noqa: E402
from anyregion.evaluation.backbones.segmentation_datasets import (  # noqa: E402
    open_segmentation_dataset,
)
from anyregion.evaluation.backbones.segmentation_overlap import (  # noqa: E402
    border_prior,
    centred_box,
    foreground_ious,
    grid_partition,
    match_segments,
    resize_partition,
    segment_ious,
)
from tests.helpers.colour_backbone import colour_backbone  # noqa: E402
from tests.helpers.halves import edit  # noqa: E402
from tests.helpers.shared import SHARED, needs_shared  # noqa: E402


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.mark.parametrize("background", [False, True])
def test_overlaps_one_by_one(background: bool) -> None:
    draw = np.random.default_rng(0)
    truth = draw.integers(-1, 4, (13, 17)).astype(np.int32)
    truth[truth == 2] = 9  # numbers may have holes
    parts = draw.integers(0, 5, (13, 17))
    inside = truth >= 0
    numbers = [0, 1, 3, 9] if background else [1, 3, 9]
    expected = [
        [
            ((truth == s) & (parts == p)).sum() / (((truth == s) | (parts == p)) & inside).sum()
            for p in range(5)
        ]
        for s in numbers
    ]
    assert np.allclose(segment_ious(truth, parts, background=background), expected)


@pytest.mark.parametrize("shape", [(3, 5), (4, 4), (5, 3), (1, 4)])
def test_hungarian_finds_the_largest_sum(shape: tuple[int, int]) -> None:
    iou = np.random.default_rng(shape[0]).random(shape)
    segments, parts = shape
    if segments <= parts:
        best = max(iou[range(segments), p].sum() for p in permutations(range(parts), segments))
    else:
        best = max(iou[s, range(parts)].sum() for s in permutations(range(segments), parts))
    result = match_segments(iou, "hungarian")
    assert result.sum() == pytest.approx(best)
    assert (result == 0).sum() == max(segments - parts, 0)
    assert np.array_equal(match_segments(iou, "best"), iou.max(axis=1))


def test_hungarian_gives_a_part_away_once() -> None:
    iou = np.array([[0.9, 0.1], [0.8, 0.0]])
    assert match_segments(iou, "hungarian").tolist() in ([0.9, 0.0], [0.1, 0.8])
    assert match_segments(iou, "best").tolist() == [0.9, 0.8]


@pytest.mark.parametrize("k", [1, 2, 3, 5, 7, 12])
@pytest.mark.parametrize("size", [(420, 840), (840, 420)])
def test_grid(k: int, size: tuple[int, int]) -> None:
    areas = np.bincount(grid_partition(size, k).reshape(-1))
    assert len(areas) == k
    assert areas / areas.mean() == pytest.approx(np.ones(k), abs=0.02)


def test_grid_of_four_is_two_by_two() -> None:
    expected = np.kron([[0, 1], [2, 3]], np.ones((3, 3), dtype=np.int64))
    assert np.array_equal(grid_partition((6, 6), 4), expected)


def test_border() -> None:
    parts = np.zeros((10, 10), dtype=np.int64)
    parts[3:9, 3:9] = 1
    assert np.array_equal(border_prior(parts), parts == 1)
    assert np.array_equal(border_prior(1 - parts), parts == 1)
    parts[0, :6] = 1
    assert np.array_equal(border_prior(parts), parts == 1), "it still holds less of it"
    parts[:] = 0
    assert not border_prior(parts).any(), "an empty part holds nothing"
    assert resize_partition(np.array([[0, 1]]), (2, 4)).tolist() == [[0, 0, 1, 1]] * 2


def test_foregrounds() -> None:
    truth = np.array([[1, 2, 0, 0, -1]], dtype=np.int32)
    foreground = np.array([[True, False, True, False, True]])
    assert foreground_ious(truth, foreground) == (pytest.approx(1 / 3), pytest.approx(1 / 3))
    assert foreground_ious(np.ones((2, 2), dtype=np.int32), np.ones((2, 2), dtype=bool)) == (1, 1)
    box = centred_box((100, 200))
    assert box.mean() == pytest.approx(0.5, abs=0.02)
    assert np.array_equal(box, box[::-1, ::-1])


# --- the whole way -----------------------------------------------------------------------------


def test_two_colours(annotated: tuple[Path, Path]) -> None:
    report = evaluate_discovery(colour_backbone(), open_segmentation_dataset(*annotated))
    assert report.figures["mean_iou"] > 0.9
    assert report.baselines["grid"] == {"mean_iou": 1, "segment_iou": 1}, "halves are halves"
    assert report.baselines["whole"] == {"mean_iou": 0.25, "segment_iou": 0.25}
    assert (report.images, report.segments, report.mean_k, report.options.k) == (4, 8, 2, None)
    best = evaluate_discovery(
        colour_backbone(), open_segmentation_dataset(*annotated), DiscoveryOptions(match="best")
    )
    assert best.baselines["whole"]["mean_iou"] == 0.5
    three = evaluate_discovery(
        colour_backbone(), open_segmentation_dataset(*annotated), DiscoveryOptions(k=3)
    )
    assert three.mean_k == 3
    one = evaluate_discovery(
        colour_backbone(), open_segmentation_dataset(*annotated), DiscoveryOptions(k=1)
    )
    assert one.figures == one.baselines["whole"]


def test_the_background_is_counted_only_on_demand(annotated: tuple[Path, Path]) -> None:
    def left_only(content: dict[str, Any]) -> None:
        content["annotations"] = content["annotations"][::2]

    edit(annotated[0], left_only)
    report = evaluate_discovery(colour_backbone(), open_segmentation_dataset(*annotated))
    assert (report.segments, report.mean_k) == (4, 2), "a cluster for the background all the same"
    assert report.figures["mean_iou"] > 0.9
    counted = evaluate_discovery(
        colour_backbone(),
        open_segmentation_dataset(*annotated),
        DiscoveryOptions(count_background=True),
    )
    assert (counted.segments, counted.mean_k) == (8, 2)


def test_answers_follow_from_seed_and_name_alone(annotated: tuple[Path, Path]) -> None:
    features = torch.from_numpy(np.random.default_rng(0).normal(size=(8, 7, 7))).float()
    options: dict[str, Any] = {"resolution": 28, "seed": 0, "name": "a.jpg"}
    first = cluster(features, 4, **options)
    assert first.shape == (28, 28)
    assert np.array_equal(first, cluster(features, 4, **options))
    others = [
        cluster(features, 4, **{**options, **change}) for change in ({"seed": 1}, {"name": "b.jpg"})
    ]
    assert not all(np.array_equal(first, other) for other in others)
    backbone, data = colour_backbone(), open_segmentation_dataset(*annotated)
    whole = evaluate_discovery(backbone, data, DiscoveryOptions(layer="last", k=3), batch_size=4)
    single = evaluate_discovery(backbone, data, DiscoveryOptions(layer="last", k=3), batch_size=1)
    assert whole.figures == single.figures


def test_a_map_of_one_cell_is_one_cluster(annotated: tuple[Path, Path]) -> None:
    backbone = open_backbone("torchvision/resnet18", size=32)
    report = evaluate_discovery(
        backbone, open_segmentation_dataset(*annotated), DiscoveryOptions(layer="last")
    )
    assert report.figures == report.baselines["whole"]


def test_foreground(tmp_path: Path) -> None:
    maps, images = tmp_path / "maps", tmp_path / "images"
    for folder in (maps, images):
        (folder / "deep").mkdir(parents=True)
    pixels = np.full((64, 64, 3), (20, 20, 220), dtype=np.uint8)
    values = np.zeros((64, 64), dtype=np.uint8)
    pixels[16:40, 20:52] = (220, 20, 20)
    values[16:28, 20:52], values[28:40, 20:52] = 3, 5
    Image.fromarray(pixels).save(images / "deep" / "a.png")
    Image.fromarray(values).save(maps / "deep" / "a.png")
    data = open_segmentation_dataset(maps, images, background=0)
    assert [s.name for s in data.images] == ["deep/a"]
    report = evaluate_discovery(colour_backbone(size=64), data, DiscoveryOptions(foreground=True))
    assert report.figures["foreground_iou"] > 0.85
    assert report.figures["background_iou"] > 0.95
    assert report.baselines["whole"]["foreground_iou"] == pytest.approx(24 * 32 / 64**2)
    assert report.baselines["whole"]["background_iou"] == 0
    assert (report.options.k, report.segments) == (2, 2)


def test_faults(annotated: tuple[Path, Path]) -> None:
    data, backbone = open_segmentation_dataset(*annotated), colour_backbone()
    options: dict[str, Any]
    for options in ({"k": 0}, {"k": 57**2}, {"resolution": 1}, {"seed": -1}):
        with pytest.raises(InputError, match="must"):
            DiscoveryOptions(**options)
    for options in ({"limit": 0}, {"batch_size": 0}):
        with pytest.raises(InputError, match="must"):
            evaluate_discovery(backbone, data, **options)
    (annotated[1] / "1.png").write_bytes(b"")
    report = evaluate_discovery(backbone, open_segmentation_dataset(*annotated))
    assert report.images == 3
    assert "1.png" in report.set_aside[0].item
    for path in annotated[1].iterdir():
        path.write_bytes(b"")
    with pytest.raises(InputError, match=r"nothing to judge: .*set aside"):
        evaluate_discovery(backbone, open_segmentation_dataset(*annotated))


def test_an_image_of_one_colour(tmp_path: Path) -> None:
    """Fewer distinct vectors than clusters: a rule, not an error."""
    for name in ("maps", "images"):
        (tmp_path / name).mkdir()
    Image.new("RGB", (40, 40), "red").save(tmp_path / "images" / "a.jpg")
    values = np.repeat(np.arange(4, dtype=np.uint8), 10)[:, None].repeat(40, axis=1)
    Image.fromarray(values).save(tmp_path / "maps" / "a.png")
    data = open_segmentation_dataset(tmp_path / "maps", tmp_path / "images")
    report = evaluate_discovery(colour_backbone(), data)
    assert report.figures["mean_iou"] == pytest.approx(0.25 / 4)
    result = evaluate_discovery(
        colour_backbone(),
        open_segmentation_dataset(tmp_path / "maps", tmp_path / "images", background=0),
        DiscoveryOptions(foreground=True),
    )
    assert result.figures["foreground_iou"] == 0, "no cluster is away from the border"


def test_command(annotated: tuple[Path, Path], capsys: Any) -> None:
    where = [*map(str, annotated), "--backbone", "torchvision/resnet18", "--size", "32"]
    assert main(["evaluate", "discovery", *where, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["baselines"]["grid"]["mean_iou"] == 1
    assert main(["evaluate", "discovery", *where, "--foreground", "--layer", "last"]) == 0
    printed = capsys.readouterr().out
    assert "whole" in printed
    assert "background" in printed
    assert main(["evaluate", "discovery", *where, "--foreground", "--k", "3"]) == 1
    assert "two clusters" in capsys.readouterr().err
    assert main(["evaluate", "discovery", *where, "--void", "0"]) == 1
    assert "label maps" in capsys.readouterr().err


@needs_shared
@pytest.mark.parametrize(
    ("annotations", "images", "options"),
    [
        ("coco/annotations/instances_val_masks.json", "coco/images", {}),
        ("bsds500/annotations/regions_val.json", "bsds500/images", {}),
        ("ccp/label_maps", "ccp/images", {"background": 0}),
        ("camvid/label_maps", "camvid/images", {}),
    ],
)
def test_photographs(annotations: str, images: str, options: dict[str, int]) -> None:
    folder = SHARED / "data"
    data = open_segmentation_dataset(folder / annotations, folder / images, **options)  # type: ignore[arg-type]
    assert not data.set_aside
    report = evaluate_discovery(
        colour_backbone(size=64),
        data,
        DiscoveryOptions(resolution=24, match="best"),
        limit=4,
    )
    assert not report.set_aside
    assert report.images == 4
    assert report.segments > 8
    assert report.figures["mean_iou"] > report.baselines["whole"]["mean_iou"]
